"""A report as one page for a browser: self-contained, sortable, light and dark, without texts of a data set.

The page has no empty sections. Everything from a report is escaped, scripts are allowed only by their hash,
and nothing is loaded.
"""

import base64
import hashlib
import re
from collections import Counter
from pathlib import Path
from typing import Any

from markupsafe import Markup

from benchmarks.names import REFERENCE, SINGLE
from benchmarks.records import Report, Variant
from benchmarks.records import Row as Entry
from benchmarks.report import charts, columns, pictures
from benchmarks.report.certificate_card import card
from benchmarks.report.phrases import (
    how_fast,
    is_proven,
    proof_words,
    reason,
    sentence_case,
    three_digits,
)
from benchmarks.report.provenance import failures, provenance_lines
from benchmarks.report.sections import SECTIONS, Texts
from benchmarks.report.tables import Row, Table, table
from benchmarks.report.templates import render
from benchmarks.report.verdicts import (
    FAILED,
    IS_REFERENCE,
    NOT_EQUAL,
    SHIPPABLE,
    fastest_passing,
    margin,
    row_of,
    served_today,
    today,
    verdict,
)
from benchmarks.selection import Selection
from common.drawing import COLOURS
from training.measures.noninferiority import FAIL, INCONCLUSIVE, REHEARSAL, UNPROVEN

# The chosen theme is set before anything is shown, so that the page does not flash.
THEME = (
    'try{const t=localStorage.getItem("report-theme");if(t)document.documentElement.dataset.theme=t}catch{}'
)
# Besides those of the pictures.
PAGE_COLOURS = {
    "panel": ("#f5f6f8", "#1c2127"),
    "line": ("#dde1e6", "#2f363e"),
    "tint": ("#eaf4fa", "#172833"),
}


def side_by_side(document: Report, selection: Selection | None = None, texts: Texts | None = None) -> str:
    """The page of all variants. `selection` is that of the same run, if one was made. `texts` by split and
    row are shown with the labels that flipped: for a page that stays here and is never published."""
    data = document.data
    run = document.run
    chosen = selection if selection and selection.run == run.id else None
    best = _best(document, chosen)
    headline, lead = _answer(document, chosen, best)
    return _render(
        document,
        title=f"{data.base} on {data.spec}: variants side by side",
        eyebrow=f"{data.base} on {data.spec} · {document.machine.cpu} · {run.started_at[:10]}",
        headline=headline,
        lead=lead,
        cards=_cards(document, best),
        variants=_variants(document, best),
        certificate=card(chosen.certificate) if chosen and chosen.certificate else [],
        texts=texts,
    )


def variant_page(document: Report, texts: Texts | None = None) -> str:
    """The page of one variant, from its own report alone."""
    report = document.only
    allowed = margin(document)
    word = verdict(report, allowed)
    lead = [reason(report, allowed)]
    if not report.error:
        lead = [f"{sentence_case(report.built.summary)}.", *lead]
        lead += [f"{sentence_case(how_fast(report, document))}."] if how_fast(report, document) else []
        lead += [f"Proof: {proof_words(report.proof)}."] if report.proof else []
    return _render(
        document,
        title=f"{report.name} on {document.data.spec}",
        eyebrow=f"{document.data.base} on {document.data.spec} · {document.machine.cpu}",
        headline=f"{report.name}: {word}{_rehearsal(document)}",
        lead=lead,
        cards=[] if report.error else _variant_cards(report, document),
        variants=None,
        certificate=[],
        texts=texts,
    )


def _render(document: Report, texts: Texts | None, **content: Any) -> str:
    drawn = charts.draw(document)
    script = Path(__file__).with_name("report.js").read_text(encoding="utf-8")
    run = document.run
    return render(
        "report.html.j2",
        **content,
        colours=Markup(_colours()),
        theme_script=Markup(THEME),
        page_script=Markup(script),
        script_hashes=" ".join(map(_hash, (THEME, script))),
        failures=failures(document) if content["variants"] else [],
        variants_how=_how_to_read(document),
        has_baselines=bool(document.baselines),
        pictures=[
            {
                "name": picture.name,
                "title": picture.title,
                "reading": picture.reading,
                "svg": _inline(drawn[picture.name]),
            }
            for picture in pictures.PICTURES
            if picture.name in drawn
        ],
        sections=[found for make in SECTIONS if (found := make(document, texts))],
        provenance=provenance_lines(document),
        foot=f"Run {run.id}, profile {run.profile}. "
        + ("It shows texts: do not share it." if texts else "It contains no text of a data set."),
    )


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _inline(svg: str) -> Markup:
    """A picture without its own style sheet: the page's colours count. Its words are escaped already."""
    return Markup(re.sub(r"<style>.*?</style>", "", svg, flags=re.DOTALL))


def _colours() -> str:
    """The page's and the pictures' colours: light, dark where preferred or chosen, and light on paper."""
    light, dark = (
        "".join(f"--{colour.name}:{getattr(colour, paper)};" for colour in COLOURS)
        + "".join(f"--{name}:{both[place]};" for name, both in PAGE_COLOURS.items())
        for place, paper in enumerate(("light", "dark"))
    )
    named = "".join(f"--chart-{colour.name}:var(--{colour.name});" for colour in COLOURS)
    return (
        f":root{{color-scheme:light;{light}}}\n"
        f"@media screen and (prefers-color-scheme:dark){{:root:not([data-theme=light])"
        f"{{color-scheme:dark;{dark}}}}}\n"
        f"@media screen{{:root[data-theme=dark]{{color-scheme:dark;{dark}}}}}\n"
        f".chart{{{named}}}.chart *{{stroke-linejoin:round;stroke-linecap:butt}}"
        ".chart text{paint-order:stroke;stroke:var(--paper);stroke-width:3px}"
    )


