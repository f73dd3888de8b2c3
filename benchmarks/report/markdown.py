"""The side-by-side report for people: a Markdown page, and the table for a terminal.

A speed is always shown with accuracy, memory, versions and machine; a difference within the noise is called
that; every number has its unit.
"""

from msgspec import UNSET
from tabulate import tabulate

from benchmarks.names import REFERENCE
from benchmarks.records import Report
from benchmarks.report import columns
from benchmarks.report.functional import by_suite, functional
from benchmarks.report.phrases import SUITES, github, proof_words, reason
from benchmarks.report.pictures import available
from benchmarks.report.provenance import failures, machine_and_run, provenance, provenance_in_short
from benchmarks.report.sections import decisions, real_texts
from benchmarks.report.tables import PAGE, SUMMARY, TERMINAL, Table, markdown, named, turned
from benchmarks.report.tables import table as of_items
from benchmarks.report.variant_page import report
from benchmarks.report.verdicts import in_brief, is_tested, margin

__all__ = [
    "bound_table",
    "brief",
    "failures",
    "proof_note",
    "proof_table",
    "proof_words",
    "provenance",
    "report",
    "side_by_side",
    "summary",
    "table",
    "terminal_table",
]

MOST_COLUMNS = 6


def side_by_side(document: Report, pictures: str | None = None) -> str:
    """The side-by-side page: the table, what failed, pictures, verdicts, load, functional cases, the GEMM
    bound, the proofs, what the figures rest on. `pictures` is the folder next to the page that holds them;
    None: there is none."""
    data = document.data
    title = f"# {data.base} on {data.spec}: variants side by side"
    parts = [title, table(document), "\n".join(f"- {line}" for line in failures(document))]
    if pictures:
        parts += [
            f"![{picture.title}]({pictures}/{picture.name}.svg)\n\n{picture.reading}"
            for picture in available(document)
        ]
    sections = {
        "Verdicts": verdict_table(document),
        "Decisions": markdown(decisions(document)),
        "Speed in process": markdown(real_texts(document)),
        "Open loop: random arrivals": open_table(document),
        **functional_tables(document),
        "GEMM lower bound: only the matrix products": bound_table(document),
        "Proof and check": proof_table(document) if _has_builds(document) else "",
    }
    for heading, body in sections.items():
        if body:
            parts += [f"## {heading}", body]
    if sections["Proof and check"]:
        parts.append(proof_note(document))
    return "\n\n".join([*filter(None, parts), provenance(document)]) + "\n"


def table(document: Report) -> str:
    """One row per variant, and below them one per baseline, as GitHub shows it."""
    return markdown(_main(document))


def terminal_table(document: Report) -> str:
    """One column per variant while they fit into a terminal; of many, a row each with the main figures."""
    is_short = len(document.rows) <= MOST_COLUMNS
    found = _main(document, PAGE if is_short else TERMINAL)
    rows = [[cell.markdown for cell in row.cells] for row in found.rows]
    headers = [header.text for header in found.headers]
    if is_short:
        headers, *rows = [list(column) for column in zip(headers, *rows, strict=True)]
    return tabulate(rows, headers, "simple", disable_numparse=True)


def summary(document: Report) -> str:
    """The main figures of every variant and baseline, and in short how they were measured: for a document
    that links to the whole page."""
    return f"{markdown(_main(document, SUMMARY))}\n\n{provenance_in_short(document)}"


def brief(document: Report) -> str:
    """A few rows and columns of that, for a front page."""
    kept = [column for column in columns.main(document) if column.in_brief]
    found = of_items("Variants in brief", kept, in_brief(document))
    return f"{markdown(found)}\n\n{machine_and_run(document)}"


def stages(document: Report) -> str:
    """Of variants of several stages: labels that differ from fp32's, what is asked again, and speed."""
    found = of_items("Stages", columns.stages(document), document.measured)
    return f"{markdown(found)}\n\n{machine_and_run(document)}"


def _main(document: Report, shown: int = PAGE) -> Table:
    kept = [column for column in columns.main(document) if column.in_markdown and column.shown >= shown]
    return of_items("Variants", kept, document.rows)


def verdict_table(document: Report) -> str:
    """Per variant what the check and the test say, and why; empty where the report has no test."""
    others = [variant for variant in document.measured if variant.name != REFERENCE]
    if not is_tested(document) or not others:
        return ""
    allowed = margin(document)
    kept = [column for column in columns.verdicts(allowed) if column.in_markdown]
    reasons = [f"- {variant.name}: {reason(variant, allowed)}" for variant in others]
    return markdown(of_items("Verdicts", kept, others)) + "\n\n" + "\n".join(reasons)


def open_table(document: Report) -> str:
    """Per variant and offered rate: what was answered, in time, how fast, and where the time went."""
    levels = [(row.name, level) for row in document.rows for level in row.open]
    return markdown(named("Open loop", "served", columns.open_loop(document.run.objective_p99_ms), levels))


def functional_tables(document: Report) -> dict[str, str]:
    """By heading, per suite of cases: the accuracy of each variant on each functionality, and the gaps
    between groups."""
    tables = {}
    for suite, found in by_suite(document).items():
        cases, whole = functional(suite, found)
        rows = [[cell.markdown for cell in row.cells] for row in cases.rows]
        rows += [[words, "", "", *figures] for words, *figures in turned(whole)]
        tables[SUITES.get(suite, suite)] = github(rows, [header.text for header in cases.headers])
    return tables


def bound_table(document: Report) -> str:
    """The encoder's matrix products alone by shape, time and rate; empty where they were not measured."""
    return markdown(
        of_items("GEMM lower bound", columns.GEMM_BOUND, document.bound.cases if document.bound else [])
    )


def proof_table(document: Report) -> str:
    """One row per variant: what it was made from, what proves it, and how the reloaded artifact compares
    with fp32 on the validation texts."""
    return markdown(of_items("Proof and check", columns.proofs(), document.variants))


def proof_note(document: Report) -> str:
    """How the table of proofs was made."""
    run = document.run
    first = document.variants[0].artifact
    texts = first and first.check.n
    return (
        f"Each artifact was reloaded and compared with fp32 on {texts or 'the'} validation texts. Faster or "
        f"slower: measured in process, {run.threads} threads of {document.machine.cpu}, run {run.id}."
    )


def _has_builds(document: Report) -> bool:
    """Whether the report is of a version that carries what the table of proofs shows."""
    return any(
        variant.artifact and variant.artifact.build_seconds is not UNSET for variant in document.variants
    )
