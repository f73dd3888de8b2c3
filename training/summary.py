"""Tables for people: the data that a training reads, and its final figures."""

from collections.abc import Sequence

from tabulate import tabulate

from training.data import Dataset
from training.description import Description


def table(dataset: Dataset) -> str:
    """Texts of each label in each split, the positive one, and what was left out and why."""
    counts = dataset.counts()
    lines = [
        tabulate(
            [[name, len(split), *counts[name].values()] for name, split in dataset.splits.items()],
            ["split", "texts", *dataset.labels],
            intfmt=",",
        )
    ]
    lines += [str(dataset.positive), *dataset.warnings()]
    for name, reasons in dataset.dropped.items():
        told = dataset.lines.get(name, {})
        counted = (f"{n:,} {why}{places(n, told.get(why, []))}" for why, n in reasons.items())
        lines.append(f"dropped from {name}: " + ", ".join(counted))
    lines += [f"{leak.of(name)}: dropped from train" for name, leak in dataset.leaks.items()]
    return "\n".join(lines)


def places(count: int, lines: Sequence[int]) -> str:
    """The lines of the first of `count` rows in a file, in words; empty if they are not known."""
    more = ", …" if count > len(lines) else ""
    return f" (line {', '.join(map(str, lines))}{more})" if lines else ""


def summary(meta: Description) -> str:
    """The final figures, one row a split."""
    rows = ["macro_f1", "accuracy", "auroc", "average_precision", "brier", "ece"]
    if meta.task == "multi-label":
        rows.insert(1, "micro_f1")
    figures = [
        [
            name.replace("_", " ") if name == "test_without_leaks" else name,
            *(getattr(split, row) for row in rows),
        ]
        for name, split in meta.metrics.items()
    ]
    calibration = ", ".join(f"{label} from {value:.3f}" for label, value in meta.thresholds.items())
    return (
        tabulate(figures, ["split", *rows], floatfmt=".3f", missingval="–")
        + f"\ntemperature {meta.temperature:.3f}"
        + (f"; {calibration}" if calibration else "")
    )
