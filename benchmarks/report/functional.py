"""The tables of functional cases, which both pages show."""

from collections.abc import Mapping

from benchmarks.records import Report
from benchmarks.report import columns
from benchmarks.report.tables import Table, named, table
from training.measures.records import Functional


def by_suite(document: Report) -> dict[str, dict[str, Functional]]:
    """Of each suite of cases, what every variant that was asked answered."""
    found: dict[str, dict[str, Functional]] = {}
    for variant in document.measured:
        for suite, cases in variant.functional.items():
            found.setdefault(suite, {})[variant.name] = cases
    return found


def functional(suite: str, found: Mapping[str, Functional]) -> tuple[Table, Table]:
    """A row for each kind of case; and for each variant all cases, and the gaps between groups."""
    kinds = {kind.functionality: kind for cases in found.values() for kind in cases.functionalities}
    return (
        table(f"Accuracy by functionality, {suite}", columns.kinds(found), kinds.values()),
        named("Gaps between groups", "variant", columns.SUITE, found.items()),
    )
