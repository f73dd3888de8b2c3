"""`python -m benchmarks compress`: search for the fastest variant that is likely to pass."""

import argparse
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.verbs.measuring import add_max_f1_drop
from common.commands import emit, positive_float, say
from common.options import BUILD, add_checkpoint, add_unlabelled
from common.programs import command
from handler.artifact import file_sha256
from handler.errors import UserError

if TYPE_CHECKING:  # torch takes seconds, and --help needs none of it
    from benchmarks.compression.records import Tried
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
    add_unlabelled(parser)
    parser.add_argument(
        "--output",
        type=Path,
        default=BUILD / "compression",
        help="folder of the search, and of what it builds; default: %(default)s",
    )


def compress(arguments: argparse.Namespace) -> int:
    from benchmarks.compression.candidates import candidates
    from benchmarks.compression.records import NAME, Compression
    from benchmarks.compression.search import search
    from benchmarks.compression.trial import Bench
    from benchmarks.report.frontier import picture, table
    from common.atomic import write_json, write_text
    from common.records import plain
    from training.checkpoint import load_data, open_checkpoint

    checkpoint = open_checkpoint(arguments.checkpoint)
    if not checkpoint.judged:
        raise UserError(
            "A search needs a trained classifier and labelled texts",
            seen=arguments.checkpoint,
            remedy="Train one, or adopt yours with labelled --data: python -m export build --data …",
        )
    dataset = load_data(checkpoint)
    prunable = not checkpoint.has_own_head
    if not prunable:
        say("only an encoder with a head of transformers can be pruned: the search combines the other parts")
    margin = arguments.max_f1_drop
    subject = {
        "checkpoint": file_sha256(checkpoint.folder / "model.safetensors"),
        "data": dataset.sha256,
        "unlabelled": arguments.unlabelled,
        "traffic": arguments.traffic,
        "margin": margin,
    }
    trials = arguments.output / "trials"
    bench = Bench(checkpoint, dataset, trials, arguments.unlabelled, arguments.traffic)
    tried = search(arguments.output, subject, prunable, arguments.minutes, margin, bench.try_out)
    found = Compression(
        data=dataset.spec,
        margin=margin,
        gate=len(dataset.splits["gate"]),
        left=len(candidates(prunable)) - len(tried),
        tried=tried,
    )
    write_json(arguments.output / f"{NAME}.json", plain(found))
    write_text(arguments.output / "frontier.svg", picture(found))
    say(f"\n{table(found)}\n")
    if found.best is None:
        say("no candidate is likely to pass: serve fp32 or bf16")
    else:
        # Beside the other artifacts, where the ledger of all gates lies.
        _hand_over(bench, found.best, arguments.output.with_name(f"artifacts-{arguments.output.name}"))
    emit(plain(found))
    return 0 if found.best else 1


def _hand_over(bench: "Bench", best: "Tried", folder: Path) -> None:
    """The winner, plain int8 and fp32 in one folder, for the one look at the gate."""
    from benchmarks.compression.candidates import INT8, Candidate
    from benchmarks.names import REFERENCE
    from common.atomic import replacing_folder

    bench.build(best.candidate)  # another with its name may have been built since
    first = bench.folder(Candidate())
    artifacts = [first / REFERENCE, first / INT8]
    if best.variant != INT8:
        artifacts.append(bench.folder(best.candidate) / best.variant)
    with replacing_folder(folder) as scratch:
        for artifact in artifacts:
            shutil.copytree(artifact, scratch / artifact.name)
    judge = command(f"benchmarks run --no-serve --artifacts {folder}")
    say(f"{best.variant}: {best.candidate}. What the gate says of it: {judge}")
