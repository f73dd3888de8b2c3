"""`python -m benchmarks run|gpus`: measure what is built, and see what would be measured."""

import argparse
from dataclasses import replace

from benchmarks.profiles import PROFILES, with_test
from benchmarks.records import plain
from common.commands import emit, positive_float, say, share
from common.options import (
    add_artifacts,
    add_baselines,
    add_checkpoint,
    add_ledger,
    add_name,
    add_results,
    add_store,
    add_threads,
    ledger_of,
)
from common.programs import command
from handler.errors import UserError
from training.measures.suites import add_suites, copies


def run_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "variants", nargs="*", help="to measure; default: all that are built; fp32 is always included"
    )
    add_artifacts(parser)
    add_checkpoint(parser)
    add_store(parser)
    add_name(parser, "the archives")
    add_results(parser)
    add_ledger(parser)
    parser.add_argument("--profile", choices=PROFILES, default="quick", help="default: %(default)s")
    parser.add_argument(
        "--no-serve", "--no-served", action="store_true", help="measure in process only, start no server"
    )
    parser.add_argument(
        "--baselines",
        action="store_true",
        help="also measure the baselines, each run as its own documentation shows, and the GEMM lower bound; "
        "the first time takes minutes",
    )
    add_baselines(parser)
    parser.add_argument(
        "--test", action="store_true", help="score the test split as well, for figures to be published"
    )
    parser.add_argument(
        "--timed-split",
        choices=("gate", "test"),
        default="gate",
        help="the split whose real texts are timed; default: %(default)s",
    )
    add_max_f1_drop(parser)
    parser.add_argument(
        "--p99-ms", type=positive_float, help="answers slower than this count as late; default: 50"
    )
    parser.add_argument(
        "--rps", type=positive_float, help="an arrival rate to measure in addition to the usual ones"
    )
    parser.add_argument(
        "--unlabelled",
        metavar="FILE|SET",
        help="a file of texts, one per line, or a data set by its name (tweeteval-sentiment), scored for "
        "agreement and flips too",
    )
    add_suites(parser)
    parser.add_argument(
        "--show-texts",
        action="store_true",
        help="show texts whose label flipped, in side-by-side.html only; do not publish that page",
    )
    parser.add_argument(
        "--fresh", action="store_true", help="start over instead of resuming an interrupted run"
    )
    add_threads(parser, "in process, all CPUs of this process")


def add_max_f1_drop(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--max-f1-drop",
        type=share,
        default=0.01,
        help="non-inferiority margin, as a macro-F1 drop on gate; default: %(default)s",
    )


def run(arguments: argparse.Namespace) -> int:
    if not arguments.artifacts.is_dir():
        build = command("export build", "export")
        raise UserError("there are no artifacts", seen=arguments.artifacts, remedy=f"Build them: {build}")
    from benchmarks.inputs import prepare
    from benchmarks.report.files import write_reports
    from benchmarks.report.markdown import failures, provenance, terminal_table
    from benchmarks.selection import Objective
    from benchmarks.suite import measure, open_resume_log
    from training.checkpoint import load_data, open_checkpoint

    checkpoint = open_checkpoint(arguments.checkpoint)
    profile = PROFILES[arguments.profile]
    if arguments.test:
        profile = with_test(profile)
    if arguments.rps:
        profile = replace(profile, extra_rates=(arguments.rps,))
    subject = prepare(
        arguments.variants,
        arguments.artifacts,
        None if arguments.no_serve else arguments.store,
        checkpoint,
        load_data(checkpoint),
        profile,
        arguments.timed_split,
        arguments.baselines_folder if arguments.baselines else None,
        arguments.name,
        arguments.unlabelled,
        copies(arguments),
    )
    objective = Objective(arguments.p99_ms, arguments.rps, arguments.max_f1_drop)
    resume_log = open_resume_log(arguments.results, subject, profile, arguments.threads, arguments.fresh)
    try:
        report = measure(subject, profile, arguments.threads, objective, resume_log, ledger_of(arguments))
    except KeyboardInterrupt:
        say(f"\n{len(resume_log)} measurements are kept; run the same command again to resume")
        raise
    texts = subject.flipped_texts(report) if arguments.show_texts else None
    document = write_reports(arguments.results, report, texts)
    resume_log.finish()
    say(f"\n{terminal_table(document)}\n\n{provenance(document)}")
    for line in failures(document):
        say(line)
    say(f"reports: {arguments.results}/side-by-side.html (and .md, .json), and one for each variant")
    emit(plain(document))
    return 0


def gpus(_: argparse.Namespace) -> int:
    from benchmarks.in_process.gpu import require_cards

    cards = require_cards()
    for card in cards:
        major, minor = card["capability"]
        say(f"{card['name']}: capability {major}.{minor}, {card['memory_gb']} GB")
    emit(cards)
    return 0
