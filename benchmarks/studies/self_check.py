"""Does the self-check see what changes labels, and is it silent otherwise? Changes whose effect is counted.

Each variant is loaded in a fresh process with other kernels, threads, precision or damaged weights; beside
its self-check stand the labels of real texts that truly changed. Then it is loaded often, unchanged.
"""

import argparse
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from tabulate import tabulate
from tqdm import tqdm

from common.atomic import write_json
from common.commands import emit, positive_int, run, say
from common.environment import machine
from common.options import add_artifacts, add_checkpoint
from common.records import plain
from handler.artifact import DESCRIPTION, Artifact, describe_files, open_artifact
from handler.machine import available_cpus
from handler.predictor import Predictor, decide
from handler.self_check import Outcome, Tolerance
from training.checkpoint import load_data, open_checkpoint
from training.measures.statistics import same_labels

ISA = "ONEDNN_MAX_CPU_ISA"  # of oneDNN, which OpenVINO and torch compute with
KERNELS = ("AVX512_CORE_BF16", "AVX512_CORE_VNNI", "AVX512_CORE")
FLIPPED = (1, 100, 10_000)  # weights
WEIGHTS = ("model.bin", "model.safetensors")
SERVED = Tolerance(on_mismatch="warn")  # what would be refused is to be counted, too


@dataclass(frozen=True)
class Change:
    """What is done to an artifact's surroundings or, in a copy, to itself."""

    name: str
    environment: Mapping[str, str] = field(default_factory=dict)
    threads: int | None = None
    make: Callable[[Artifact], None] | None = None


@dataclass(frozen=True)
class Found:
    """What the self-check said, and how many labels of the real texts changed."""

    variant: str
    change: str
    outcome: Outcome
    changed: int
    texts: int


@dataclass(frozen=True)
class Loads:
    """Unchanged artifacts, loaded again and again with one thread and with all of them."""

    variant: str
    loads: int
    alarms: int  # that were not `same`
    largest_move: float
    median_ms: float
    most_ms: float


def changes(artifact: Artifact) -> list[Change]:
    """Those that apply to this artifact, the unchanged one first."""
    found = [Change("none"), Change("one thread", threads=1)]
    if artifact.meta.runtime in ("openvino", "torch"):
        found += [Change(f"kernels of {isa}", {ISA: isa}) for isa in KERNELS]
    if artifact.meta.runtime == "openvino":
        hints = {"f32", "bf16"} - {artifact.meta.runtime_options.get("INFERENCE_PRECISION_HINT")}
        found += [Change(f"precision {hint}", make=_hinted(hint)) for hint in sorted(hints)]
    if any(name in artifact.meta.files for name in WEIGHTS):
        found += [Change(f"{count:,} weights flipped", make=_flipped(count)) for count in FLIPPED]
    return found


def _hinted(hint: str) -> Callable[[Artifact], None]:
    def make(artifact: Artifact) -> None:
        options = artifact.meta.runtime_options | {"INFERENCE_PRECISION_HINT": hint}
        write_json(artifact.folder / DESCRIPTION, replace(artifact.meta, runtime_options=options))

    return make


