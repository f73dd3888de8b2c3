"""Figures and verdicts as people read them, the same words in Markdown and in HTML.

Covers the form of numbers, and sentences for verdicts, intervals and flips. Leaves out which verdict it is
(`verdicts`) and where on a page it stands (`markdown`, `variant_page`, `html`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import UNSET
from tabulate import tabulate

from benchmarks.names import REFERENCE
from benchmarks.records import (
    ACCURACY,
    Data,
    Interval,
    Level,
    Many,
    Noninferiority,
    OpenLevel,
    Parity,
    Rate,
    Ratio,
    Report,
    Row,
    Variant,
)
from benchmarks.report.verdicts import (
    EQUAL,
    IS_REFERENCE,
    NOT_EQUAL,
    batch_rate,
    noninferiority,
    row_of,
    served_rate,
    served_today,
    verdict,
)
from benchmarks.selection import chance, differing, level_words, settled_by
from common.flips import OneWay, one_way
from training.measures.noninferiority import FAIL, MAY_HAVE_SEEN, PASS, SHOW_UNSEEN, UNPROVEN
from training.measures.suites import PUBLISHED

NONE = "–"
UNEVEN_P = 0.01
DEVICES = {"cpu": "CPU", "cuda": "GPU"}
GAPS = {"subgroup_auc": "subgroup AUC", "bpsn_auc": "BPSN AUC", "bnsp_auc": "BNSP AUC"}
SUITES = {"templates": "Functional cases: templates"} | {
    name: f"Functional cases: {suite.name}" for name, suite in PUBLISHED.items()
}


def figure(value: float | None, form: str) -> str:
    """The number in that format, or a dash."""
    return NONE if value is None else format(value, form)


def three_digits(value: float | None) -> str:
    """A time or a rate to three significant digits, without an exponent."""
    if value is None:
        return NONE
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def span(interval: Interval | None, form: str = "+.3f") -> str:
    """The ends of an interval."""
    return NONE if interval is None else f"{interval.low:{form}} to {interval.high:{form}}"


def times(ratio: Ratio | None) -> str:
    """A ratio with its 95 % interval."""
    return NONE if ratio is None else f"{ratio.ratio:.2f}x ({ratio.low:.2f} to {ratio.high:.2f})"


def compared(ratio: Ratio) -> str:
    """The same; or the verdict, where neither is shown to be faster."""
    if ratio.is_decided:
        return times(ratio)
    ends = f" ({ratio.low:.2f} to {ratio.high:.2f})"
    return f"{ratio.verdict}{ends if ratio.verdict in ('equal', 'not resolved') else ''}"


def rate(found: Rate | None) -> str:
    """A share with its interval."""
    if found is None:
        return NONE
    return f"{found.rate:.2%} ({found.low:.2%} to {found.high:.2%})"


def small(p: float | None) -> str:
    """A p-value in a table."""
    if p is None:
        return NONE
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def bins(ends: list[int]) -> list[str]:
    """Names of bins of tokens by their upper ends: `1 to 16`, `17 to 32`."""
    return [f"{low + 1} to {high}" for low, high in zip([0, *ends], ends, strict=False)]


def errors(entry: Level | OpenLevel | Many) -> str:
    return ", ".join(f"{count} x {status}" for status, count in entry.errors.items()) or "none"


def sentence_case(words: str) -> str:
    """With a capital first; the others stay as they are."""
    return words[:1].upper() + words[1:]


def arrow(direction: str) -> str:
    """A direction of flips as one reads it."""
    return direction.replace(" -> ", " → ")


def moved_score(data: Data) -> str:
    """Which score a flipped text's row tells."""
    if not data.multi_label and data.positive_label is UNSET:  # an older report
        return "score of the last label"
    found = positive_label(data)
    return "score that moved most" if found is None else f"score of {found}"


def positive_label(data: Data) -> str | None:
    """The label that is looked for; where an older report does not say it, the second of two."""
    if data.positive_label is not UNSET:
        return data.positive_label
    is_pair = len(data.labels) == 2 and not data.multi_label
    return data.labels[1] if is_pair else None


def reason(row: Row, allowed: float) -> str:
    """A sentence on why the verdict is what it is."""
    word = verdict(row, allowed)
    if row.error:
        return f"It failed during {row.error.stage}: {row.error.message}"
    if word == IS_REFERENCE:
        return "It is the reference that all others are compared with."
    if not isinstance(row, Variant):
        return "It is a baseline: measured, but not judged."
    parts = []
    check = row.built.check
    if word == NOT_EQUAL:
        parts.append(f"The check at export refused it ({check.note or 'not equal'}).")
    if word == UNPROVEN:
        parts.append(f"{UNPROVEN.capitalize()}: {MAY_HAVE_SEEN}; {SHOW_UNSEEN}.")
    drop = row.judged.macro_f1_drop
    tested = noninferiority(row)
    if drop is None and tested and word not in (UNPROVEN, NOT_EQUAL):
        return _without_labels(tested, row.judged)
    if drop is None:
        agreement = row.judged.label_agreement
        parts.append(f"The labels mean nothing here; {agreement:.2%} of them match fp32's.")
        if word == EQUAL:
            parts.append("The check at export found it equal.")
        return " ".join(parts)
    found = f"macro-F1 drop {drop.drop:+.4f} (95 %: {span(drop, '+.4f')}) on {row.judged.texts}"
    if word == UNPROVEN or (word == NOT_EQUAL and tested):
        return " ".join([*parts, f"{sentence_case(found)}."])
    if tested is None:
        ends = {PASS: "stays within", FAIL: "lies beyond", NOT_EQUAL: "was compared with"}
        parts.append(
            f"{sentence_case(found)}: the interval {ends.get(word, 'reaches beyond')} the margin "
            f"of {allowed:g}."
        )
        return " ".join(parts)
    return " ".join([*parts, _tested(tested, found), *_uneven(row.judged)])


