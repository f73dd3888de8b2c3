"""The folder of results: `<variant>.json|.md|.html` of each variant, `side-by-side.json|.md|.html` of all.

Nothing is written that its schema refuses, and nothing is read that it would refuse. Reports of variants
that a later run left out stay; their run's id tells them apart.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jsonschema

from benchmarks.records import Report, side_by_side, validate
from benchmarks.report import markdown
from benchmarks.sameness import power
from benchmarks.served import head_to_head
from benchmarks.served.attack import page as attack_page
from common.atomic import write_json
from handler.errors import UserError

SIDE_BY_SIDE = "side-by-side"
HEAD_TO_HEAD = "head-to-head"
POWER = "power"


def write_reports(
    folder: Path, reports: Sequence[Report], texts: Mapping[tuple[str, int], str] | None = None
) -> dict[str, Any]:
    """Validate, then write `<variant>.json|.md|.html` and those of all side by side; the document of all.

    `texts` that flipped, by split and row, are shown in `side-by-side.html` alone.
    """
    from benchmarks.report import html  # a plotting library, which no other command needs

    document = side_by_side(reports)
    validate(document, "sideBySide")
    write_json(folder / f"{SIDE_BY_SIDE}.json", document)
    for report in reports:
        validate(report, "report")
        write_json(folder / f"{report['name']}.json", report)
    for report in reports:  # figures are safe before the first picture is drawn
        (folder / f"{report['name']}.md").write_text(markdown.report(report), encoding="utf-8")
        (folder / f"{report['name']}.html").write_text(html.variant_page(report), encoding="utf-8")
    (folder / f"{SIDE_BY_SIDE}.md").write_text(markdown.side_by_side(document), encoding="utf-8")
    (folder / f"{SIDE_BY_SIDE}.html").write_text(html.side_by_side(document, None, texts), encoding="utf-8")
    return document


def add_selection(folder: Path, document: Mapping[str, Any], selection: Mapping[str, Any]) -> None:
    """Write `selection.json`, and the page of all variants anew with what was chosen."""
    from benchmarks.report import html

    write_json(folder / "selection.json", selection)
    page = folder / f"{SIDE_BY_SIDE}.html"
    page.write_text(html.side_by_side(document, selection), encoding="utf-8")


def read_report(folder: Path, name: str) -> Report:
    """The report of `name` in `folder`. Raises `UserError` when it is missing or damaged."""
    return _read(folder / f"{name}.json", partial(validate, kind="report"), f"there is no report of {name}")


def read_side_by_side(path: Path) -> dict[str, Any]:
    """The side-by-side document at `path`. Raises `UserError` when it is missing or damaged."""
    return _read(path, partial(validate, kind="sideBySide"), "there is no report")


def read_measurements(path: Path) -> dict[str, Any]:
    """The side-by-side at `path`, or the report of one variant there as a side-by-side of it alone. Raises
    `UserError` when it is missing or damaged."""

    def check(document: Any) -> None:
        whole = isinstance(document, dict) and "variants" in document
        validate(document, "sideBySide" if whole else "report")

    document = _read(path, check, "there is no report")
    return document if "variants" in document else side_by_side([document])


def read_selection(folder: Path) -> dict[str, Any] | None:
    """What `add_selection` wrote to `folder`; None where nothing was selected yet. Raises `UserError` when it
    is damaged."""
    path = folder / "selection.json"
    if not path.is_file():
        return None
    return _read(path, lambda found: found["selected"], "nothing was selected", "make select")


def read_head_to_head(path: Path) -> dict[str, Any]:
    """The head-to-head document at `path`. Raises `UserError` when it is missing or damaged."""
    measure = "python -m benchmarks head-to-head openvino-int8"
    return _read(path, head_to_head.validate, "there is no head-to-head", measure)


def read_power(path: Path) -> Any:
    """The counts of `power` at `path`. Raises `UserError` when they are missing or damaged."""
    return _read(path, power.validate, "nothing has been simulated yet", "python -m benchmarks power")


def read_attack(path: Path) -> Any:
    """The attacks, or the soak, at `path`. Raises `UserError` when they are missing or damaged."""
    return _read(path, attack_page.validate, "nothing has been attacked yet", "python -m benchmarks attack")


def _read(
    path: Path, check: Callable[[Any], None], lacking: str, measure: str = "make benchmark"
) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(lacking, seen=path, remedy=f"Measure first: {measure}")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        check(document)
    except (ValueError, TypeError, KeyError, jsonschema.ValidationError) as error:
        raise UserError("the report is damaged", seen=path, remedy=f"Measure again: {measure}") from error
    return document
