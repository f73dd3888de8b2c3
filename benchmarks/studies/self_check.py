"""`python -m benchmarks.studies.self_check`: what changes labels, and does the self-check see it?

Each variant is loaded in a fresh process with other kernels, threads, precision or packages, or with damaged
files; in addition to its self-check, labels of real texts are compared. Then it is loaded often, unchanged.
"""

import argparse
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks.names import REFERENCE
from benchmarks.sameness.self_checks import NAME, Loads, SelfChecks, Tried, excerpt
from common.atomic import write_json
from common.commands import emit, not_negative_int, positive_int, run, say
from common.environment import ROOT, machine, versions
from common.options import add_artifacts, add_checkpoint, add_results
from common.records import plain, read
from handler.artifact import DESCRIPTION, TOKENIZER, Artifact, describe_files, open_artifact, read_json
from handler.errors import UserError
from handler.machine import available_cpus
from handler.predictor import Predictor, decide
from handler.runtimes import RUNTIMES
from handler.self_check import Outcome, Tolerance
from handler.stages import stages_of
from training.checkpoint import load_data, open_checkpoint
from training.measures.statistics import same_labels

# Of oneDNN, with which OpenVINO and torch compute. OpenVINO compiles nothing for AVX2 on a CPU with AVX-512.
ISA = "ONEDNN_MAX_CPU_ISA"
KERNELS = ("AVX512_CORE_FP16", "AVX512_CORE_BF16", "AVX512_CORE_VNNI", "AVX512_CORE", "AVX2")
OF_TORCH = {"ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2", ISA: "AVX2"}
HINT = "INFERENCE_PRECISION_HINT"
FLIPPED = (1, 100, 10_000)  # weights
WEIGHTS = ("model.bin", "model.safetensors", "model.onnx")
TIMED = 100  # texts after each load
EMULATED = "Haswell"  # AVX2 and no more
EMULATED_TEXTS = 40  # a text takes a second
CHILD = "from benchmarks.studies.self_check import answer; answer()"


@dataclass(frozen=True)
class Change:
    """What is done to an artifact's surroundings or, in a copy, to itself. `before` is what runs Python, and
    `only` so many texts are asked, if it is not 0."""

    name: str
    environment: Mapping[str, str] = field(default_factory=dict)
    threads: int | None = None
    make: Callable[[Artifact], None] | None = None
    before: tuple[str, ...] = ()
    only: int = 0


@dataclass(frozen=True)
class Answered:
    """The self-check's outcome, the labels of the texts, and the time that one of them took."""

    outcome: Outcome
    labels: np.ndarray
    text_ms: float


def changes(artifact: Artifact, emulator: str | None, packages: Sequence[Path]) -> list[Change]:
    """Those that apply to this artifact, after none at all."""
    runtime = artifact.meta.runtime
    found = [Change("nothing"), Change("one thread", threads=1)]
    if runtime == "openvino":
        found += [Change(f"kernels of {isa}", {ISA: isa}) for isa in KERNELS]
        if not stages_of(artifact.meta):
            found += [Change(f"precision {hint}", make=partial(_hint, hint)) for hint in ("f32", "bf16")]
    if runtime == "torch":
        found.append(Change("kernels of AVX2", OF_TORCH))
    if any(name in artifact.meta.files for name in WEIGHTS):
        found += [Change(f"{count:,} weights flipped", make=partial(_flip, count)) for count in FLIPPED]
    found.append(Change("the tokenizer's case", make=_keep_case))
    for folder in packages:
        if named := _of_runtime(folder, runtime):
            found.append(Change(named, {"PYTHONPATH": str(folder)}))
    if emulator:
        before = (emulator, "-cpu", EMULATED)
        found.append(Change(f"an emulated {EMULATED}", before=before, only=EMULATED_TEXTS))
    return found


def _of_runtime(folder: Path, runtime: str) -> str:
    """The runtime's packages that are installed in a folder, with their versions."""
    found = {
        each.metadata["Name"]: each.version for each in importlib.metadata.distributions(path=[str(folder)])
    }
    return ", ".join(f"{name} {found[name]}" for name in RUNTIMES[runtime].packages if name in found)


def _hint(hint: str, artifact: Artifact) -> None:
    options = artifact.meta.runtime_options | {HINT: hint}
    write_json(artifact.folder / DESCRIPTION, replace(artifact.meta, runtime_options=options))


