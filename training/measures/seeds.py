"""Several trainings of one recipe side by side, measured on the same texts."""

from dataclasses import dataclass

import numpy as np
from tabulate import tabulate

NAME = "seeds"  # of the file


@dataclass(frozen=True)
class Measured:
    """Figures on `n` texts, with the 95 % interval of the macro-F1 where it is known."""

    n: int
    macro_f1: float
    low: float | None
    high: float | None
    accuracy: float
    auroc: float | None


@dataclass(frozen=True)
class Run:
    """A checkpoint by the name of its folder; `figures` by the texts they are of, in the order of a table."""

    name: str
    seed: int
    figures: dict[str, Measured]


@dataclass(frozen=True)
class Seeds:
    """`split` is what all runs were measured on; `recipe` holds the settings that they share."""

    data: str
    base: str
    split: str
    recipe: dict[str, str | int | float | bool]
    runs: list[Run]

    def median(self, texts: str) -> float:
        """Median macro-F1 over the runs."""
        return float(np.median([run.figures[texts].macro_f1 for run in self.runs]))


def table(found: Seeds) -> str:
    """Macro-F1 with its interval, and AUROC, by run, as Markdown."""
    texts = list(found.runs[0].figures)
    rows = [
        [run.name, run.seed, *(_cell(run.figures[name]) for name in texts)]
        for run in sorted(found.runs, key=lambda run: (run.seed, run.name))
    ]
    rows.append(["median macro-F1", "", *(f"{found.median(name):.3f}" for name in texts)])
    return tabulate(rows, ["run", "seed", *texts], "github", disable_numparse=True)


def page(found: Seeds) -> str:
    return f"# Trainings with several seeds\n\n{excerpt(found)}\n"


def excerpt(found: Seeds) -> str:
    """The table and what its cells are."""
    sizes = ", ".join(f"{measured.n:,} of {name}" for name, measured in found.runs[0].figures.items())
    note = f"Macro-F1 with its 95 % interval, and AUROC; texts: {sizes}. Trained on {found.data}."
    return f"{table(found)}\n\n{note}"


def _cell(measured: Measured) -> str:
    interval = "" if measured.low is None else f" ({measured.low:.3f} to {measured.high:.3f})"
    area = "" if measured.auroc is None else f", AUROC {measured.auroc:.3f}"
    return f"{measured.macro_f1:.3f}{interval}{area}"
