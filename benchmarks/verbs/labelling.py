"""`python -m benchmarks flips`, and `power --texts`: label flips alone, and plan how many labels it takes."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.verbs.measuring import add_max_f1_drop
from common.commands import emit, not_negative_int, positive_int, say
from common.options import add_artifacts, add_checkpoint, add_ledger, add_threads, ledger_of
from common.programs import command
from handler.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from handler.artifact import Artifact
    from training.checkpoint import Checkpoint
    from training.data import Dataset

CHECKS = 50  # texts
MOST_LABELS = 1000
SAMPLE = 2000  # texts that a plan looks at
MARGIN = 0.01  # in macro-F1, of a plan


def add_subject(parser: argparse.ArgumentParser) -> None:
    """Options of both commands."""
    add_artifacts(parser)
    add_checkpoint(parser)
    add_ledger(parser)
    add_threads(parser)
    parser.add_argument(
        "--variants", nargs="+", metavar="VARIANT", help="to compare with fp32; default: all that are built"
    )
    parser.add_argument(
        "--checks",
        type=not_negative_int,
        default=CHECKS,
        help="texts of the gate among those to label, whose labels are known: they show how often the "
        "labeller errs; default: %(default)s",
    )


def flips_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--texts",
        metavar="FILE|SET",
        required=True,
        help="unlabelled texts like the gate's: a file with one per line, or a data set by its name",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--write", type=Path, metavar="CSV", help="write the texts to label; its key stays with you"
    )
    what.add_argument(
        "--read", type=Path, metavar="CSV", help="read the labelled file, and judge every variant by it"
    )
    add_subject(parser)
    parser.add_argument(
        "--most",
        type=positive_int,
        default=MOST_LABELS,
        help="flips to label; of more, a random sample is labelled; default: %(default)s",
    )
    add_max_f1_drop(parser)


def open_data(arguments: argparse.Namespace) -> "tuple[Checkpoint, Dataset]":
    """The checkpoint and its data. Raises `UserError` where labels of flips would prove nothing."""
    from benchmarks.sameness.flips import require_exclusive
    from training.checkpoint import load_data, open_checkpoint

    checkpoint = open_checkpoint(arguments.checkpoint)
    dataset = load_data(checkpoint)
    require_exclusive(checkpoint.labels, checkpoint.multi_label, checkpoint.judged, dataset.splits["gate"])
    return checkpoint, dataset


def open_variants(arguments: argparse.Namespace, dataset: "Dataset") -> "dict[str, Artifact]":
    """Fp32, and the variants for CPUs that the check at export accepted. Raises `UserError` where none is
    left."""
    from benchmarks.inputs import find_artifacts, is_for_cuda
    from benchmarks.names import REFERENCE

    found, unusable = find_artifacts(arguments.variants or [], arguments.artifacts, dataset)
    for name, failure in unusable.items():
        say(f"{name} is left out: {failure.message}")
    artifacts = {}
    for name, artifact in found.items():
        if is_for_cuda(artifact):
            say(f"{name} is left out: it is for GPUs")
        elif name != REFERENCE and not artifact.meta.check.equal:
            say(f"{name} is left out: the check at export refused it")
        else:
            artifacts[name] = artifact
    if len(artifacts) == 1:
        raise UserError(
            "there is no variant to compare with fp32",
            seen=arguments.artifacts,
            remedy=f"Build some: {command('export build', 'export')}",
        )
    return artifacts


def shown(stream: "Iterator[np.ndarray]", name: str, texts: int) -> "Iterator[np.ndarray]":
    """The same, with a bar."""
    from tqdm import tqdm

    yield from tqdm(stream, name, texts, unit=" texts", disable=None)


def flips(arguments: argparse.Namespace) -> int:
    return _write(arguments) if arguments.write else _read(arguments)


def _write(arguments: argparse.Namespace) -> int:
    from benchmarks.sameness.flips_key import answers, key_of, write_flips
    from training.data.unlabelled import read_unlabelled

    _, dataset = open_data(arguments)
    artifacts = open_variants(arguments, dataset)
    gate = dataset.splits["gate"].texts
    texts = read_unlabelled(arguments.texts, dataset)
    found = answers(artifacts, gate, texts, arguments.threads, shown)
    path = arguments.write
    key = write_flips(path, found, artifacts, gate, texts, arguments.checks, arguments.most)
    sampled = sum(row.source != "gate" for row in key.rows)
    say(
        f"{path}: {len(key.rows):,} texts to label with {', '.join(key.labels)}: {sampled:,} of the "
        f"{key.flips:,} that flip, among {len(texts):,}, and {len(key.rows) - sampled:,} whose labels "
        "are known\n"
        f"{key_of(path)}: what fp32 and the variants say; keep it, and do not show it to the labeller\n"
        f"when it is labelled: {command('benchmarks flips')} --texts {arguments.texts} --read {path}"
    )
    emit(
        {
            "to_label": str(path),
            "key": str(key_of(path)),
            "rows": len(key.rows),
            "flips": key.flips,
            "unlabelled": len(texts),
        }
    )
    return 0


def _read(arguments: argparse.Namespace) -> int:
    from benchmarks.records import plain
    from benchmarks.report.labels_page import verdict_table
    from benchmarks.sameness.flips import verdicts
    from benchmarks.sameness.flips_key import read_key
    from benchmarks.sameness.flips_labels import read_labels
    from training.data.unlabelled import read_unlabelled

    checkpoint, dataset = open_data(arguments)
    gate = dataset.splits["gate"]
    path = arguments.read
    texts = read_unlabelled(arguments.texts, dataset)
    key = read_key(path, checkpoint.labels, gate.texts, texts)
    given = read_labels(path, key, gate.texts, texts)
    found = verdicts(
        ledger_of(arguments),
        key,
        given,
        gate,
        texts,
        arguments.max_f1_drop,
        checkpoint.may_have_seen,
    )
    say(verdict_table(found))
    emit(plain(found))
    return 0


def plan_labels(arguments: argparse.Namespace) -> int:
    """`python -m benchmarks power --texts`."""
    import numpy as np
    from msgspec import to_builtins

    from benchmarks.names import REFERENCE
    from benchmarks.report.labels_page import picture, plan_table
    from benchmarks.sameness.flips import count
    from benchmarks.sameness.flips_key import answers, flips_of_any
    from benchmarks.sameness.labels_needed import plan
    from training.data.unlabelled import read_unlabelled
    from training.measures.gate_ledger import next_run, share_of

    checkpoint, dataset = open_data(arguments)
    artifacts = open_variants(arguments, dataset)
    texts = read_unlabelled(arguments.texts, dataset)
    if len(texts) > SAMPLE:
        rows = np.random.default_rng(0).choice(len(texts), SAMPLE, replace=False)
        texts = tuple(texts[row] for row in rows)
    validation, gate = (dataset.splits[name] for name in ("validation", "gate"))
    reference = {REFERENCE: artifacts[REFERENCE]}
    on_validation = answers(reference, [], validation.texts, arguments.threads, shown).unlabelled[REFERENCE]
    found = answers(artifacts, [], texts, arguments.threads, shown).unlabelled
    labels = len(checkpoint.labels)
    names = [name for name in found if name != REFERENCE]
    planned = plan(
        {name: count(labels, found[REFERENCE], found[name]) for name in names},
        count(labels, validation.labels, on_validation),
        float(flips_of_any(found).mean()),
        len(gate),
        next_run(ledger_of(arguments), gate.texts),
        lambda run: share_of(run) / len(names),
        arguments.margin or MARGIN,
        arguments.checks,
    )
    arguments.results.mkdir(parents=True, exist_ok=True)
    drawn = arguments.results / "labels.svg"
    if planned.curve:
        drawn.write_text(picture(planned), encoding="utf-8")
    say(plan_table(planned) + (f"\n\npicture: {drawn}" if planned.curve else ""))
    emit(to_builtins(planned))
    return 0
