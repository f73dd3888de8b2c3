"""`python -m benchmarks select|power`: which variant to serve, and how often verdicts or alarms are wrong."""

import argparse
from typing import TYPE_CHECKING, Any

from msgspec import to_builtins

from benchmarks.names import REFERENCE
from benchmarks.verbs.labelling import add_subject, plan_labels
from benchmarks.verbs.measuring import add_max_f1_drop
from common.commands import emit, positive_float, positive_int, positive_share, say, share
from common.options import add_artifacts, add_ledger, add_results, ledger_of
from common.programs import command
from handler.artifact import open_artifact
from handler.errors import UserError

if TYPE_CHECKING:
    from benchmarks.records import Report
    from benchmarks.selection import Selection
    from training.measures.certificate import Certificate


def select_arguments(parser: argparse.ArgumentParser) -> None:
    add_results(parser)
    add_artifacts(parser)
    add_ledger(parser)
    parser.add_argument(
        "--p99-ms", type=positive_float, help="highest p99 latency as served; default: no limit"
    )
    parser.add_argument(
        "--rps", type=positive_float, help="lowest rate as served, requests per second; default: no minimum"
    )
    add_max_f1_drop(parser)
    parser.add_argument(
        "--max-recall-drop",
        type=positive_share,
        help="largest drop in any label's recall from fp32's, such as 0.02; default: no limit",
    )
    parser.add_argument(
        "--max-auroc-drop",
        type=positive_share,
        help="largest drop in AUROC from fp32's, such as 0.01; default: no limit",
    )
    parser.add_argument(
        "--max-rate-shift",
        type=positive_share,
        help="largest change, up or down, in the share of texts that get any one label, such as 0.01; "
        "default: no limit",
    )
    parser.add_argument(
        "--max-flip",
        type=share,
        help="largest share of labels that may differ from fp32's, such as 0.02; default: no limit",
    )
    parser.add_argument(
        "--max-mb", type=positive_float, help="largest size of the artifact in MB; default: no limit"
    )


def select(arguments: argparse.Namespace) -> int:
    from benchmarks import selection
    from benchmarks.report.files import SIDE_BY_SIDE, add_selection, read_side_by_side

    document = read_side_by_side(arguments.results / f"{SIDE_BY_SIDE}.json")
    objective = selection.Objective(
        p99_ms=arguments.p99_ms,
        rps=arguments.rps,
        max_f1_drop=arguments.max_f1_drop,
        max_recall_drop=arguments.max_recall_drop,
        max_rate_shift=arguments.max_rate_shift,
        max_flip=arguments.max_flip,
        max_mb=arguments.max_mb,
        max_auroc_drop=arguments.max_auroc_drop,
    )
    found = selection.select(document, objective)
    found.certificate = _certified(arguments, document, found)
    add_selection(arguments.results, document, found)
    selected = found.selected
    for name, reason in sorted(found.reasons.items(), key=lambda item: item[0] != selected):
        say(f"{name}: {reason}")
    if selected is None:
        say("no variant qualifies; the served variant stays as it is")
    emit(to_builtins(found))
    return 0 if selected else 1


def _certified(arguments: argparse.Namespace, document: "Report", found: "Selection") -> "Certificate | None":
    """The certificate of the selected variant; None, with the reason printed, where there can be none."""
    from benchmarks.certificate import certificate_of
    from training.measures.gate_ledger import read_ledger

    if found.selected in (None, REFERENCE):
        return None
    try:
        artifact = open_artifact(arguments.artifacts / found.selected, verify=False)
        if (ledger := read_ledger(path := ledger_of(arguments))) is None:
            remedy = "Name that of the run: --ledger"
            raise UserError("there is no ledger of its gate", seen=path, remedy=remedy)
        return certificate_of(document, found, artifact, ledger)
    except UserError as error:
        say(f"no certificate for {found.selected}: {error}")
        return None


def conclude_arguments(parser: argparse.ArgumentParser) -> None:
    add_results(parser)


def conclude(arguments: argparse.Namespace) -> int:
    from benchmarks.report.conclusion import conclusion
    from benchmarks.report.files import SIDE_BY_SIDE, read_selection, read_side_by_side

    document = read_side_by_side(arguments.results / f"{SIDE_BY_SIDE}.json")
    found = read_selection(arguments.results)
    if found is None or found.run != document.run.id:
        seen = f"run {document.run.id}"
        select_it = command("benchmarks select", "select")
        raise UserError("nothing was selected from the last run", seen=seen, remedy=f"Select: {select_it}")
    say(conclusion(document, found, str(arguments.results / f"{SIDE_BY_SIDE}.html")))
    return 0


def power_arguments(parser: argparse.ArgumentParser) -> None:
    add_results(parser)
    parser.add_argument(
        "--seeds", type=positive_int, default=2000, help="simulated runs of each case; default: %(default)s"
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--alarms",
        action="store_true",
        help="simulate the alarm of python -m deploy drift instead of the verdicts",
    )
    what.add_argument(
        "--timings",
        action="store_true",
        help="simulate the verdicts on speed instead of those on sameness",
    )
    what.add_argument(
        "--texts",
        metavar="FILE|SET",
        help="simulate nothing: plan how many labels a verdict takes on texts like these, a file with "
        "one per line, or a data set by its name",
    )
    parser.add_argument(
        "--margin", type=positive_share, help="macro-F1 drop that a plan is about; default: 0.01"
    )
    add_subject(parser)


def power(arguments: argparse.Namespace) -> int:
    if arguments.texts:
        return plan_labels(arguments)
    if arguments.margin or arguments.variants:
        raise UserError("--margin and --variants are of a plan", remedy="Give --texts as well")
    from tqdm import tqdm

    from benchmarks.in_process import simulated as timings
    from benchmarks.report.publishing import KINDS
    from benchmarks.sameness import alarms
    from benchmarks.sameness import power as verdicts
    from common.atomic import write_json

    of: Any
    if arguments.alarms:
        name, of = "alarms", alarms
    elif arguments.timings:
        name, of = "timings", timings
    else:
        name, of = "power", verdicts
    kind = KINDS[name]
    with tqdm(total=of.steps(arguments.seeds), desc="simulated runs", smoothing=0) as bar:
        simulated = of.simulate(arguments.seeds, bar.update)
    arguments.results.mkdir(parents=True, exist_ok=True)
    write_json(arguments.results / f"{kind.file}.json", to_builtins(simulated))
    say(kind.excerpt(simulated))
    emit(to_builtins(simulated))
    return 0
