"""What a run found, in the five lines that end the demonstration."""

from collections.abc import Iterator

from benchmarks.names import REFERENCE
from benchmarks.records import Report, Variant
from benchmarks.report.phrases import how_fast, is_proven, sentence_case
from benchmarks.report.verdicts import NOT_EQUAL, margin, verdict
from benchmarks.selection import Selection, over_int8
from training.measures.noninferiority import FAIL, PASS


def conclusion(report: Report, selection: Selection, page: str) -> str:
    """Five lines at most; `page` is where the report lies."""
    return "\n".join(_lines(report, selection, page))


def _lines(report: Report, selection: Selection, page: str) -> Iterator[str]:
    allowed = margin(report)
    verdicts = {variant.name: verdict(variant, allowed) for variant in report.variants}
    by_name = {variant.name: variant for variant in report.variants}
    passed = [name for name, word in verdicts.items() if word == PASS]
    if passed:
        yield f"Passed: {', '.join(passed)}. {sentence_case(is_proven(by_name[passed[0]], allowed))}."
    refused = [name for name, word in verdicts.items() if word in (NOT_EQUAL, FAIL)]
    if refused:
        yield f"Refused: {'; '.join(f'{name} ({_why(by_name[name])})' for name in refused)}."
    if selection.selected in (None, REFERENCE):
        yield "Nothing faster than fp32 may be served in its place."
    else:
        chosen = by_name[str(selection.selected)]
        fast = "; ".join(filter(None, (how_fast(chosen, report), over_int8(chosen, report))))
        yield f"Chosen: {chosen.name}, {fast}. You can serve it in place of fp32."
    if report.data.is_synthetic:
        yield "This was a rehearsal: its texts are made up, so it proves nothing about texts of yours."
    yield f"The report: {page}"


def _why(variant: Variant) -> str:
    """Of a variant that was refused by the check at export, or by the gate."""
    if variant.built.check.equal:
        return "the gate's texts show a larger drop than is allowed"
    return (variant.built.check.note or "by the check at export").removeprefix("not equal: ")
