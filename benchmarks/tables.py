"""Committed reports, and the tables that documents take from them.

`publish` copies a side-by-side report into the repository; `tables` writes it between
`<!-- table:NAME -->` and `<!-- /table -->` of a document, and the table of proofs of the same report between
`<!-- table:NAME:proof -->` and its end. `publish_served` and `<!-- table:NAME:served -->` do the same for a
head-to-head of servers. A check finds documents that are stale. So no figure in the README
is typed by hand. What is published holds figures only: no texts (no report does), no host names, no paths.
"""

import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import pages, served_pages
from benchmarks.report import validate
from benchmarks.results import HEAD_TO_HEAD, SIDE_BY_SIDE, read_head_to_head, read_side_by_side
from handler.atomic import write_json
from handler.errors import UserError

MARKED = re.compile(
    r"(?P<opening><!-- table:(?P<name>[a-z0-9][a-z0-9-]*)(?P<kind>:proof|:served)? -->\n)"
    r".*?(?P<closing><!-- /table -->)",
    re.DOTALL,
)
SERVED = ".served"
OPENING = re.compile(r"<!-- table:")
NAME = re.compile(r"[a-z0-9][a-z0-9-]*")
# An absolute path, but not what follows the colon of https:.
PATH = re.compile(r"(?<![\w/.])~?(?!(?<=:)//)/(?:[^\s:'\"(),]+/)*[^\s:'\"(),]+")


def publish(name: str, results: Path, published: Path) -> Path:
    """Copy `results/side-by-side.json` to `published/NAME.json` with its page beside it; the JSON's path.

    Raises `UserError` for a name that cannot be a marker, and when nothing was measured.
    """
    _check_name(name)
    document = without_places(read_side_by_side(results / f"{SIDE_BY_SIDE}.json"))
    validate(document, "sideBySide")
    path = published / f"{name}.json"
    write_json(path, document)
    path.with_suffix(".md").write_text(pages.side_by_side(document), encoding="utf-8")
    return path


def publish_served(name: str, results: Path, published: Path) -> Path:
    """As `publish`, of `results/head-to-head.json` to `published/NAME.served.json`."""
    _check_name(name)
    document = without_places(read_head_to_head(results / f"{HEAD_TO_HEAD}.json"))
    path = published / f"{name}{SERVED}.json"
    write_json(path, document)
    path.with_suffix(".md").write_text(served_pages.page(document), encoding="utf-8")
    return path


def _check_name(name: str) -> None:
    if not NAME.fullmatch(name):
        raise UserError(
            "this is no name for a table", seen=name, remedy="Use small letters, digits and hyphens"
        )


def without_places(value: Any) -> Any:
    """The document without paths and without this machine's name, wherever they stand (error messages do)."""
    if isinstance(value, Mapping):
        return {key: without_places(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_places(item) for item in value]
    if not isinstance(value, str):
        return value
    value = PATH.sub("(path)", value)
    host = platform.node()
    return re.sub(rf"\b{re.escape(host)}\b", "(host)", value) if len(host) > 2 else value


def render(text: str, published: Path) -> str:
    """`text` with every marked table made anew. Raises `UserError` for a broken marker or an unknown name."""
    if len(OPENING.findall(text)) != len(MARKED.findall(text)):
        raise UserError(
            "a table marker is not closed", remedy="End each <!-- table:NAME --> with <!-- /table -->"
        )

    def fill(match: re.Match[str]) -> str:
        if match["kind"] == ":served":
            document = read_head_to_head(published / f"{match['name']}{SERVED}.json")
            body = f"{served_pages.loads_table(document)}\n\n{served_pages.note(document)}"
            return f"{match['opening']}\n{body}\n\n{match['closing']}"
        document = read_published(match["name"], published)
        if match["kind"]:
            body = f"{pages.proof_table(document)}\n\n{pages.proof_note(document)}"
        else:
            body = f"{pages.table(document)}\n\n{pages.provenance(document)}"
        return f"{match['opening']}\n{body}\n\n{match['closing']}"

    return MARKED.sub(fill, text)


def read_published(name: str, published: Path) -> dict[str, Any]:
    """The committed report of that name."""
    path = published / f"{name}.json"
    if not path.is_file():
        known = ", ".join(sorted(one.stem for one in published.glob("*.json"))) or "none"
        raise UserError(
            f"there is no published report {name} (there: {known})",
            seen=path,
            remedy=f"Measure and publish it: make benchmark && python -m benchmarks publish {name}",
        )
    return read_side_by_side(path)


def stale(documents: list[Path], published: Path) -> list[Path]:
    """Those documents, and those pages beside published reports, that differ from what would be written."""
    return [
        path
        for path, text in _fresh(documents, published).items()
        if not path.is_file() or path.read_text() != text
    ]


def refresh(documents: list[Path], published: Path) -> list[Path]:
    """Write what is stale; the paths that were written."""
    written = stale(documents, published)
    fresh = _fresh(documents, published)
    for path in written:
        path.write_text(fresh[path], encoding="utf-8")
    return written


def _fresh(documents: list[Path], published: Path) -> dict[Path, str]:
    """What every document and every page should hold."""
    texts = {}
    for path in documents:
        if not path.is_file():
            raise UserError(
                "there is no such document",
                seen=path,
                remedy="Run from the project's root, or name it: --readme",
            )
        texts[path] = render(path.read_text(encoding="utf-8"), published)
    for path in sorted(published.glob("*.json")):
        if path.stem.endswith(SERVED):
            texts[path.with_suffix(".md")] = served_pages.page(read_head_to_head(path))
        else:
            texts[path.with_suffix(".md")] = pages.side_by_side(read_side_by_side(path))
    return texts
