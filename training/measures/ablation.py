"""What checkpoints of several recipes get right, by corpus and by kind of functional case."""

from dataclasses import dataclass

from tabulate import tabulate

from training.measures.functional import SPELLINGS

NAME = "ablation"  # of the file

KINDS: dict[str, tuple[str, ...]] = {
    "plain hate": (
        "strong negative emotion",
        "derogation",
        "dehumanising comparison",
        "threat or exclusion",
    ),
    "implied hate": (
        "implicit derogation",
        "hate phrased as a question",
        "hate phrased as an opinion",
        "hate by pronoun",
    ),
    "respelt hate": tuple(SPELLINGS),
    "negation": ("negated praise", "negated hate"),
    "identity terms": ("neutral mention", "positive mention"),
    "counter-speech": ("counter-speech that quotes", "counter-speech that refers"),
    "other abuse": (
        "abuse of objects",
        "abuse of individuals",
        "abuse of professions",
        "exasperation",
        "everyday senses of harsh words",
    ),
}
"""Functionalities of the project's own cases, by what they have in common."""


@dataclass(frozen=True)
class Passed:
    """How many of `n` cases are answered rightly."""

    n: int
    passed: int


@dataclass(frozen=True)
class Row:
    """A checkpoint by the name of its folder.

    `macro_f1` is by corpus. The areas are the lowest of any group: among cases about it (`subgroup_auc`), and
    of hateful cases about others against harmless ones about it (`background_auc`).
    """

    name: str
    data: str
    base: str
    macro_f1: dict[str, float]
    passed: dict[str, Passed]
    subgroup_auc: float | None
    background_auc: float | None


@dataclass(frozen=True)
class Ablation:
    """The rows in the order in which they were given; `split` is what the first corpus was measured on."""

    split: str
    rows: list[Row]

    @property
    def corpora(self) -> list[str]:
        return list(dict.fromkeys(corpus for row in self.rows for corpus in row.macro_f1))


def table(found: Ablation) -> str:
    """A row for each checkpoint, as Markdown."""
    titles = [*found.corpora, *KINDS, "subgroup AUC", "background AUC"]
    rows = [[row.name, *_cells(row, found.corpora)] for row in found.rows]
    return tabulate(rows, ["", *titles], "github", disable_numparse=True)


def _cells(row: Row, corpora: list[str]) -> list[str]:
    figures = [_figure(row.macro_f1.get(corpus)) for corpus in corpora]
    shares = [_share(row.passed.get(kind)) for kind in KINDS]
    return [*figures, *shares, _figure(row.subgroup_auc), _figure(row.background_auc)]


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _share(passed: Passed | None) -> str:
    return "–" if passed is None else f"{passed.passed / passed.n:.0%}"


def page(found: Ablation) -> str:
    return f"# What each part of the recipe gives\n\n{excerpt(found)}\n"


def excerpt(found: Ablation) -> str:
    """The table and what its cells are."""
    cases = ", ".join(f"{passed.n} of {kind}" for kind, passed in found.rows[0].passed.items())
    note = (
        f"Macro-F1 on {found.split} of each corpus; share of functional cases answered rightly ({cases}); "
        "the lowest AUC of any group of people, among the cases about it, and of hateful cases about others "
        "against harmless ones about it."
    )
    return f"{table(found)}\n\n{note}"