def uneven(parity: Parity) -> OneWay | None:
    """Flips that go one way by more than chance: macro-F1 can hide it."""
    found = one_way(parity.flips, parity.group_flips)
    return found if found and found.p <= UNEVEN_P else None


def _uneven(parity: Parity) -> list[str]:
    """A sentence on them, if there are such."""
    found = uneven(parity)
    if found is None:
        return []
    return [f"Flips go one way: {found.there} {arrow(found.way)}, {found.back} back ({chance(found.p)})."]


def _without_labels(tested: Noninferiority, parity: Parity) -> str:
    limit = f"{tested.margin:g}"
    found = differing(parity)
    if tested.verdict == PASS:
        return (
            f"An accuracy drop of {limit} or more is ruled out ({level_words(tested)}): {found}. "
            "Without labels, macro-F1 cannot be judged."
        )
    return (
        f"An accuracy drop of {limit} is not ruled out ({level_words(tested)}): {found}. "
        f"{sentence_case(settled_by(tested))}."
    )


def _tested(tested: Noninferiority, found: str) -> str:
    """What the test says, with what it could have shown."""
    limit = f"{tested.margin:g}"
    if tested.verdict == PASS:
        return f"A drop of {limit} or more is ruled out ({level_words(tested)}): {found}."
    if tested.verdict == FAIL:
        return f"It is worse by more than {limit} ({level_words(tested, worse=True)}): {found}."
    sentence = (
        f"The texts neither show nor rule out a drop of {limit} ({level_words(tested)}): {found}. "
        f"With this many, an equal variant would pass at a margin of {tested.smallest_margin:.4f} or more."
    )
    return f"{sentence} {sentence_case(settled_by(tested))}."


def is_proven(row: Variant, allowed: float) -> str:
    """The end of a headline's sentence: what is known of a variant that passes."""
    gate = row.judged
    agreement = f"{gate.label_agreement:.2%} of the labels on {gate.n:,} gate texts match fp32's"
    tested = noninferiority(row)
    drop = gate.macro_f1_drop
    if drop is None and not tested:
        return f"{agreement}; the weights are random or the texts unlabelled, so quality cannot be judged"
    if tested:
        article = "an" if tested.measure == ACCURACY else "a"
        ruled_out = f"{article} {tested.measure} drop of {tested.margin:g} or more is ruled out"
        return f"{ruled_out} on {gate.n:,} gate texts ({level_words(tested)})"
    return f"{agreement}, and its macro-F1 drop ({span(drop)} at 95 %) stays within {allowed:g}"


def how_fast(row: Row, document: Report) -> str:
    """How many times as fast as what a user runs today (otherwise fp32; on a GPU, cuda-fp32), in process and
    as served."""
    entry = row.batch
    if row.name == REFERENCE or entry is None:
        return ""
    parts = []
    base = row_of(document, served_today(document, row))
    ours, theirs = served_rate(row), served_rate(base) if base else None
    alike = base and [level and level.concurrency for level in (row.busiest, base.busiest)]
    if base and ours and theirs and alike and alike[0] == alike[1]:
        parts.append(f"{ours:,.0f} requests/s as served, {ours / theirs:.1f} times {base.name}")
    ratio = entry.against_today
    texts = batch_rate(row)
    if ratio.is_decided:
        against = f"{ratio.ratio:.1f} times {row.today} (95 %: {ratio.low:.1f} to {ratio.high:.1f})"
    else:
        against = f"{ratio.verdict} against {row.today}"
    parts.append(f"{texts:,.0f} real texts/s in process, {against}")
    return "; ".join(parts)


def proof_words(proof: Mapping[str, Any]) -> str:
    """The artifact's own summary of its proof; else its first figures."""
    if summary := proof.get("summary"):
        return str(summary)
    pairs = [f"{name} {plain(value)}" for name, value in flatten(proof) if not isinstance(value, list)]
    return ", ".join(pairs[:3]).replace("|", "/") or NONE


def github(rows: Sequence[Sequence[Any]], headers: Sequence[str]) -> str:
    """A table in Markdown; characters that would end a cell are escaped."""
    cells = [[str(cell).replace("|", "\\|") for cell in row] for row in rows]
    return tabulate(cells, headers, "github", disable_numparse=True)


def flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Pairs of a name and a figure; a nested figure's name includes those of its parents."""
    pairs: list[tuple[str, Any]] = []
    for key, value in values.items():
        name = prefix + key.replace("_", " ")
        pairs += flatten(value, f"{name}: ") if isinstance(value, Mapping) else [(name, value)]
    return pairs


def plain(value: Any) -> str:
    if value is None:
        return NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
