"""The results as tables: for the terminal, for `evaluation.md`, and for the model card."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from training.evaluation.records import Evaluation, Robustness, Suite
from training.measures.records import LabelFigures, Rates
from training.measures.suites import PUBLISHED, TEMPLATES

NONE = "–"
FOLDERS = re.compile(r"(?<![\w./~])(?:~|\.{1,2})?/(?:[^/:]*/)*")
HEADS = ["texts", "macro-F1, 95 %", "accuracy", "AUROC", "AP", "Brier", "ECE"]
SUITES = {TEMPLATES: "the project's own cases"} | {name: suite.name for name, suite in PUBLISHED.items()}


def terminal(document: Evaluation) -> str:
    """The tables that the terminal shows."""
    return "\n\n".join(
        [
            table(figures(document), "simple"),
            table(lengths(document), "simple"),
            *(table(functional(found), "simple") for found in document.functional.values()),
            *([table(robustness(document.robustness), "simple")] if document.robustness else []),
        ]
    )


def markdown(document: Evaluation, folder: Path) -> str:
    """The page next to the pictures, which lie in `folder`."""

    def picture(name: str, words: str) -> list[str]:
        return [f"![{words}]({name}.svg)"] if (folder / f"{name}.svg").is_file() else []

    about = document.checkpoint
    split = document.split
    parts = [
        f"# Evaluation on {split}",
        f"{short(about.base)}, trained on {short(about.data)}. Scores are calibrated (temperature "
        f"{about.temperature:.3f}); {thresholds(about.thresholds)}. Intervals are 95 %.",
    ]
    if not about.trained:
        parts.append(
            "**The weights are random: the figures show that the evaluation runs, not how good it is.**"
        )
    parts += ["## Figures", table(figures(document)), table(per_label(document.figures.labels))]
    parts += picture("confusion", "Confusion matrix: true and predicted labels")
    parts += picture("precision-recall", "Precision against recall; the dot marks the threshold in use")
    parts += picture("reliability", "How often each score was right, and how many texts have it")
    parts += [
        "## By length",
        "The texts in quarters, by number of tokens.",
        table(lengths(document)),
    ]
    for suite, found in document.functional.items():
        parts += [f"## Functional suite: {SUITES.get(suite, suite)}", functional_words(found)]
        parts += [
            *picture(f"functional-{suite}", "Share of cases answered correctly"),
            table(functional(found)),
        ]
    if tried := document.robustness:
        parts += ["## Robustness", robustness_words(tried)]
        parts += [*picture("robustness", "Flipped labels and loss of macro-F1"), table(robustness(tried))]
        rows = [[way.name, way.does, way.keeps] for way in tried.perturbations]
        parts += [
            "Why the label should stay the same:",
            table((rows, ["perturbation", "what it does", "why the meaning stays the same"])),
        ]
    parts += ["## Run", surroundings(document)]
    return "\n\n".join(parts) + "\n"


Rows = tuple[Sequence[Sequence[Any]], Sequence[str]]


def table(rows: Rows, form: str = "github") -> str:
    """Rows and heads as a table; bars in a user's labels would end a cell."""
    safe: Callable[[Any], str] = str if form != "github" else lambda cell: str(cell).replace("|", "\\|")
    cells = [[safe(cell) for cell in row] for row in rows[0]]
    return tabulate(cells, [safe(head) for head in rows[1]], tablefmt=form, disable_numparse=True)


def figures(document: Evaluation) -> Rows:
    rows = [[document.split, *cells(document.figures)]]
    if document.without_leaks:
        rows.append([f"{document.split}, without texts of train", *cells(document.without_leaks)])
    own = "test" if document.split == "test" else "validation"
    rows += [[f"{own} of {short(name)}", *cells(found)] for name, found in document.others.items()]
    return rows, ["split", *HEADS]


