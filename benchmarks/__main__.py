"""`python -m benchmarks …`: is it still my classifier, and how fast is it?"""

import argparse
import importlib.util
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.profiles import PROFILES, with_test
from common.commands import emit, not_negative_float, positive_float, positive_int, run, say, share
from handler.errors import UserError

RESULTS = Path("benchmarks/results")
PUBLISHED = Path("benchmarks/published")
# For a model that is 20 % wrong (1 / 0.8), or for a fifth of the replicas being away; not for both.
HEADROOM = 1.25


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    return arguments.command(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")
    results = argparse.ArgumentParser(add_help=False)
    results.add_argument("--results", type=Path, default=RESULTS, help="default: %(default)s")
    published = argparse.ArgumentParser(add_help=False)
    published.add_argument("--published", type=Path, default=PUBLISHED, help="default: %(default)s")

    measure = commands.add_parser("run", parents=[results], help="measure variants side by side")
    measure.add_argument("variants", nargs="*", help="default: all that are built; fp32 is always among them")
    measure.add_argument(
        "--artifacts", type=Path, default=Path("build/artifacts"), help="default: %(default)s"
    )
    measure.add_argument(
        "--checkpoint", type=Path, default=Path("build/checkpoint"), help="default: %(default)s"
    )
    measure.add_argument(
        "--store", type=Path, default=Path("model_store"), help="archives; default: %(default)s"
    )
    measure.add_argument("--name", default="hate", help="of the archives; default: %(default)s")
    measure.add_argument("--profile", choices=PROFILES, default="quick", help="default: %(default)s")
    measure.add_argument(
        "--no-serve", "--no-served", action="store_true", help="measure in process only, start no server"
    )
    measure.add_argument(
        "--peers",
        action="store_true",
        help="also what others' documentation tells to run, and the floor of the matrix products; the first "
        "time takes minutes",
    )
    measure.add_argument(
        "--peers-folder",
        type=Path,
        default=Path("build/peers"),
        help="where peers are kept; default: %(default)s",
    )
    measure.add_argument(
        "--test", action="store_true", help="score the test split as well: for figures to be published"
    )
    measure.add_argument(
        "--timed-split",
        choices=("gate", "test"),
        default="gate",
        help="whose real texts are timed; default: %(default)s",
    )
    measure.add_argument(
        "--max-f1-drop",
        type=share,
        default=0.01,
        help="margin of non-inferiority, in macro-F1 on gate; default: %(default)s",
    )
    measure.add_argument(
        "--p99-ms", type=positive_float, help="an answer later than this is not good; default: 50"
    )
    measure.add_argument(
        "--rps", type=positive_float, help="a rate of arrivals that is to be measured beside the usual ones"
    )
    measure.add_argument(
        "--unlabelled", type=Path, help="a file of texts, one a line, that count for agreement and flips"
    )
    measure.add_argument("--hatecheck", type=Path, help="your copy of HateCheck's test_suite_cases.csv")
    measure.add_argument(
        "--show-texts",
        action="store_true",
        help="the texts whose label flipped, in side-by-side.html alone: not for publishing",
    )
    measure.add_argument(
        "--fresh", action="store_true", help="do not go on from what an interrupted run has measured"
    )
    measure.add_argument("--threads", type=positive_int, help="in process; default: all CPUs of this process")
    measure.set_defaults(command=_run)

    contest = commands.add_parser(
        "head-to-head",
        parents=[results],
        help="our archive behind HTTP, beside what others would serve, in turns of some seconds",
    )
    contest.add_argument(
        "variants", nargs="+", help="the first is loaded; of all, start-up and memory are measured"
    )
    for option, kind, default in (
        ("--checkpoint", Path, Path("build/checkpoint")),
        ("--store", Path, Path("model_store")),
        ("--name", str, "hate"),
        ("--rounds", positive_int, 5),
        ("--seconds", positive_float, 8.0),
    ):
        contest.add_argument(option, type=kind, default=default, help="default: %(default)s")
    contest.set_defaults(command=_head_to_head)

    overload = commands.add_parser(
        "overload", help="what a server does with more than it can do, and when a worker dies"
    )
    overload.add_argument("--archive", type=Path, default=Path("model_store/hate.mar"), help="%(default)s")
    overload.add_argument("--texts", type=Path, help="one a line (default: of validation's lengths)")
    overload.add_argument(
        "--factor", type=positive_float, default=2.0, help="times saturation; default: %(default)s"
    )
    overload.add_argument(
        "--seconds", type=positive_float, default=60.0, help="of load; default: %(default)s"
    )
    overload.set_defaults(command=_overload)

    attack = commands.add_parser(
        "attack", parents=[results], help="what an honest client notices while another one attacks"
    )
    attack.add_argument("--archive", type=Path, default=Path("model_store/hate.mar"), help="%(default)s")
    attack.add_argument("--servers", nargs="+", default=["app", "torchserve", "torchserve behind nginx"])
    attack.add_argument("--attacks", nargs="+", help="default: all")
    attack.add_argument(
        "--seconds", type=positive_float, default=15.0, help="of each attack; default: %(default)s"
    )
    attack.add_argument(
        "--soak-minutes", type=positive_float, help="all servers at once, one attack after another"
    )
    attack.set_defaults(command=_attack)

    power = commands.add_parser(
        "power",
        parents=[results],
        help="how often the verdicts are wrong, counted over simulated classifiers whose drop is known",
    )
    power.add_argument("--seeds", type=positive_int, default=2000, help="of each case; default: %(default)s")
    power.set_defaults(command=_power)

    compare = commands.add_parser(
        "compare", parents=[results], help="two reports of one run beside each other"
    )
    compare.add_argument("a", help="variant, such as fp32")
    compare.add_argument("b", help="variant that it is compared with")
    compare.set_defaults(command=_compare)

    select = commands.add_parser("select", parents=[results], help="pick the fastest that is proven the same")
    select.add_argument("--p99-ms", type=positive_float, help="as served, at most; default: no demand")
    select.add_argument(
        "--rps", type=positive_float, help="requests per second as served, at least; default: no demand"
    )
    select.add_argument(
        "--max-f1-drop", type=share, default=0.01, help="macro-F1 on gate; default: %(default)s"
    )
    select.add_argument(
        "--max-flip",
        type=share,
        help="share of labels that may differ from fp32's, such as 0.02; default: no demand",
    )
    select.add_argument("--max-mb", type=positive_float, help="size of the artifact; default: no demand")
    select.set_defaults(command=_select)

    plan = commands.add_parser(
        "plan", parents=[results], help="how many replicas a load needs, what they take and cost"
    )
    plan.add_argument("--rps", type=positive_float, required=True, help="texts per second, of all replicas")
    plan.add_argument(
        "--p99-ms", type=positive_float, required=True, help="99 of 100 answers are to come within this"
    )
    plan.add_argument(
        "--report", type=Path, help="what was measured; default: side-by-side.json among the results"
    )
    plan.add_argument("--variant", help="default: the selected one, or the fastest that is equal and served")
    plan.add_argument(
        "--headroom",
        type=positive_float,
        default=HEADROOM,
        help="replicas bear this many times --rps: 1.25 allows for a model that is 20 %% wrong, or for a "
        "fifth of the replicas being away; default: %(default)s",
    )
    plan.add_argument(
        "--burstiness",
        type=positive_float,
        default=1.0,
        help="variance of the gaps between arrivals, by that of random ones (Poisson); default: %(default)s",
    )
    plan.add_argument("--mean-tokens", type=positive_float, help="of your texts; default: as measured")
    _add_prices(plan, "core", "gb")
    plan.set_defaults(command=_plan)

    side = commands.add_parser(
        "beside", help="runs of several machines in one table, such as a CPU server's and a GPU server's"
    )
    side.add_argument(
        "reports", type=Path, nargs="+", help="side-by-side.json of each run, or a published report"
    )
    _add_prices(side, "core", "gb", "gpu")
    side.set_defaults(command=_beside)

    cards = commands.add_parser("gpus", help="the GPUs that a run would measure; exit 2 where there is none")
    cards.set_defaults(command=_gpus)

    forecast = commands.add_parser(
        "plan-check",
        parents=[results],
        help="serve an archive, forecast its saturation and p99, measure them; exit 1 beyond 20 %%",
    )
    forecast.add_argument(
        "--archive", type=Path, default=Path("model_store/hate.mar"), help="default: %(default)s"
    )
    forecast.add_argument(
        "--checkpoint", type=Path, default=Path("build/checkpoint"), help="default: %(default)s"
    )
    forecast.add_argument(
        "--shares", type=share, nargs="+", default=[0.5, 0.8], help="of saturation; default: 0.5 0.8"
    )
    forecast.add_argument(
        "--seconds", type=positive_float, default=30.0, help="of each load; default: %(default)s"
    )
    forecast.set_defaults(command=_plan_check)

    publish = commands.add_parser(
        "publish", parents=[results, published], help="commit a report: figures only"
    )
    publish.add_argument("name", help="of the published report, such as tweeteval-minilm")
    kinds = publish.add_mutually_exclusive_group()
    for other, words in (
        ("served", "the head-to-head"),
        ("power", "the simulated verdicts"),
        ("attack", "the attacks"),
        ("soak", "the hours of attacks"),
    ):
        kinds.add_argument(
            f"--{other}",
            action="store_const",
            const=other,
            dest="kind",
            help=f"{words} instead of the side-by-side",
        )
    publish.set_defaults(command=_publish)

    tables = commands.add_parser(
        "tables", parents=[published], help="tables of README.md and docs/ from published reports"
    )
    tables.add_argument(
        "--readme",
        type=Path,
        nargs="+",
        default=[Path("README.md"), *sorted(Path("docs").glob("*.md"))],
        help="default: README.md and docs/*.md",
    )
    tables.add_argument("--check", action="store_true", help="write nothing; exit 1 if something is stale")
    tables.set_defaults(command=_tables)
    return parser


def _add_prices(parser: argparse.ArgumentParser, *kinds: str) -> None:
    for kind in kinds:
        parser.add_argument(
            f"--price-{kind}-hour",
            type=not_negative_float,
            help="in your currency; without prices no cost is given",
        )


def _run(arguments: argparse.Namespace) -> int:
    if not arguments.artifacts.is_dir():
        raise UserError("there are no artifacts", seen=arguments.artifacts, remedy="Build them: make export")
    from benchmarks.inputs import prepare
    from benchmarks.report.files import write_reports
    from benchmarks.report.markdown import failures, provenance, terminal_table
    from benchmarks.selection import Objective
    from benchmarks.suite import measure, open_resume_log
    from training.checkpoint import load_data, open_checkpoint

    checkpoint = open_checkpoint(arguments.checkpoint)
    profile, store = PROFILES[arguments.profile], None if arguments.no_serve else arguments.store
    if arguments.test:
        profile = with_test(profile)
    if arguments.rps:
        profile = replace(profile, extra_rates=(arguments.rps,))
    subject = prepare(
        arguments.variants,
        arguments.artifacts,
        store,
        checkpoint,
        load_data(checkpoint),
        profile,
        arguments.timed_split,
        arguments.peers_folder if arguments.peers else None,
        arguments.name,
        arguments.unlabelled,
        arguments.hatecheck,
    )
    objective = Objective(arguments.p99_ms, arguments.rps, arguments.max_f1_drop)
    resume_log = open_resume_log(arguments.results, subject, profile, arguments.threads, arguments.fresh)
    try:
        reports = measure(subject, profile, arguments.threads, objective, resume_log)
    except KeyboardInterrupt:
        say(f"\n{len(resume_log)} pieces are measured and kept; the same command goes on from here")
        raise
    texts = subject.flipped_texts(reports) if arguments.show_texts else None
    document = write_reports(arguments.results, reports, texts)
    resume_log.finish()
    say(f"\n{terminal_table(document)}\n\n{provenance(document)}")
    for line in failures(document):
        say(line)
    say(f"reports: {arguments.results}/side-by-side.html (and .md, .json), and one of each variant")
    emit(document)
    return 0


def _attack(arguments: argparse.Namespace) -> int:
    from benchmarks.served.attack.attacks import ATTACKS
    from benchmarks.served.attack.fronts import FRONTS
    from benchmarks.served.attack.measure import main

    arguments.attacks = arguments.attacks or list(ATTACKS)
    for given, known in ((arguments.servers, FRONTS), (arguments.attacks, ATTACKS)):
        if unknown := set(given) - set(known):
            raise UserError("unknown", seen=", ".join(unknown), remedy=f"Known: {', '.join(known)}")
    return main(arguments)


def _overload(arguments: argparse.Namespace) -> int:
    from benchmarks.served.overload import main

    return main(arguments)


def _head_to_head(arguments: argparse.Namespace) -> int:
    from benchmarks.progress import progress
    from benchmarks.report.files import HEAD_TO_HEAD
    from benchmarks.report.head_to_head_page import loads_table, page
    from benchmarks.served.head_to_head import measure, steps
    from common.atomic import write_json
    from training.checkpoint import load_data, open_checkpoint

    checkpoint = open_checkpoint(arguments.checkpoint)
    archives = {
        variant: arguments.store / f"{arguments.name}-{variant}.mar"
        for variant in dict.fromkeys(arguments.variants)
    }
    for archive in archives.values():
        if not archive.is_file():
            raise UserError("there is no such archive", seen=archive, remedy="Make it: make package")
    for package in ("fastapi", "fastapi_offline", "uvicorn", "python_multipart"):
        if importlib.util.find_spec(package) is None:
            raise UserError("a server is not installed", seen=package, remedy="pip install '.[app]'")
    texts = load_data(checkpoint).splits["test"].texts[:2000]
    rounds, seconds = arguments.rounds, arguments.seconds
    with progress(steps(len(archives), rounds, seconds)) as step:
        document = measure(archives, checkpoint.folder, texts, rounds, seconds, step)
    arguments.results.mkdir(parents=True, exist_ok=True)
    write_json(arguments.results / f"{HEAD_TO_HEAD}.json", document)
    (arguments.results / f"{HEAD_TO_HEAD}.md").write_text(page(document), encoding="utf-8")
    say(f"\n{loads_table(document)}\n\nall of it: {arguments.results}/{HEAD_TO_HEAD}.md")
    emit(document)
    return 0


def _power(arguments: argparse.Namespace) -> int:
    from tqdm import tqdm

    from benchmarks.sameness.power import cases, count, note, table
    from common.atomic import write_json

    with tqdm(total=cases() * arguments.seeds, desc="simulated runs", smoothing=0) as bar:
        counted = count(arguments.seeds, bar.update)
    arguments.results.mkdir(parents=True, exist_ok=True)
    write_json(arguments.results / "power.json", counted)
    say(f"{table(counted)}\n\n{note(counted)}")
    emit(counted)
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    from benchmarks.report.comparison import compare, markdown
    from benchmarks.report.files import read_report

    first, second = (read_report(arguments.results, name) for name in (arguments.a, arguments.b))
    comparison = compare(first, second)
    say(markdown(comparison))
    emit(comparison)
    return 0


def _select(arguments: argparse.Namespace) -> int:
    from benchmarks.report.files import SIDE_BY_SIDE, add_selection, read_side_by_side
    from benchmarks.selection import Objective, select

    document = read_side_by_side(arguments.results / f"{SIDE_BY_SIDE}.json")
    objective = Objective(
        arguments.p99_ms, arguments.rps, arguments.max_f1_drop, arguments.max_flip, arguments.max_mb
    )
    selection = select(document, objective)
    add_selection(arguments.results, document, selection)
    for name, reason in sorted(
        selection["reasons"].items(), key=lambda item: item[0] != selection["selected"]
    ):
        say(f"{name}: {reason}")
    if selection["selected"] is None:
        say("no variant qualifies; what is served stays as it was")
    emit(selection)
    return 0 if selection["selected"] else 1


def _plan(arguments: argparse.Namespace) -> int:
    from benchmarks.capacity.plan import Demand, Prices, choose, plan
    from benchmarks.report.files import SIDE_BY_SIDE, read_measurements, read_selection
    from benchmarks.report.plan_page import picture, plan_table

    report = arguments.report or arguments.results / f"{SIDE_BY_SIDE}.json"
    document = read_measurements(report)
    variant = choose(document, read_selection(report.parent), arguments.variant)
    demand = Demand(
        arguments.rps, arguments.p99_ms, arguments.headroom, arguments.burstiness, arguments.mean_tokens
    )
    found = plan(document, variant, demand, Prices(arguments.price_core_hour, arguments.price_gb_hour))
    drawn = arguments.results / "plan.svg"
    drawn.parent.mkdir(parents=True, exist_ok=True)
    drawn.write_text(picture(found), encoding="utf-8")
    say(f"{plan_table(found)}\n\npicture: {drawn}")
    emit(found)
    return 0


def _beside(arguments: argparse.Namespace) -> int:
    from benchmarks.capacity.plan import Prices
    from benchmarks.report.across_machines import beside, table
    from benchmarks.report.files import read_measurements

    documents = [read_measurements(path) for path in arguments.reports]
    prices = Prices(arguments.price_core_hour, arguments.price_gb_hour, arguments.price_gpu_hour)
    found = beside(documents, prices)
    say(table(found))
    emit(found)
    return 0


def _gpus(arguments: argparse.Namespace) -> int:
    from benchmarks.in_process.gpu import require_cards

    cards = require_cards()
    for one in cards:
        major, minor = one["capability"]
        say(f"{one['name']}: capability {major}.{minor}, {one['memory_gb']} GB")
    emit(cards)
    return 0


def _plan_check(arguments: argparse.Namespace) -> int:
    from benchmarks.progress import progress
    from benchmarks.report.plan_page import check_note, check_table
    from benchmarks.served.run import serve
    from benchmarks.studies.plan_check import check, steps
    from common.atomic import write_json
    from training.checkpoint import load_data, open_checkpoint

    if not arguments.archive.is_file():
        raise UserError("there is no such archive", seen=arguments.archive, remedy="Make it: make package")
    texts = load_data(open_checkpoint(arguments.checkpoint)).splits["gate"].texts[:2000]
    with progress(steps(arguments.shares, arguments.seconds)) as step:
        server = serve(arguments.archive)
        found = check(arguments.archive, server, texts, arguments.shares, arguments.seconds, step)
    write_json(arguments.results / "plan-check.json", found)
    say(f"\n{check_table(found)}\n\n{check_note(found)}")
    emit(found)
    return 0 if found["within"] else 1


def _publish(arguments: argparse.Namespace) -> int:
    from benchmarks.report.publishing import publish, publish_kind

    what = (arguments.name, arguments.results, arguments.published)
    path = publish_kind(arguments.kind, *what) if arguments.kind else publish(*what)
    marker = f"<!-- table:{arguments.name}{f':{arguments.kind}' if arguments.kind else ''} -->"
    say(f"{path} and its page; a document shows it between {marker} and <!-- /table -->")
    emit({"published": str(path)})
    return 0


def _tables(arguments: argparse.Namespace) -> int:
    from benchmarks.report.publishing import refresh, stale

    if not arguments.check:
        emit({"written": [str(path) for path in refresh(arguments.readme, arguments.published)]})
        return 0
    found = stale(arguments.readme, arguments.published)
    for path in found:
        say(f"{path} is stale; run: python -m benchmarks tables")
    emit({"stale": [str(path) for path in found]})
    return 1 if found else 0


if __name__ == "__main__":
    run(main)
