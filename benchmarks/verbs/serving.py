"""`python -m benchmarks head-to-head|servers|overload|attack`: servers compared, overloaded and attacked."""

import argparse
from collections.abc import Collection
from pathlib import Path

from msgspec import to_builtins

from common.commands import emit, positive_float, positive_int, say
from common.environment import missing
from common.options import (
    add_archive,
    add_baselines,
    add_checkpoint,
    add_name,
    add_results,
    add_store,
    add_texts,
)
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
    archives = _archives(arguments)
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


def servers_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("variants", nargs="+", help="whose archives are served; ratios are to the first")
    parser.add_argument("--servers", nargs="*", help="to compare with; default: all that are known")
    parser.add_argument(
        "--models",
        nargs="+",
        help="behind the servers: pipeline (transformers), variants, constant (costs nothing); default: all "
        "of them; a record keeps what it has of others",
    )
    parser.add_argument(
        "--clients", nargs="+", type=positive_int, default=[8, 32, 128], help="default: 8 32 128"
    )
    add_results(parser)
    add_checkpoint(parser)
    add_store(parser)
    add_name(parser, "the archives")
    add_baselines(parser)
    parser.add_argument("--rounds", type=positive_int, default=3, help="default: %(default)s")
    parser.add_argument("--seconds", type=positive_float, default=5.0, help="per turn; default: %(default)s")


def servers(arguments: argparse.Namespace) -> int:
    from benchmarks.baselines.handlers.served_model import CONSTANT, PIPELINE
    from benchmarks.baselines.public_servers import PUBLIC_SERVERS
    from benchmarks.report.files import SERVERS, read_servers
    from benchmarks.report.servers_page import excerpt, page
    from benchmarks.served.servers import Plan, compare
    from common.atomic import write_json
    from training.checkpoint import load_data, open_checkpoint

    if absent := missing(OF_THE_APP):
        remedy = f"Install them: {install('app,benchmark')}"
        raise UserError("packages that a server needs are missing", seen=", ".join(absent), remedy=remedy)
    checkpoint = open_checkpoint(arguments.checkpoint)
    archives = _archives(arguments)
    models = arguments.models or [PIPELINE, *archives, CONSTANT]
    _check_known("--models", models, [PIPELINE, *archives, CONSTANT])
    names = list(PUBLIC_SERVERS) if arguments.servers is None else arguments.servers
    _check_known("--servers", names, list(PUBLIC_SERVERS))
    texts = load_data(checkpoint).splits["test"].texts[:2000]
    place = arguments.results / f"{SERVERS}.json"
    plan = Plan(tuple(arguments.clients), arguments.rounds, arguments.seconds)
    folder = arguments.baselines_folder
    document = read_servers(place) if place.is_file() else None
    for model in models:
        document = compare(document, model, archives, checkpoint.folder, names, folder, texts, plan)
        arguments.results.mkdir(parents=True, exist_ok=True)
        write_json(place, to_builtins(document))
        place.with_suffix(".md").write_text(page(document), encoding="utf-8")
    assert document is not None
    say(f"\n{excerpt(document)}\n\nfull page: {place.with_suffix('.md')}")
    emit(to_builtins(document))
    return 0


def install_servers_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("servers", nargs="*", help="default: all that are known")
    add_baselines(parser)


def install_servers(arguments: argparse.Namespace) -> int:
    from benchmarks.baselines.public_servers import PUBLIC_SERVERS, install_each

    names = arguments.servers or list(PUBLIC_SERVERS)
    _check_known("servers", names, list(PUBLIC_SERVERS))
    found = install_each(names, arguments.baselines_folder)
    for name, environment in found.items():
        versions = ", ".join(f"{package} {version}" for package, version in environment.versions.items())
        say(f"{name}: {environment.lacks or versions}")
    emit({name: {"versions": dict(each.versions), "lacks": each.lacks} for name, each in found.items()})
    return 0


def _archives(arguments: argparse.Namespace) -> dict[str, Path]:
    """By variant, those that were asked for."""
    found = {
        variant: arguments.store / f"{arguments.name}-{variant}.mar"
        for variant in dict.fromkeys(arguments.variants)
    }
    for archive in found.values():
        if not archive.is_file():
            make = command("export package", "package")
            raise UserError("there is no such archive", seen=archive, remedy=f"Make it: {make}")
    return found


def _check_known(option: str, given: Collection[str], known: Collection[str]) -> None:
    if unknown := set(given) - set(known):
        what = f"{option} has unknown names"
        raise UserError(what, seen=", ".join(sorted(unknown)), remedy=f"Known: {', '.join(known)}")


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
    _check_known("--servers", arguments.servers, FRONTS)
    _check_known("--attacks", arguments.attacks, ATTACKS)
    return main(arguments)
