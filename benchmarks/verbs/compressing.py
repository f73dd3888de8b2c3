"""`python -m benchmarks compress`: search for the fastest variant that is likely to pass."""

import argparse
import hashlib
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.verbs.measuring import add_max_f1_drop
from common.commands import emit, positive_float, say
from common.options import BUILD, add_checkpoint
from common.programs import command
from handler.errors import UserError

if TYPE_CHECKING:  # torch takes seconds, and --help needs none of it
    from benchmarks.compression.records import Compression
    from benchmarks.compression.trial import Bench


def compress_arguments(parser: argparse.ArgumentParser) -> None:
    add_checkpoint(parser)
    add_max_f1_drop(parser)
    parser.add_argument(
        "--minutes",
        type=positive_float,
        default=30.0,
        help="start no candidate after this time; default: %(default)g",
    )
    parser.add_argument(
        "--unlabelled",
        metavar="FILE|SET",
        help="texts like those you will serve, one per line, or a data set by its name "
        "(tweeteval-sentiment): students also learn from fp32 on these",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=BUILD / "compression",
        help="folder of the search, and of what it builds; default: %(default)s",
    )


def compress(arguments: argparse.Namespace) -> int:
    import export.variants  # noqa: F401 - registers the variants
    from benchmarks.compression.candidates import candidates
    from benchmarks.compression.records import NAME, Compression
    from benchmarks.compression.search import search
    from benchmarks.compression.trial import Bench
    from benchmarks.report.frontier import picture, table
    from common.atomic import write_json, write_text
    from common.records import plain
    from export.registry import kind_of
    from export.source import Source
    from training.checkpoint import load_data, open_checkpoint
    from training.data.unlabelled import read_unlabelled

    checkpoint = open_checkpoint(arguments.checkpoint)
    if not checkpoint.judged:
        raise UserError(
            "A search needs a trained classifier and labelled texts",
            seen=arguments.checkpoint,
            remedy="Train one, or adopt yours with labelled --data: python -m export build --data …",
        )
    dataset = load_data(checkpoint)
    unlabelled = read_unlabelled(arguments.unlabelled, dataset) if arguments.unlabelled else ()
    source = Source(checkpoint, dataset, arguments.output / "trials", unlabelled=unlabelled)
    config = json.loads((checkpoint.folder / "config.json").read_text(encoding="utf-8"))
    prunable = kind_of(config) == "encoder"
    if not prunable:
        say("only an encoder with a head of transformers can be pruned: the search combines the other parts")
    subject = {
        "checkpoint": source.sha256,
        "unlabelled texts": hashlib.sha256("\0".join(unlabelled).encode()).hexdigest(),
        "margin": arguments.max_f1_drop,
    }
    bench = Bench(source)
    tried = search(
        arguments.output, subject, prunable, arguments.minutes, arguments.max_f1_drop, bench.try_out
    )
    found = Compression(
        data=dataset.spec,
        margin=arguments.max_f1_drop,
        gate=len(dataset.splits["gate"]),
        left=len(candidates(prunable)) - len(tried),
        tried=tried,
    )
    write_json(arguments.output / f"{NAME}.json", plain(found))
    write_text(arguments.output / "frontier.svg", picture(found))
    say(f"\n{table(found)}\n")
    # Beside the other artifacts, where the ledger of all gates lies.
    _hand_over(bench, found, arguments.output.with_name(f"artifacts-{arguments.output.name}"))
    emit(plain(found))
    return 0 if found.best else 1


def _hand_over(bench: "Bench", found: "Compression", folder: Path) -> None:
    """The winner, plain int8 and fp32 in one folder, for the one look at the gate."""
    from benchmarks.compression.candidates import Candidate
    from common.atomic import replacing_folder
    from export.registry import REFERENCE

    if found.best is None:
        say("no candidate is likely to pass: serve fp32 or bf16")
        return
    chosen = {Candidate(), found.best.candidate}
    with replacing_folder(folder) as scratch:
        shutil.copytree(bench.of(Candidate()).artifacts / REFERENCE, scratch / REFERENCE)
        for candidate in chosen:
            artifact = bench.build(candidate)
            shutil.copytree(artifact.folder, scratch / artifact.name)
    judge = command(f"benchmarks run --no-serve --artifacts {folder}")
    say(f"{found.best.variant}: {found.best.candidate}. What the gate says of it: {judge}")
