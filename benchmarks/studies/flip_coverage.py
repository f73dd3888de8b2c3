"""`python -m benchmarks.studies.flip_coverage`: simulate labelling only the flips, of published variants.

The result is published with `python -m benchmarks publish --flips verdicts`.
"""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from msgspec import to_builtins
from tqdm import tqdm

from benchmarks.names import FLIPS, REFERENCE
from benchmarks.records import Report
from benchmarks.report.files import read_side_by_side
from benchmarks.sameness import flip_coverage
from benchmarks.sameness.flip_coverage import PUBLISHED, made, simulate, steps
from common.atomic import write_json
from common.commands import emit, positive_int, run, say
from common.options import add_results

REPORTS = tuple(Path("benchmarks/published") / f"{name}.json" for name in ("tweeteval", "cascades"))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.flip_coverage", description=__doc__.split("\n")[0]
    )
    add_results(parser)
    parser.add_argument(
        "--reports",
        type=Path,
        nargs="+",
        default=REPORTS,
        help="published reports whose variants are simulated; default: tweeteval and cascades",
    )
    parser.add_argument("--runs", type=positive_int, default=1000, help="of each case; default: %(default)s")
    arguments = parser.parse_args(argv)
    populations = published(map(read_side_by_side, arguments.reports)) | made()
    with tqdm(total=steps(populations, arguments.runs), desc="simulated samples", smoothing=0) as bar:
        coverage = simulate(populations, arguments.runs, bar.update)
    arguments.results.mkdir(parents=True, exist_ok=True)
    write_json(arguments.results / f"{FLIPS}.json", to_builtins(coverage))
    say(flip_coverage.excerpt(coverage))
    emit(to_builtins(coverage))
    return 0


def published(reports: Iterable[Report]) -> dict[tuple[str, str], np.ndarray]:
    """The shares of outcomes on the gate of every variant that flips; variants with the same counts once."""
    found: dict[tuple[str, str], np.ndarray] = {}
    seen: set[tuple[int, ...]] = set()
    for report in reports:
        labels = len(report.data.labels)
        off_diagonal = ~np.eye(labels, dtype=bool)
        for variant in report.variants:
            parity = variant.parity.get("gate")
            if variant.name == REFERENCE or parity is None or not parity.cells:
                continue
            cells = np.array(parity.cells, np.float64).reshape((labels,) * 3)
            if (cells * off_diagonal).any() and tuple(parity.cells) not in seen:
                seen.add(tuple(parity.cells))
                found[PUBLISHED, variant.name] = cells / cells.sum()
    return found


if __name__ == "__main__":
    run(main)
