"""One row in plain words: each figure is the report's own, and what a report lacks is left out."""

from benchmarks.records import Lateness
from benchmarks.report.explained import explained


def words(text: str) -> str:
    return " ".join(text.split())


def complete(make):
    levels = (make.level(1, 60, 20), make.level(32, 100, 90))
    fp32, int8 = make.variant("fp32"), make.variant("int8", speed=4, drop=(-0.004, 0.005), levels=levels)
    # By truth, fp32's label, the variant's: it alone gets 3 texts right, and fp32 alone 5.
    int8.parity["gate"].cells = [90, 5, 3, 2, 4, 0, 0, 96]
    document = make.document(fp32, int8, complete=True)
    document.run.objective_p99_ms = 50.0
    opened = document.variants[1].open
    for level, late in zip(opened, (0, 6, 30, 30, 30, 30), strict=True):
        level.arrivals = 2000
        level.lateness = Lateness(from_ms=40.0, slowest_ms=[[60.0] * late] * 20, worth=2000.0)
    return document


def test_figures_are_those_of_the_row(make) -> None:
    text = words(explained(complete(make)))
    assert "`int8`" in text
    assert "3 are now right where fp32 was wrong, and 5 are now wrong where fp32 was right" in text
    assert "a p99 of 50 ms" in text
    assert "At 30 a second, 0.00 % of them were late, and the true share is at most 0.18 %" in text
    assert "At 50 a second, 6.00 % were late, but the true share may be as high as 7.13 %" in text
    assert text.count("1. **") == 6, "the verdict's levels are there too"
    assert "4.00 times as fast" in text


def test_what_a_report_lacks_is_left_out(make) -> None:
    document = make.document(make.variant("fp32"), make.variant("int8", speed=4))
    text = words(explained(document))
    assert "p99" not in text
    assert "For better or for worse" not in text
    slow = make.document(make.variant("fp32"), make.variant("int8", speed=4, equal=False))
    assert explained(slow) == "No variant of this report passes."
