"""The five lines that end the demonstration say what the report says."""

from msgspec import structs

from benchmarks.report.conclusion import conclusion
from benchmarks.selection import Objective, select


def lines(make, *variants, **data) -> list[str]:
    document = make.document(*variants)
    document.data = structs.replace(document.data, **data)
    return conclusion(document, select(document, Objective()), "page.html").splitlines()


def test_what_passed_what_was_refused_and_what_was_chosen(make) -> None:
    good = make.variant("good", speed=4, drop=(-0.004, 0.005))
    bad = make.variant("bad", speed=9, equal=False)
    found = lines(make, make.variant("fp32"), good, bad, spec="demo")
    assert len(found) == 5
    assert found[0].startswith("Passed: good. ")
    assert "2,000 gate texts" in found[0]
    assert found[1].startswith("Refused: bad (")
    assert "Chosen: good, " in found[2]
    assert "rehearsal" in found[3]
    assert found[4] == "The report: page.html"


def test_where_nothing_passes_fp32_stays(make) -> None:
    found = lines(make, make.variant("fp32"), make.variant("bad", speed=9, equal=False), spec="csv:mine.csv")
    assert "Nothing faster than fp32 may be served in its place." in found
    assert not any("Passed" in line or "rehearsal" in line for line in found)
