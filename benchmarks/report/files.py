"""The folder of results: `<variant>.json|.md|.html` of each variant, `side-by-side.json|.md|.html` of all.

Every document is checked against its type when written and when read. Reports of variants that a later run
left out stay; the run's id tells them apart.
"""

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec

from benchmarks.compression.records import Compression
from benchmarks.in_process.simulated import Simulated as SimulatedTimings
from benchmarks.records import Report, as_report, flat, plain, tidied
from benchmarks.report import markdown
from benchmarks.sameness.alarms import Alarms
from benchmarks.sameness.first_stages import FirstStages
from benchmarks.sameness.flip_coverage import Coverage
from benchmarks.sameness.flips_needed import LabelsNeeded
from benchmarks.sameness.power import Simulated
from benchmarks.sameness.promises import Promises
from benchmarks.sameness.self_checks import SelfChecks
from benchmarks.sameness.shadows import Shadowed
from benchmarks.sameness.shift import Shift
from benchmarks.selection import Selection
from benchmarks.served.app_soaks import AppSoak
from benchmarks.served.attack.records import AttackReport
from benchmarks.served.caches import CacheFound
from benchmarks.served.head_to_head import HeadToHead
from benchmarks.served.overheads import Overhead
from benchmarks.served.servers import Servers
from benchmarks.served.worker_counts import WorkersFound
from common.atomic import write_json
from common.programs import command
from common.records import read
from handler.errors import UserError
from training.measures.ablation import Ablation
from training.measures.comparison import Comparison
from training.measures.seeds import Seeds

SIDE_BY_SIDE = "side-by-side"
HEAD_TO_HEAD = "head-to-head"
SERVERS = "servers"
POWER, ALARMS, TIMINGS = "power", "alarms", "timings"
T = TypeVar("T")


def write_reports(folder: Path, report: Report, texts: Mapping[tuple[str, int], str] | None = None) -> Report:
    """Write `<variant>.json|.md|.html` and those of all side by side; the report as it is written. Raises
    `msgspec.ValidationError` for what is no report.

    `texts` that flipped, by split and row, are shown in `side-by-side.html` alone.
    """
    from benchmarks.report import html  # a plotting library, which no other command needs

    report = tidied(report)
    write_json(folder / f"{SIDE_BY_SIDE}.json", plain(report))
    each = {variant.name: report.of(variant) for variant in report.variants}
    for name, document in each.items():
        write_json(folder / f"{name}.json", flat(document))
    for name, document in each.items():  # figures are safe before the first picture is drawn
        (folder / f"{name}.md").write_text(markdown.report(document), encoding="utf-8")
        (folder / f"{name}.html").write_text(html.variant_page(document), encoding="utf-8")
    (folder / f"{SIDE_BY_SIDE}.md").write_text(markdown.side_by_side(report), encoding="utf-8")
    (folder / f"{SIDE_BY_SIDE}.html").write_text(html.side_by_side(report, None, texts), encoding="utf-8")
    return report


def add_selection(folder: Path, report: Report, selection: Selection) -> None:
    """Write `selection.json`, and the page of all variants again with what was chosen."""
    from benchmarks.report import html

    write_json(folder / "selection.json", msgspec.to_builtins(selection))
    page = folder / f"{SIDE_BY_SIDE}.html"
    page.write_text(html.side_by_side(report, selection), encoding="utf-8")


def read_report(folder: Path, name: str) -> Report:
    """The report of `name` alone in `folder`. Raises `UserError` when it is missing or damaged."""
    return _read(folder / f"{name}.json", as_report, f"there is no report of {name}")


def read_side_by_side(path: Path) -> Report:
    """The report at `path`, of all variants or of one. Raises `UserError` when it is missing or damaged."""
    return _read(path, as_report, "there is no report")


def read_selection(folder: Path) -> Selection | None:
    """What `add_selection` wrote to `folder`; None where nothing was selected yet. Raises `UserError` when it
    is damaged."""
    path = folder / "selection.json"
    if not path.is_file():
        return None
    return _read(
        path, partial(read, kind=Selection), "nothing was selected", command("benchmarks select", "select")
    )


def _reader(kind: type[T], lacking: str, *, verb: str = "", study: str = "") -> Callable[[Path], T]:
    """Reads what `verb`, or a `study`, wrote. Raises `UserError`: it is `lacking`, or it is damaged."""

    def reader(path: Path) -> T:
        measure = command(verb) if verb else f"python -m benchmarks.studies.{study}"
        return _read(path, partial(read, kind=kind), lacking, measure)

    return reader


SIMULATED = "nothing has been simulated yet"
read_power = _reader(Simulated, SIMULATED, verb="benchmarks power")
read_alarms = _reader(Alarms, SIMULATED, verb="benchmarks power --alarms")
read_coverage = _reader(Coverage, SIMULATED, verb="benchmarks.studies.flip_coverage")
read_needed = _reader(LabelsNeeded, SIMULATED, verb="benchmarks.studies.flips_needed")
read_timings = _reader(SimulatedTimings, SIMULATED, verb="benchmarks power --timings")
read_head_to_head = _reader(
    HeadToHead, "there is no head-to-head report", verb="benchmarks head-to-head openvino-int8"
)
read_servers = _reader(Servers, "no servers have been compared yet", verb="benchmarks servers openvino-int8")
read_recipes = _reader(
    Comparison,
    "no recipes have been compared yet",
    verb="training compare --leave-one-out training/configs/recipes/*.yaml",
)
read_seeds = _reader(Seeds, "no trainings have been compared yet", verb="training seeds CHECKPOINT…")
read_ablation = _reader(
    Ablation, "no recipes have been taken apart yet", verb="training ablation CHECKPOINT…"
)
read_promises = _reader(Promises, "no decisions have been studied yet", study="decisions")
read_compression = _reader(Compression, "nothing has been searched yet", verb="benchmarks compress")
read_rules = _reader(FirstStages, "no first stages have been studied yet", study="first_stage")
read_shift = _reader(Shift, "no cascade has been tried on other texts", study="cascade_shift")
read_self_checks = _reader(SelfChecks, "no self-check has been studied yet", study="self_check")
read_shadowed = _reader(Shadowed, "no shadow has been studied yet", study="shadow")
read_overhead = _reader(Overhead, "no server's overhead has been measured yet", study="overhead")
read_workers = _reader(WorkersFound, "no workers have been compared yet", study="workers")
read_app_soak = _reader(AppSoak, "the app has not been soaked yet", study="soak")
read_caches = _reader(CacheFound, "no cache has been studied yet", study="cached")
read_attack = _reader(AttackReport, "no attack has been measured yet", verb="benchmarks attack")


def _read(path: Path, convert: Callable[[object], T], lacking: str, measure: str = "") -> T:
    measure = measure or command("benchmarks run", "benchmark")
    if not path.is_file():
        raise UserError(lacking, seen=path, remedy=f"Measure first: {measure}")
    try:
        return convert(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:  # msgspec's are among them
        raise UserError("the report is damaged", seen=path, remedy=f"Measure again: {measure}") from error
