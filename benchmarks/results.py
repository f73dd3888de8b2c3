"""The folder of results: `<variant>.json|.md` of each variant, `side-by-side.json|.md` of all.

Nothing is written that its schema refuses, and nothing is read that it would refuse. Reports of variants
that a later run left out stay; their run's id tells them apart.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonschema

from benchmarks import pages
from benchmarks.report import Report, side_by_side, validate
from handler.atomic import write_json
from handler.errors import UserError

SIDE_BY_SIDE = "side-by-side"


def write_reports(folder: Path, reports: Sequence[Report]) -> dict[str, Any]:
    """Validate, then write `<variant>.json|.md` and `side-by-side.json|.md`; the side-by-side document."""
    document = side_by_side(reports)
    for report in reports:
        validate(report, "report")
        write_json(folder / f"{report['name']}.json", report)
        (folder / f"{report['name']}.md").write_text(pages.report(report), encoding="utf-8")
    validate(document, "sideBySide")
    write_json(folder / f"{SIDE_BY_SIDE}.json", document)
    (folder / f"{SIDE_BY_SIDE}.md").write_text(pages.side_by_side(document), encoding="utf-8")
    return document


def read_report(folder: Path, name: str) -> Report:
    """The report of `name` in `folder`. Raises `UserError` when it is missing or damaged."""
    return _read(folder / f"{name}.json", "report", f"there is no report of {name}")


def read_side_by_side(path: Path) -> dict[str, Any]:
    """The side-by-side document at `path`. Raises `UserError` when it is missing or damaged."""
    return _read(path, "sideBySide", "nothing has been measured yet")


def _read(path: Path, kind: str, lacking: str) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(lacking, seen=path, remedy="Measure first: make benchmark")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        validate(document, kind)
    except (ValueError, jsonschema.ValidationError) as error:
        raise UserError("the report is damaged", seen=path, remedy="Measure again: make benchmark") from error
    return document
