"""`python -m benchmarks compare|compare-machines|publish|tables`: compare and publish reports."""

import argparse
from pathlib import Path

from msgspec import to_builtins

from benchmarks.records import plain
from common.commands import emit, say
from common.options import BUILD, LEDGER, add_prices, add_results
from common.programs import command

KINDS = {
    "served": "the head-to-head",
    "servers": "the comparison of servers",
    "power": "the simulated verdicts",
    "alarms": "the simulated drift alarm",
    "timings": "the simulated verdicts on speed",
    "flips": "the simulated intervals from labelled flips",
    "labels": "how many labels verdicts took",
    "recipes": "the comparison of recipes",
    "ablation": "what each part of the recipe gives",
    "seeds": "trainings with several seeds",
    "decisions": "what decisions promised and what was found",
    "compression": "the search for the fastest variant",
    "rules": "how often a cascade's first stage breaks its promise",
    "shift": "how a cascade does on other texts",
    "self-check": "what the self-check saw of changes",
    "shadow": "what a shadow costs and finds",
    "overhead": "what our servers cost on top of the model",
    "workers": "what several workers of the app are worth",
    "app-soak": "the app while everything happens at once",
    "cache": "what a cache of answers saves",
    "attack": "the attacks",
    "soak": "the soak test, hours of attacks,",
}


def compare_arguments(parser: argparse.ArgumentParser) -> None:
    add_results(parser)
    parser.add_argument("a", help="a variant, such as fp32")
    parser.add_argument("b", help="the variant to compare with it")


def compare(arguments: argparse.Namespace) -> int:
    from benchmarks.report import comparison
    from benchmarks.report.files import read_report

    first, second = (read_report(arguments.results, name) for name in (arguments.a, arguments.b))
    compared = comparison.compare(first, second)
    say(comparison.markdown(compared))
    emit(to_builtins(compared))
    return 0


def compare_machines_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "reports", type=Path, nargs="+", help="side-by-side.json of each run, or a published report"
    )
    add_prices(parser, "core", "gb", "gpu")


def compare_machines(arguments: argparse.Namespace) -> int:
    from benchmarks.capacity.plan import Prices
    from benchmarks.report import across_machines
    from benchmarks.report.files import read_side_by_side

    documents = [read_side_by_side(path) for path in arguments.reports]
    prices = Prices(arguments.price_core_hour, arguments.price_gb_hour, arguments.price_gpu_hour)
    found = across_machines.compare_machines(documents, prices)
    say(across_machines.table(found))
    emit(plain(found))
    return 0


def publish_arguments(parser: argparse.ArgumentParser) -> None:
    add_results(parser)
    _add_published(parser)
    parser.add_argument(
        "--ledger",
        type=Path,
        default=BUILD / LEDGER,
        help="record of the gate's earlier use, published with the report; default: %(default)s",
    )
    parser.add_argument("name", help="name of the published report, such as tweeteval-minilm")
    kinds = parser.add_mutually_exclusive_group()
    for kind, what in KINDS.items():
        kinds.add_argument(
            f"--{kind}",
            action="store_const",
            const=kind,
            dest="kind",
            help=f"publish {what} instead of the side-by-side report",
        )


def publish(arguments: argparse.Namespace) -> int:
    from benchmarks.report import publishing

    what = (arguments.name, arguments.results, arguments.published)
    if arguments.kind:
        path = publishing.publish_kind(arguments.kind, *what)
    else:
        path = publishing.publish(*what, arguments.ledger)
    marker = f"<!-- table:{arguments.name}{f':{arguments.kind}' if arguments.kind else ''} -->"
    say(f"wrote {path} and its page; to show it in a document, add {marker} and <!-- /table --> there")
    emit({"published": str(path)})
    return 0


def tables_arguments(parser: argparse.ArgumentParser) -> None:
    _add_published(parser)
    parser.add_argument(
        "--readme",
        type=Path,
        nargs="+",
        default=[Path("README.md"), *sorted(Path("docs").glob("*.md"))],
        help="default: README.md and docs/*.md",
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if something is stale")


def tables(arguments: argparse.Namespace) -> int:
    from benchmarks.report.publishing import refresh, stale

    if not arguments.check:
        emit({"written": [str(path) for path in refresh(arguments.readme, arguments.published)]})
        return 0
    found = stale(arguments.readme, arguments.published)
    for path in found:
        say(f"{path} is stale; run: {command('benchmarks tables')}")
    emit({"stale": [str(path) for path in found]})
    return 1 if found else 0


def _add_published(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--published", type=Path, default=Path("benchmarks/published"), help="default: %(default)s"
    )