def lengths(document: Evaluation) -> Rows:
    rows = [
        [f"{length_bin.from_tokens} to {length_bin.to_tokens}", *cells(length_bin)]
        for length_bin in document.by_length
    ]
    return rows, ["tokens", *HEADS]


def per_label(labels: Mapping[str, LabelFigures]) -> Rows:
    rows = [
        [label, number(found.precision), number(found.recall), number(found.f1), f"{found.support:,}"]
        for label, found in labels.items()
    ]
    return rows, ["label", "precision", "recall", "f1", "texts"]


def functional(found: Suite) -> Rows:
    rows = [
        [
            kind.functionality,
            kind.label,
            kind.n,
            f"{kind.pass_rate:.0%}",
            _span(kind.low, kind.high, 0),
        ]
        for kind in sorted(found.functionalities, key=lambda kind: kind.pass_rate)
    ]
    return rows, ["kind of case", "right label", "cases", "passed", "95 %"]


def functional_words(found: Suite) -> str:
    rate = f"{found.passed:,} of {found.n:,} cases pass ({found.pass_rate:.1%})"
    return f"{rate}; none was used for training or tuning. Guessing passes one half."


def robustness(found: Robustness) -> Rows:
    rows = [
        [
            written.name,
            f"{written.changed:,}",
            f"{written.seen:,}",
            number(written.mean_move),
            number(written.max_move),
            NONE if written.flip_rate is None else f"{written.flip_rate:.1%}",
            _span(written.flip_rate_low, written.flip_rate_high, 1),
            number(written.macro_f1),
            f"{written.macro_f1_drop:+.3f} "
            f"({written.macro_f1_drop_low:+.3f} to {written.macro_f1_drop_high:+.3f})",
        ]
        for written in found.perturbations
    ]
    heads = [
        "perturbation",
        "changed",
        "seen",
        "mean move",
        "max move",
        "flipped",
        "95 %",
        "macro-F1",
        "drop, 95 %",
    ]
    return rows, heads


def robustness_words(found: Robustness) -> str:
    return (
        f"{found.n:,} texts of the split, drawn with seed {found.seed}; macro-F1 {found.macro_f1:.3f} "
        "before any change. Moves of the score and flips are over the changed texts; `seen` counts those "
        "whose change survives the tokenizer. Macro-F1 is over all texts."
    )


def surroundings(document: Evaluation) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in document.versions.items())
    commit = (document.commit or "none")[:12]
    machine = document.machine
    return (
        f"Weights sha256 {document.checkpoint.weights_sha256[:12]}, data sha256 "
        f"{document.checkpoint.data_sha256[:12]}, commit {commit}; {machine.gpu or machine.cpu}, "
        f"{machine.threads} threads, {document.seconds:.0f} s; {versions}."
    )


def thresholds(chosen: Mapping[str, float]) -> str:
    """The rule by which a score becomes a label."""
    if not chosen:
        return "the label with the highest score is assigned"
    return ", ".join(f"{label} is assigned from a score of {value:.3f}" for label, value in chosen.items())


def short(name: str) -> str:
    """A data spec or a base model without the folders of the machine that it was made on."""
    return FOLDERS.sub("", name)


def number(value: float | None, digits: int = 3) -> str:
    return NONE if value is None else f"{value:.{digits}f}"


def cells(found: Rates) -> list[str]:
    """The cells under `HEADS`, with the interval of macro-F1 where it is known."""
    macro_f1 = number(found.macro_f1)
    if found.macro_f1_low is not None:
        macro_f1 += f" ({found.macro_f1_low:.3f} to {found.macro_f1_high:.3f})"
    others = (found.accuracy, found.auroc, found.average_precision, found.brier, found.ece)
    return [f"{found.n:,}", macro_f1, *map(number, others)]


def _span(low: float | None, high: float | None, digits: int) -> str:
    return NONE if low is None or high is None else f"{low:.{digits}%} to {high:.{digits}%}"