def _flip(count: int, artifact: Artifact) -> None:
    """The highest bit of so many bytes of the second half of the weights, drawn at random."""
    path = next(artifact.folder / name for name in WEIGHTS if name in artifact.meta.files)
    content = np.fromfile(path, np.uint8)
    places = np.random.default_rng(0).integers(len(content) // 2, len(content), count)
    content[places] ^= 0x80
    content.tofile(path)
    _describe(artifact)


def _keep_case(artifact: Artifact) -> None:
    """The tokenizer lowers letters no more, or lowers them where it did not."""
    path = artifact.folder / TOKENIZER
    content: Any = read_json(path)
    content["normalizer"]["lowercase"] = not content["normalizer"]["lowercase"]
    write_json(path, content)
    _describe(artifact)


def _describe(artifact: Artifact) -> None:
    """With sums that fit the files: it is the scores that must tell."""
    files = describe_files(artifact.folder)
    write_json(artifact.folder / DESCRIPTION, replace(artifact.meta, files=files))


def answer() -> None:
    """In a process of its own: what is asked comes in, and what is found goes out."""
    asked = json.load(sys.stdin)
    try:
        predictor = Predictor.load(asked["folder"], asked["threads"], tolerance=Tolerance(on_mismatch="warn"))
    except UserError as error:
        found: dict[str, Any] = {"refused": str(error)}
    else:
        artifact = predictor.artifact
        predictor.logits(predictor.encode(asked["texts"]))  # the first call of a shape takes longer
        begun = time.perf_counter()
        scores = predictor.scores(predictor.logits(predictor.encode(asked["texts"])))
        text_ms = 1000 * (time.perf_counter() - begun) / len(scores)
        labels = decide(scores, artifact.labels, artifact.meta.thresholds, artifact.multi_label)
        found = {"outcome": asdict(predictor.self_check), "labels": labels.tolist(), "text_ms": text_ms}
    Path(asked["answer"]).write_text(json.dumps(found))


def answered(folder: Path, change: Change, texts: Sequence[str]) -> Answered | str:
    """What a fresh process finds, or why it does not load the artifact."""
    with tempfile.TemporaryDirectory(prefix="self-check-") as scratch:
        file = Path(scratch) / "answer.json"
        asked = {"folder": str(folder), "threads": change.threads, "texts": list(texts), "answer": str(file)}
        done = subprocess.run(
            [*change.before, sys.executable, "-c", CHILD],
            input=json.dumps(asked),
            cwd=ROOT,
            env=os.environ | change.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if not file.is_file():
            return (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        found = json.loads(file.read_text())
    if "refused" in found:
        return str(found["refused"])
    return Answered(Outcome(**found["outcome"]), np.array(found["labels"]), found["text_ms"])


def named(artifact: Artifact) -> str:
    return f"{artifact.name}, portable" if artifact.meta.proof.get("portable") else artifact.name


def tried(
    artifact: Artifact, all_changes: Sequence[Change], texts: Sequence[str], fp32: np.ndarray
) -> list[Tried]:
    """Every change, and what came of it; `fp32` are the labels that the reference gives."""
    found: list[Tried] = []
    usual: np.ndarray | None = None
    for change in tqdm(all_changes, named(artifact), disable=None):
        with tempfile.TemporaryDirectory(prefix="self-check-") as scratch:
            folder = artifact.folder
            if change.make is not None:
                folder = Path(shutil.copytree(folder, Path(scratch) / artifact.name))
                change.make(Artifact(folder, artifact.meta))
            asked = texts[: change.only or None]
            found_here = answered(folder, change, asked)
        row = Tried(variant=named(artifact), change=change.name)
        row.only = len(asked) if len(asked) < len(texts) else 0
        found.append(row)
        if isinstance(found_here, str):
            row.refused = found_here
            continue
        usual = found_here.labels if usual is None else usual
        row.status = found_here.outcome.status
        row.move = found_here.outcome.largest_move
        row.at_most = found_here.outcome.flips_at_most
        row.tokens_differ = found_here.outcome.tokens_differ
        row.changed = int((~same_labels(found_here.labels, usual[: len(asked)])).sum())
        row.unlike_fp32 = int((~same_labels(found_here.labels, fp32[: len(asked)])).sum())
    return found


def loads(artifacts: Sequence[Artifact], count: int, texts: Sequence[str]) -> list[Loads]:
    """False alarms and times, of every artifact on one thread and on all, in rounds."""
    kinds = list(product(range(len(artifacts)), sorted({1, available_cpus()})))
    found: dict[tuple[int, int], list[Answered]] = {kind: [] for kind in kinds}
    for kind in tqdm(kinds * count, "loads", disable=None):
        place, threads = kind
        loaded = answered(artifacts[place].folder, Change("nothing", threads=threads), texts)
        if isinstance(loaded, str):
            raise UserError("a variant does not load", seen=loaded, remedy="Build it on this machine")
        found[kind].append(loaded)
    return [_loads(artifacts[place], threads, each) for (place, threads), each in found.items() if each]


def _loads(artifact: Artifact, threads: int, found: Sequence[Answered]) -> Loads:
    outcomes = [each.outcome for each in found]
    taken = [outcome.ms for outcome in outcomes]
    return Loads(
        variant=named(artifact),
        threads=threads,
        loads=len(found),
        alarms=sum(outcome.status != "same" for outcome in outcomes),
        move=max(outcome.largest_move or 0.0 for outcome in outcomes),
        median_ms=float(np.median(taken)),
        most_ms=max(taken),
        text_ms=float(np.median([each.text_ms for each in found])),
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = _parser()
    arguments = parser.parse_args(argv)
    checkpoint = open_checkpoint(arguments.checkpoint)
    texts = load_data(checkpoint).splits["validation"].texts[: arguments.texts]
    artifacts = [open_artifact(arguments.artifacts / name) for name in arguments.variants]
    packages = {package for artifact in artifacts for package in RUNTIMES[artifact.meta.runtime].packages}
    reference = answered(arguments.artifacts / REFERENCE, Change("nothing"), texts)
    if isinstance(reference, str):
        parser.error(f"{REFERENCE} does not load: {reference}")
    document = SelfChecks(
        data=checkpoint.meta.data.spec,
        machine=machine(),
        versions=versions(sorted(packages)),
        texts=len(texts),
        allowed=Tolerance.flips,
        tried=[
            row
            for artifact in artifacts
            for row in tried(artifact, _chosen(artifact, arguments), texts, reference.labels)
        ],
        loads=loads(artifacts, arguments.loads, texts[:TIMED]),
    )
    document = _with(arguments.results / f"{NAME}.json", document)
    say(excerpt(document))
    emit(plain(document))
    return 0


def _chosen(artifact: Artifact, arguments: argparse.Namespace) -> list[Change]:
    """Without any change, and the changes that are asked for."""
    unchanged, *others = changes(artifact, arguments.emulator, arguments.packages)
    return [unchanged, *(change for change in others if arguments.only in change.name)]


def _with(path: Path, own: SelfChecks) -> SelfChecks:
    """The file with these rows among others of the same texts."""
    before = read(read_json(path), SelfChecks) if path.is_file() else None
    if before and (before.data, before.machine, before.texts) == (own.data, own.machine, own.texts):
        tried_before = {(row.variant, row.change): row for row in before.tried}
        tried_now = {(row.variant, row.change): row for row in own.tried}
        own.tried = list({**tried_before, **tried_now}.values())
        loads_before = {(row.variant, row.threads): row for row in before.loads}
        loads_now = {(row.variant, row.threads): row for row in own.loads}
        own.loads = list({**loads_before, **loads_now}.values())
        own.versions = {**before.versions, **own.versions}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, plain(own))
    return own


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.self_check", description=__doc__.split("\n")[0]
    )
    add_artifacts(parser)
    add_checkpoint(parser)
    add_results(parser)
    parser.add_argument("variants", nargs="+", help="names such as openvino-int8, or folders of artifacts")
    parser.add_argument("--texts", type=positive_int, default=400, help="of validation; default: %(default)s")
    parser.add_argument(
        "--loads",
        type=not_negative_int,
        default=25,
        help="of each, with each number of threads; default: %(default)s",
    )
    parser.add_argument("--only", default="", metavar="WORD", help="changes with this in their name alone")
    parser.add_argument("--emulator", help="qemu-x86_64 or qemu-x86_64-static, to try another kind of CPU")
    parser.add_argument(
        "--packages",
        type=Path,
        nargs="+",
        default=(),
        help="folders with other versions of runtimes, from pip install --target",
    )
    return parser


if __name__ == "__main__":
    run(main)