def _best(document: Report, chosen: Selection | None) -> Variant | None:
    """The variant that the page is about: the chosen one, else the fastest that passes."""
    if chosen and chosen.selected and chosen.selected != REFERENCE:
        return next(variant for variant in document.variants if variant.name == chosen.selected)
    return fastest_passing(document)


def _answer(document: Report, chosen: Selection | None, best: Variant | None) -> tuple[str, list[str]]:
    """The headline and the sentences below it: what to ship, how fast it is, what is proven."""
    allowed = margin(document)
    if not any(not variant.error for variant in document.variants):
        return "Nothing could be measured", ["Every variant failed; the reasons are below."]
    if chosen:
        if chosen.selected is None:
            return "No variant meets the objective", [
                f"{name}: {why}." for name, why in chosen.reasons.items()
            ]
        if chosen.selected == REFERENCE:
            return "fp32 stays", [f"{sentence_case(chosen.reasons[REFERENCE])}."]
    if best is None or best.name == REFERENCE:
        words = Counter(verdict(variant, allowed) for variant in document.variants)
        seen = ", ".join(f"{count} {word}" for word, count in words.items() if word != IS_REFERENCE)
        others = f"Of the others: {seen}." if seen else "Only fp32 was measured."
        return "No variant passes: fp32 stays", [others]
    if chosen:
        lead = [f"{sentence_case(chosen.reasons[best.name])}."]
    else:
        how = (
            "The fastest variant that passes"
            if document.data.labels_meaningful
            else "The fastest equal variant"
        )
        lead = [f"{how}: {how_fast(best, document)}.", f"What is proven: {is_proven(best, allowed)}."]
    return _headline(document, best), lead


def _headline(document: Report, best: Variant) -> str:
    entry = best.batch
    ratio = entry and entry.against_today
    if ratio and ratio.is_decided:
        speed = f"{ratio.ratio:.1f} times as fast as {best.today}"
    elif ratio and ratio.verdict == "equal":
        speed = f"within 5 % of {best.today}"
    else:
        speed = f"as fast as {best.today}, as far as this run can tell"
    is_judged = document.data.labels_meaningful
    what = "still the same classifier" if is_judged else "found equal by the check at export"
    return f"{best.name}: {speed}, and {what}{_rehearsal(document)}"


def _rehearsal(document: Report) -> str:
    return f" ({REHEARSAL})" if document.data.is_synthetic else ""


def _cards(document: Report, best: Variant | None) -> list[dict[str, str]]:
    """Counts of verdicts, and the main figures of the variant in the headline."""
    allowed = margin(document)
    ours = [variant for variant in document.variants if variant.name != REFERENCE]
    if not ours:
        return []
    words = Counter(verdict(variant, allowed) for variant in ours)
    passing = sum(words[word] for word in SHIPPABLE)
    others = ", ".join(
        f"{words[word]} {word}" for word in (INCONCLUSIVE, UNPROVEN, FAIL, NOT_EQUAL, FAILED) if words[word]
    )
    cards = [
        {"figure": f"{passing} of {len(ours)}", "words": f"variants pass{'; ' if others else ''}{others}"}
    ]
    return cards + (_variant_cards(best, document, best.name) if best else [])


def _variant_cards(row: Entry, document: Report, of: str = "") -> list[dict[str, str]]:
    """The main figures of one variant; `of` names it."""
    base = row_of(document, row.today)
    is_alone = base is None or base is row
    cards = []

    def add(value: str, what: str, theirs: str | None = None, name: str = row.today) -> None:
        against = "" if is_alone or theirs is None else f"; {name} {theirs}"
        cards.append({"figure": value, "words": f"{what}{against}"})

    def both(name: str, key: str) -> tuple[str, str]:
        found = [getattr(entry and entry.case(name), key, None) for entry in (row, base)]
        return three_digits(found[0]), three_digits(found[1])

    if entry := row.batch:
        ours, theirs = both(entry.case, "texts_per_second")
        add(ours, f"real texts/s in process{f', {of}' if of else ''}", theirs)
    if row.case(SINGLE):
        ours, theirs = both(SINGLE, "p50_ms")
        add(f"{ours} ms", "p50 of one real text", f"{theirs} ms")
    server = row_of(document, served_today(document, row))
    level, same = row.busiest, server.busiest if server and server is not row else None
    if level:
        add(
            f"{level.requests_per_second:,.0f}",
            f"requests/s served to {level.concurrency} clients",
            f"{same.requests_per_second:,.0f}" if same else None,
            server.name if server else "",
        )
    flips = row.gate
    if flips:
        add(f"{1 - flips.label_agreement:.2%}", "of the gate labels differ from fp32's")
    theirs_mb = base and base.resources.artifact_mb and f"{base.resources.artifact_mb:.0f} MB"
    add(f"{row.resources.artifact_mb:.0f} MB", "artifact", theirs_mb or None)
    return cards


def _how_to_read(document: Report) -> str:
    allowed = margin(document)
    gpu = ", on a GPU to cuda-fp32" if document.on_cuda else ""
    return (
        f"Pass: a macro-F1 drop of {allowed:g} is ruled out on the gate texts. Ratios are to "
        f"{today(document)} in the same run{gpu}; equal means within 5 %. Click a heading to sort by it."
    )


def _variants(document: Report, best: Variant | None) -> Table:
    """The table of all rows; that of `best` is marked."""
    allowed = margin(document)
    found = table("Variants", columns.main(document), document.rows)
    rows = [
        Row(listed.cells, row.name, verdict(row, allowed), row is best)
        for row, listed in zip(document.rows, found.rows, strict=True)
    ]
    return Table(found.label, found.headers, rows)
