"""`python -m benchmarks plan` and `cache`: how many replicas a load needs, and what a cache would save."""

import argparse
from dataclasses import asdict, replace
from pathlib import Path

from benchmarks.records import plain
from common.commands import emit, positive_float, positive_int, say
from common.options import add_prices, add_results, add_threads

# Allows for a model that is 20 % wrong (1 / 0.8), or for a fifth of the replicas being down; not for both.
HEADROOM = 1.25
ENTRIES = (1_000, 10_000, 100_000)  # of a cache


def plan_arguments(parser: argparse.ArgumentParser) -> None:
    add_results(parser)
    parser.add_argument(
        "--rps", type=positive_float, required=True, help="texts per second, over all replicas"
    )
    parser.add_argument(
        "--p99-ms", type=positive_float, required=True, help="p99 latency that every replica must keep"
    )
    parser.add_argument(
        "--report", type=Path, help="the report to plan from; default: side-by-side.json in --results"
    )
    parser.add_argument(
        "--variant", help="to plan for; default: the selected one, or the fastest that is equal and served"
    )
    parser.add_argument(
        "--headroom",
        type=positive_float,
        default=HEADROOM,
        help="the replicas together sustain this many times --rps: 1.25 allows for a model that is 20 %% "
        "wrong, or for a fifth of the replicas being down; default: %(default)s",
    )
    parser.add_argument(
        "--burstiness",
        type=positive_float,
        default=1.0,
        help="variance of the gaps between arrivals, relative to random ones (Poisson); default: %(default)s",
    )
    parser.add_argument(
        "--mean-tokens", type=positive_float, help="average length of your texts; default: as measured"
    )
    add_prices(parser, "core", "gb")


def plan(arguments: argparse.Namespace) -> int:
    from benchmarks.capacity import plan as planned
    from benchmarks.report.files import SIDE_BY_SIDE, read_selection, read_side_by_side
    from benchmarks.report.plan_page import picture, plan_table

    report = arguments.report or arguments.results / f"{SIDE_BY_SIDE}.json"
    document = read_side_by_side(report)
    variant = planned.choose(document, read_selection(report.parent), arguments.variant)
    demand = planned.Demand(
        arguments.rps, arguments.p99_ms, arguments.headroom, arguments.burstiness, arguments.mean_tokens
    )
    prices = planned.Prices(arguments.price_core_hour, arguments.price_gb_hour)
    found = planned.plan(document, variant, demand, prices)
    drawn = arguments.results / "plan.svg"
    drawn.parent.mkdir(parents=True, exist_ok=True)
    drawn.write_text(picture(found), encoding="utf-8")
    say(f"{plan_table(found)}\n\nchart: {drawn}")
    emit(plain(found))
    return 0


def cache_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--texts",
        type=Path,
        required=True,
        help="a file with one text per line, in the order in which they came, repeats and all",
    )
    parser.add_argument(
        "--entries",
        type=positive_int,
        nargs="+",
        default=ENTRIES,
        help="sizes of the cache, in texts; default: %(default)s",
    )
    parser.add_argument(
        "--artifact", type=Path, help="to measure what it saves in time; default: only the share of texts"
    )
    add_threads(parser)


def cache(arguments: argparse.Namespace) -> int:
    from benchmarks.capacity.cache import costs, forecast
    from benchmarks.report.cache_page import cache_table
    from common.tables.texts import read_texts

    texts = read_texts(arguments.texts)
    found = forecast(texts, arguments.entries)
    if arguments.artifact:
        found = replace(found, costs=costs(arguments.artifact, texts, arguments.threads))
    say(cache_table(found))
    emit(asdict(found))
    return 0
