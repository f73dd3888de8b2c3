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


def read_head_to_head(path: Path) -> HeadToHead:
    """The head-to-head document at `path`. Raises `UserError` when it is missing or damaged."""
    measure = command("benchmarks head-to-head openvino-int8")
    return _read(path, partial(read, kind=HeadToHead), "there is no head-to-head report", measure)


def read_servers(path: Path) -> Servers:
    """The comparison of servers at `path`. Raises `UserError` when it is missing or damaged."""
    measure = command("benchmarks servers openvino-int8")
    return _read(path, partial(read, kind=Servers), "no servers have been compared yet", measure)


def _of_simulation(kind: type[T], verb: str) -> Callable[[Path], T]:
    """Reads what `verb` counted. Raises `UserError` when it is missing or damaged."""

    def read_counts(path: Path) -> T:
        return _read(path, partial(read, kind=kind), "nothing has been simulated yet", command(verb))

    return read_counts


read_power = _of_simulation(Simulated, "benchmarks power")
read_alarms = _of_simulation(Alarms, "benchmarks power --alarms")
read_coverage = _of_simulation(Coverage, "benchmarks.studies.flip_coverage")
read_needed = _of_simulation(LabelsNeeded, "benchmarks.studies.flips_needed")
read_timings = _of_simulation(SimulatedTimings, "benchmarks power --timings")


def read_recipes(path: Path) -> Comparison:
    """The comparison of recipes at `path`. Raises `UserError` when it is missing or damaged."""
    compare = command("training compare --leave-one-out training/configs/recipes/*.yaml")
    return _read(path, partial(read, kind=Comparison), "no recipes have been compared yet", compare)


def read_seeds(path: Path) -> Seeds:
    """The trainings of one recipe at `path`. Raises `UserError` when it is missing or damaged."""
    compare = command("training seeds CHECKPOINT…")
    return _read(path, partial(read, kind=Seeds), "no trainings have been compared yet", compare)


def read_ablation(path: Path) -> Ablation:
    """What several recipes get right, at `path`. Raises `UserError` when it is missing or damaged."""
    compare = command("training ablation CHECKPOINT…")
    return _read(path, partial(read, kind=Ablation), "no recipes have been taken apart yet", compare)


def read_promises(path: Path) -> Promises:
    """The promises of bands at `path`. Raises `UserError` when they are missing or damaged."""
    study = "python -m benchmarks.studies.decisions"
    return _read(path, partial(read, kind=Promises), "no decisions have been studied yet", study)


def read_compression(path: Path) -> Compression:
    """What a search tried, at `path`. Raises `UserError` when it is missing or damaged."""
    search = command("benchmarks compress")
    return _read(path, partial(read, kind=Compression), "nothing has been searched yet", search)


def read_rules(path: Path) -> FirstStages:
    """How often first stages break promises, at `path`. Raises `UserError` if it is missing or damaged."""
    study = "python -m benchmarks.studies.first_stage"
    return _read(path, partial(read, kind=FirstStages), "no first stages have been studied yet", study)


def read_shift(path: Path) -> Shift:
    """What a cascade does on other texts, at `path`. Raises `UserError` when it is missing or damaged."""
    study = "python -m benchmarks.studies.cascade_shift"
    return _read(path, partial(read, kind=Shift), "no cascade has been tried on other texts", study)


def read_self_checks(path: Path) -> SelfChecks:
    """What the self-check saw, at `path`. Raises `UserError` when it is missing or damaged."""
    study = "python -m benchmarks.studies.self_check"
    return _read(path, partial(read, kind=SelfChecks), "no self-check has been studied yet", study)


def read_shadowed(path: Path) -> Shadowed:
    """What a shadow costs and finds, at `path`. Raises `UserError` when it is missing or damaged."""
    study = "python -m benchmarks.studies.shadow"
    return _read(path, partial(read, kind=Shadowed), "no shadow has been studied yet", study)


def read_overhead(path: Path) -> Overhead:
    """What our servers cost, at `path`. Raises `UserError` when it is missing or damaged."""
    study = "python -m benchmarks.studies.overhead"
    return _read(path, partial(read, kind=Overhead), "no server's overhead has been measured yet", study)


def read_workers(path: Path) -> WorkersFound:
    """What several workers are worth, at `path`. Raises `UserError` when it is missing or damaged."""
    study = "python -m benchmarks.studies.workers"
    return _read(path, partial(read, kind=WorkersFound), "no workers have been compared yet", study)


def read_app_soak(path: Path) -> AppSoak:
    """What the app lost, at `path`. Raises `UserError` when it is missing or damaged."""
    study = "python -m benchmarks.studies.soak"
    return _read(path, partial(read, kind=AppSoak), "the app has not been soaked yet", study)


def read_caches(path: Path) -> CacheFound:
    """What a cache saved, at `path`. Raises `UserError` when it is missing or damaged."""
    study = "python -m benchmarks.studies.cached"
    return _read(path, partial(read, kind=CacheFound), "no cache has been studied yet", study)


def read_attack(path: Path) -> AttackReport:
    """The attacks, or the soak, at `path`. Raises `UserError` when they are missing or damaged."""
    lacking = "no attack has been measured yet"
    return _read(path, partial(read, kind=AttackReport), lacking, command("benchmarks attack"))


def _read(path: Path, convert: Callable[[object], T], lacking: str, measure: str = "") -> T:
    measure = measure or command("benchmarks run", "benchmark")
    if not path.is_file():
        raise UserError(lacking, seen=path, remedy=f"Measure first: {measure}")
    try:
        return convert(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:  # msgspec's are among them
        raise UserError("the report is damaged", seen=path, remedy=f"Measure again: {measure}") from error
