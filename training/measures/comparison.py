"""Recipes side by side, each judged on validation texts of the same corpora."""

from dataclasses import dataclass

import numpy as np
from tabulate import tabulate

NAME = "comparison"  # of the file
FIGURES = ("macro_f1", "auroc")


@dataclass(frozen=True)
class Judged:
    """Figures on the `n` validation texts of a corpus, the mean over the seeds."""

    n: int
    macro_f1: float
    auroc: float | None


@dataclass(frozen=True)
class Comparison:
    """For each recipe and each of the `corpora`, its figures where that corpus was `left_out` of the
    training, or else was its first one."""

    corpora: list[str]
    recipes: dict[str, dict[str, Judged]]
    left_out: bool = True
    seeds: int = 1

    def mean(self, recipe: str, figure: str = "macro_f1") -> float:
        found = [getattr(judged, figure) for judged in self.recipes[recipe].values()]
        return float(np.mean([np.nan if value is None else value for value in found]))

    @property
    def ranked(self) -> list[str]:
        """Recipes, best first: the first, of the highest mean macro-F1, is the one to take."""
        return sorted(self.recipes, key=lambda name: -self.mean(name))

    @property
    def best(self) -> dict[str, float]:
        """For each corpus the highest macro-F1 of any recipe: known only in hindsight."""
        return {
            corpus: max(judged[corpus].macro_f1 for judged in self.recipes.values())
            for corpus in self.corpora
        }

    @property
    def regret(self) -> float:
        """How much the recipe that is taken loses, on average, to the best of each corpus."""
        return float(np.mean(list(self.best.values()))) - self.mean(self.ranked[0])


def table(found: Comparison) -> str:
    """Macro-F1 and AUROC by recipe, best first, and corpus left out, as Markdown."""
    rows = [
        [
            name,
            *(
                " ".join(_figure(getattr(judged[corpus], figure)) for figure in FIGURES)
                for corpus in found.corpora
            ),
            *(_figure(found.mean(name, figure)) for figure in FIGURES),
        ]
        for name, judged in ((name, found.recipes[name]) for name in found.ranked)
    ]
    means = ["mean macro-F1", "mean AUROC"]
    if len(found.corpora) == 1:
        rows, means = [row[:2] for row in rows], []
    else:
        best = [found.best[corpus] for corpus in found.corpora]
        rows.append(["best of each corpus", *map(_figure, best), _figure(float(np.mean(best))), ""])
    title = "macro-F1 and AUROC, left out:" if found.left_out else "macro-F1 and AUROC, validation of"
    heads = [title, *found.corpora, *means]
    return tabulate(rows, heads, "github", disable_numparse=True)


def page(found: Comparison) -> str:
    title = "Recipes on corpora that were left out" if found.left_out else "Recipes on validation texts"
    return f"# {title}\n\n{excerpt(found)}\n"


def excerpt(found: Comparison) -> str:
    """The table and what follows from it."""
    texts = ", ".join(
        f"{next(iter(found.recipes.values()))[corpus].n:,} of {corpus}" for corpus in found.corpora
    )
    winner = found.ranked[0]
    seeds = f", the mean of {found.seeds} seeds" if found.seeds > 1 else ""
    if found.left_out:
        note = (
            f"Each recipe was trained on all corpora but one and judged on validation texts of that{seeds}: "
            f"{texts}. The rule, set beforehand, takes the highest mean macro-F1. That is `{winner}`, "
            f"{found.regret:.3f} below the best of each corpus."
        )
    else:
        note = f"Judged on validation texts{seeds}: {texts}. The highest macro-F1 is that of `{winner}`."
    return f"{table(found)}\n\n{note}"


def _figure(value: float | None) -> str:
    return "–" if value is None or np.isnan(value) else f"{value:.3f}"
