"""Committed reports, and the tables that documents take from them.

`publish` copies what was measured, its page and its pictures into the repository: figures only, no texts,
host names or paths. `tables` writes its main figures between `<!-- table:NAME -->` and `<!-- /table -->` of a
document, so that no figure there is typed by hand; a word after the name (`:brief`, `:attack` …) takes
another table.
"""

import platform
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.compression.records import NAME as COMPRESSION
from benchmarks.in_process import simulated
from benchmarks.names import ATTACK, FLIPS, NEEDED, SOAK
from benchmarks.records import Report, plain
from benchmarks.report import frontier, head_to_head_page, markdown, servers_page
from benchmarks.report.explained import explained
from benchmarks.report.files import (
    ALARMS,
    HEAD_TO_HEAD,
    POWER,
    SERVERS,
    SIDE_BY_SIDE,
    TIMINGS,
    read_ablation,
    read_alarms,
    read_app_soak,
    read_attack,
    read_caches,
    read_compression,
    read_coverage,
    read_head_to_head,
    read_needed,
    read_overhead,
    read_power,
    read_promises,
    read_recipes,
    read_rules,
    read_seeds,
    read_self_checks,
    read_servers,
    read_shadowed,
    read_shift,
    read_side_by_side,
    read_timings,
    read_workers,
)
from benchmarks.sameness import (
    alarms,
    first_stages,
    flip_coverage,
    flips_needed,
    power,
    promises,
    self_checks,
    shadows,
    shift,
)
from benchmarks.served import app_soaks, caches, overheads, worker_counts
from benchmarks.served.attack import page as attack_page
from common.atomic import write_json, write_text
from common.options import LEDGER
from common.programs import command
from handler.errors import UserError
from training.measures import ablation, comparison, seeds

OPENING = re.compile(r"<!-- table:")
NAME = re.compile(r"[a-z0-9][a-z0-9-]*")
# An absolute path, but not what follows the colon of https:.
PATH = re.compile(r"(?<![\w/.])~?(?!(?<=:)//)/(?:[^\s:'\"(),]+/)*[^\s:'\"(),]+")


def publish(name: str, results: Path, published: Path, ledger: Path | None = None) -> Path:
    """Copy `results/side-by-side.json` to `published/NAME.json` with its page; the JSON's path. The gate's
    `ledger`, if it exists, goes to `published/NAME/`: so that its readers can see all looks at the gate.

    Raises `UserError` for a name that cannot be a marker, and when nothing was measured.
    """
    _check_name(name)
    report = read_side_by_side(results / f"{SIDE_BY_SIDE}.json")
    for variant in report.variants:
        variant.flipped = []  # which rows flipped is for those who have the texts
    path = published / f"{name}.json"
    write_json(path, without_places(plain(report)))
    _write(_page(path, read_side_by_side(path)))
    if ledger and ledger.is_file():
        write_text(path.with_suffix("") / LEDGER, ledger.read_text(encoding="utf-8"))
    return path


@dataclass(frozen=True)
class Kind:
    """Something else than a side-by-side that can be published, as `NAME.<kind>.json`: `file` is its name
    among the results, `page` all of it as Markdown, and `excerpt` what another document shows of it."""

    file: str
    read: Callable[[Path], Any]
    page: Callable[[Any], str]
    excerpt: Callable[[Any], str]


KINDS = {
    "served": Kind(
        HEAD_TO_HEAD,
        read_head_to_head,
        head_to_head_page.page,
        lambda document: f"{head_to_head_page.loads_table(document)}\n\n{head_to_head_page.note(document)}",
    ),
    SERVERS: Kind(SERVERS, read_servers, servers_page.page, servers_page.excerpt),
    "attack": Kind(ATTACK, read_attack, attack_page.page, attack_page.excerpt),
    "soak": Kind(SOAK, read_attack, attack_page.page, attack_page.excerpt),
    "power": Kind(POWER, read_power, power.page, power.excerpt),
    "alarms": Kind(ALARMS, read_alarms, alarms.page, alarms.excerpt),
    "flips": Kind(FLIPS, read_coverage, flip_coverage.page, flip_coverage.excerpt),
    "labels": Kind(NEEDED, read_needed, flips_needed.page, flips_needed.excerpt),
    "recipes": Kind(comparison.NAME, read_recipes, comparison.page, comparison.excerpt),
    "ablation": Kind(ablation.NAME, read_ablation, ablation.page, ablation.excerpt),
    "seeds": Kind(seeds.NAME, read_seeds, seeds.page, seeds.excerpt),
    "decisions": Kind(promises.NAME, read_promises, promises.page, promises.excerpt),
    "compression": Kind(COMPRESSION, read_compression, frontier.page, frontier.excerpt),
    "rules": Kind(first_stages.NAME, read_rules, first_stages.page, first_stages.excerpt),
    "shift": Kind(shift.NAME, read_shift, shift.page, shift.excerpt),
    self_checks.NAME: Kind(self_checks.NAME, read_self_checks, self_checks.page, self_checks.excerpt),
    app_soaks.NAME: Kind(app_soaks.NAME, read_app_soak, app_soaks.page, app_soaks.excerpt),
    worker_counts.NAME: Kind(worker_counts.NAME, read_workers, worker_counts.page, worker_counts.excerpt),
    caches.NAME: Kind(caches.NAME, read_caches, caches.page, caches.excerpt),
    overheads.NAME: Kind(overheads.NAME, read_overhead, overheads.page, overheads.excerpt),
    shadows.NAME: Kind(shadows.NAME, read_shadowed, shadows.page, shadows.excerpt),
    "timings": Kind(TIMINGS, read_timings, simulated.page, simulated.excerpt),
}