def _flipped(count: int) -> Callable[[Artifact], None]:
    """The highest bit of so many bytes of the second half of the weights, drawn at random."""

    def make(artifact: Artifact) -> None:
        path = next(artifact.folder / name for name in WEIGHTS if name in artifact.meta.files)
        content = np.fromfile(path, np.uint8)
        places = np.random.default_rng(0).integers(len(content) // 2, len(content), count)
        content[places] ^= 0x80
        content.tofile(path)
        files = describe_files(artifact.folder)  # whose sums then fit: it is the scores that must tell
        write_json(artifact.folder / DESCRIPTION, replace(artifact.meta, files=files))

    return make


def _answered(folder: Path, threads: int | None, texts: Sequence[str]) -> tuple[Outcome, np.ndarray]:
    """In a process of its own: the self-check, and the labels of the texts."""
    predictor = Predictor.load(folder, threads, tolerance=SERVED)
    artifact = predictor.artifact
    scores = predictor.scores(predictor.logits(predictor.encode(texts)))
    given = decide(scores, artifact.labels, artifact.meta.thresholds, artifact.multi_label)
    return predictor.self_check, given


def answered(folder: Path, change: Change, texts: Sequence[str]) -> tuple[Outcome, np.ndarray]:
    before = {name: os.environ.get(name) for name in change.environment}
    os.environ.update(change.environment)
    try:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:
            return fresh.submit(_answered, folder, change.threads, list(texts)).result()
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def changed(artifact: Artifact, texts: Sequence[str]) -> list[Found]:
    """Every change, and what came of it."""
    found: list[Found] = []
    usual: np.ndarray | None = None
    for change in tqdm(changes(artifact), artifact.name, disable=None):
        with tempfile.TemporaryDirectory(prefix="self-check-") as scratch:
            folder = artifact.folder
            if change.make is not None:
                folder = Path(shutil.copytree(folder, Path(scratch) / artifact.name))
                change.make(Artifact(folder, artifact.meta))
            outcome, given = answered(folder, change, texts)
        usual = given if usual is None else usual
        differing = int((~same_labels(given, usual)).sum())
        found.append(Found(artifact.name, change.name, outcome, differing, len(texts)))
    return found


def loads(artifact: Artifact, count: int) -> Loads:
    """False alarms, and the cost. Half of the loads are with one thread; each process begins anew."""
    outcomes = []
    for number in tqdm(range(count), f"{artifact.name}, loads", disable=None):
        threads = 1 if number % 2 else available_cpus()
        outcomes.append(answered(artifact.folder, Change("none", threads=threads), ())[0])
    taken = [outcome.ms for outcome in outcomes]
    return Loads(
        artifact.name,
        count,
        sum(outcome.status != "same" for outcome in outcomes),
        max(outcome.largest_move or 0.0 for outcome in outcomes),
        float(np.median(taken)),
        max(taken),
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.self_check", description=__doc__)
    add_artifacts(parser)
    add_checkpoint(parser)
    parser.add_argument("variants", nargs="+", help="such as fp32 and openvino-int8")
    parser.add_argument("--texts", type=positive_int, default=400, help="of validation; default: %(default)s")
    parser.add_argument("--loads", type=positive_int, default=50, help="of each; default: %(default)s")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    arguments = parser.parse_args(argv)
    artifacts = [open_artifact(arguments.artifacts / name) for name in arguments.variants]
    texts = load_data(open_checkpoint(arguments.checkpoint)).splits["validation"].texts[: arguments.texts]
    found = [each for artifact in artifacts for each in changed(artifact, texts)]
    again = [loads(artifact, arguments.loads) for artifact in artifacts]
    say(f"{table(found)}\n\n{table_of_loads(again)}")
    document = {"machine": machine(), "changes": plain(found), "loads": plain(again)}
    if arguments.output:
        write_json(arguments.output, document)
    emit(document)
    return 0


def table(found: Sequence[Found]) -> str:
    """For people."""
    rows = [
        (
            each.variant,
            each.change,
            each.outcome.status,
            "none" if each.outcome.largest_move is None else f"{each.outcome.largest_move:.2g}",
            f"{each.outcome.flips_at_most:.2%}",
            f"{each.changed} of {each.texts} ({each.changed / max(1, each.texts):.2%})",
        )
        for each in found
    ]
    heads = ("variant", "change", "self-check", "largest move", "labels, at most", "labels that changed")
    return tabulate(rows, heads, "github", disable_numparse=True)


def table_of_loads(found: Sequence[Loads]) -> str:
    rows = [
        (
            each.variant,
            each.loads,
            each.alarms,
            f"{each.largest_move:.2g}",
            f"{each.median_ms:.0f}",
            f"{each.most_ms:.0f}",
        )
        for each in found
    ]
    heads = ("variant", "loads", "alarms", "largest move", "median ms", "most ms")
    return tabulate(rows, heads, "github", disable_numparse=True)


if __name__ == "__main__":
    run(main)
