"""Recipes side by side, each judged on every corpus that it was not trained on."""

from dataclasses import dataclass

import numpy as np
from tabulate import tabulate

NAME = "leave-one-out"  # of the file
FIGURES = ("macro_f1", "auroc")


@dataclass(frozen=True)
class Judged:
    """Figures on the `n` validation texts of a corpus that was left out of the training."""

    n: int
    macro_f1: float
    auroc: float | None


@dataclass(frozen=True)
class Comparison:
    """For each recipe and each of the `corpora`, its figures where that corpus was left out."""

    corpora: list[str]
    recipes: dict[str, dict[str, Judged]]

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
    best = [found.best[corpus] for corpus in found.corpora]
    rows.append(["best of each corpus", *map(_figure, best), _figure(float(np.mean(best))), ""])
    heads = ["macro-F1 and AUROC, left out:", *found.corpora, "mean macro-F1", "mean AUROC"]
    return tabulate(rows, heads, "github", disable_numparse=True)


def page(found: Comparison) -> str:
    return f"# Recipes on corpora that were left out\n\n{excerpt(found)}\n"


def excerpt(found: Comparison) -> str:
    """The table and what follows from it."""
    texts = ", ".join(
        f"{next(iter(found.recipes.values()))[corpus].n:,} of {corpus}" for corpus in found.corpora
    )
    winner, regret = found.ranked[0], found.regret
    note = (
        f"Each recipe was trained on all corpora but one and judged on validation texts of that: {texts}. "
        f"The rule, set beforehand, takes the highest mean macro-F1. That is `{winner}`, {regret:.3f} below "
        "the best of each corpus."
    )
    return f"{table(found)}\n\n{note}"


def _figure(value: float | None) -> str:
    return "–" if value is None or np.isnan(value) else f"{value:.3f}"
