"""`python -m benchmarks head-to-head|overload|attack`: servers compared, overloaded and attacked."""

import argparse

from msgspec import to_builtins

from common.commands import emit, positive_float, positive_int, say
from common.environment import missing
from common.options import add_archive, add_checkpoint, add_name, add_results, add_store, add_texts
from common.programs import command, install
from handler.errors import UserError

OF_THE_APP = ("fastapi", "fastapi-offline", "uvicorn", "python-multipart")


def head_to_head_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "variants", nargs="+", help="the first one gets the load; start-up and memory are measured for all"
    )
    add_results(parser)
    add_checkpoint(parser)
    add_store(parser)
    add_name(parser, "the archives")
    parser.add_argument("--rounds", type=positive_int, default=5, help="default: %(default)s")
    parser.add_argument("--seconds", type=positive_float, default=8.0, help="per turn; default: %(default)s")


def head_to_head(arguments: argparse.Namespace) -> int:
    from benchmarks.baselines.servers import BASELINE_SERVERS
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
            make = command("export package", "package")
            raise UserError("there is no such archive", seen=archive, remedy=f"Make it: {make}")
    needed = [package for baseline in BASELINE_SERVERS.values() for package in baseline.requires]
    if absent := missing([*needed, *OF_THE_APP]):
        remedy = f"Install them: {install('app,benchmark')}"
        raise UserError("packages that a server needs are missing", seen=", ".join(absent), remedy=remedy)
    texts = load_data(checkpoint).splits["test"].texts[:2000]
    rounds = arguments.rounds
    seconds = arguments.seconds
    with progress(steps(len(archives), rounds, seconds)) as step:
        document = measure(archives, checkpoint.folder, texts, rounds, seconds, step)
    arguments.results.mkdir(parents=True, exist_ok=True)
    write_json(arguments.results / f"{HEAD_TO_HEAD}.json", to_builtins(document))
    (arguments.results / f"{HEAD_TO_HEAD}.md").write_text(page(document), encoding="utf-8")
    say(f"\n{loads_table(document)}\n\nfull page: {arguments.results}/{HEAD_TO_HEAD}.md")
    emit(to_builtins(document))
    return 0


def overload_arguments(parser: argparse.ArgumentParser) -> None:
    add_archive(parser)
    add_texts(parser)
    parser.add_argument(
        "--factor", type=positive_float, default=2.0, help="load, times saturation; default: %(default)s"
    )
    parser.add_argument(
        "--seconds", type=positive_float, default=60.0, help="duration of the load; default: %(default)s"
    )


def overload(arguments: argparse.Namespace) -> int:
    from benchmarks.served.overload import main

    return main(arguments)


def attack_arguments(parser: argparse.ArgumentParser) -> None:
    add_results(parser)
    add_archive(parser)
    parser.add_argument("--servers", nargs="+", default=["app", "torchserve", "torchserve behind nginx"])
    parser.add_argument("--attacks", nargs="+", help="default: all")
    parser.add_argument(
        "--seconds", type=positive_float, default=15.0, help="duration of each attack; default: %(default)s"
    )
    parser.add_argument(
        "--soak-minutes",
        type=positive_float,
        help="attack all servers at once for so long, one attack after another",
    )


def attack(arguments: argparse.Namespace) -> int:
    from benchmarks.served.attack.attacks import ATTACKS
    from benchmarks.served.attack.fronts import FRONTS
    from benchmarks.served.attack.measure import main

    arguments.attacks = arguments.attacks or list(ATTACKS)
    for option, given, known in (
        ("--servers", arguments.servers, FRONTS),
        ("--attacks", arguments.attacks, ATTACKS),
    ):
        if unknown := set(given) - set(known):
            what = f"{option} has unknown names"
            raise UserError(what, seen=", ".join(sorted(unknown)), remedy=f"Known: {', '.join(known)}")
    return main(arguments)