def publish_kind(kind: str, name: str, results: Path, published: Path) -> Path:
    """As `publish`, of another kind, to `published/NAME.KIND.json`."""
    _check_name(name)
    what = KINDS[kind]
    document = what.read(results / f"{what.file}.json")
    path = published / f"{name}.{kind}.json"
    write_json(path, without_places(msgspec.to_builtins(document)))
    path.with_suffix(".md").write_text(what.page(what.read(path)), encoding="utf-8")
    return path


# What a document shows of a side-by-side, by the kind of its marker.
EXCERPTS: dict[str | None, Callable[[Report], str]] = {
    None: markdown.summary,
    "brief": markdown.brief,
    "stages": markdown.stages,
    "explained": explained,
    "proof": lambda document: f"{markdown.proof_table(document)}\n\n{markdown.proof_note(document)}",
}
MARKED = re.compile(
    r"(?P<opening><!-- table:(?P<name>[a-z0-9][a-z0-9-]*)"
    rf"(?::(?P<kind>{'|'.join(filter(None, (*EXCERPTS, *KINDS)))}))? -->\n)"
    r".*?(?P<closing><!-- /table -->)",
    re.DOTALL,
)


def _check_name(name: str) -> None:
    if not NAME.fullmatch(name):
        raise UserError(
            "this is not a valid table name", seen=name, remedy="Use lower-case letters, digits and hyphens"
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
    """`text` with every marked table written again. Raises `UserError` for a broken marker or an unknown
    name."""
    if len(OPENING.findall(text)) != len(MARKED.findall(text)):
        raise UserError(
            "a table marker is not closed", remedy="End each <!-- table:NAME --> with <!-- /table -->"
        )

    def fill(match: re.Match[str]) -> str:
        if kind := KINDS.get(match["kind"]):
            body = kind.excerpt(kind.read(published / f"{match['name']}.{match['kind']}.json"))
            return f"{match['opening']}\n{body}\n\n{match['closing']}"
        document = read_published(match["name"], published)
        return f"{match['opening']}\n{EXCERPTS[match['kind']](document)}\n\n{match['closing']}"

    return MARKED.sub(fill, text)


def read_published(name: str, published: Path) -> Report:
    """The committed report of that name."""
    path = published / f"{name}.json"
    if not path.is_file():
        known = ", ".join(sorted(path.stem for path in published.glob("*.json"))) or "none"
        raise UserError(
            f"there is no published report {name} (published: {known})",
            seen=path,
            remedy=f"Measure, then publish it: {command(f'benchmarks publish {name}')}",
        )
    return read_side_by_side(path)


def stale(documents: list[Path], published: Path) -> list[Path]:
    """Those documents, and those pages and pictures of published reports, that differ from what would be
    written; and pictures that no report has the data for."""
    return _differing(_fresh(documents, published))


def refresh(documents: list[Path], published: Path) -> list[Path]:
    """Write what is stale, and remove the pictures that no report has the data for; the paths of both."""
    fresh = _fresh(documents, published)
    changed = _differing(fresh)
    _write({path: fresh[path] for path in changed})
    return changed


def _differing(fresh: Mapping[Path, str | None]) -> list[Path]:
    """Bytes are compared: a picture is the same or it is another."""
    return [
        path
        for path, text in fresh.items()
        if (path.read_bytes() if path.is_file() else None) != (None if text is None else text.encode())
    ]


def _write(texts: Mapping[Path, str | None]) -> None:
    for path, text in texts.items():
        if text is None:
            path.unlink()
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())


def _page(path: Path, document: Report) -> dict[Path, str | None]:
    """A published report's page and its pictures by path; None for a picture that should not be there."""
    from benchmarks.report.charts import draw  # a plotting library, which no other command needs

    folder = path.with_suffix("")
    drawn = {folder / f"{name}.svg": text for name, text in draw(document).items()}
    left_over = {old: None for old in sorted(folder.glob("*.svg")) if old not in drawn}
    return {path.with_suffix(".md"): markdown.side_by_side(document, path.stem), **drawn, **left_over}


def _fresh(documents: list[Path], published: Path) -> dict[Path, str | None]:
    """What every document, every page and every picture should hold."""
    texts: dict[Path, str | None] = {}
    for path in documents:
        if not path.is_file():
            raise UserError(
                "there is no such document",
                seen=path,
                remedy="Run from the project's root, or name it: --readme",
            )
        texts[path] = render(path.read_text(encoding="utf-8"), published)
    for path in sorted(published.glob("*.json")):
        if kind := KINDS.get(path.stem.partition(".")[2]):
            texts[path.with_suffix(".md")] = kind.page(kind.read(path))
        else:
            texts |= _page(path, read_side_by_side(path))
    return texts
