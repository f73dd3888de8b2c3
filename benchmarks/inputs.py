"""The inputs of a run: artifacts, archives, texts and baselines, opened and checked before any time is spent.

Refuses a missing reference or variant, stale archives, a missing Java and artifacts of other data; chooses
the texts that are scored and timed. Leaves out measuring (`suite`).
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import environment
from benchmarks.baselines.preparation import Prepared, prepare_baselines
from benchmarks.baselines.servers import BaselineServer, all_servers
from benchmarks.ceilings.gemm_bound import encoder_of
from benchmarks.ceilings.gemms import Encoder
from benchmarks.in_process.pool import Failure
from benchmarks.names import CUDA_REFERENCE, REFERENCE
from benchmarks.profiles import Profile
from benchmarks.records import Report, plain
from benchmarks.sameness.scores import sample
from benchmarks.served.run import check_archive
from common.atomic import recover_all
from common.commands import say
from common.environment import commit
from common.programs import command
from common.torchserve import java_home
from handler.artifact import DESCRIPTION, Artifact, file_sha256, open_artifact
from handler.errors import UserError
from training.checkpoint import Checkpoint, portable
from training.data import Dataset
from training.data.records import UNKNOWN
from training.data.splits import Split
from training.data.unlabelled import unlabelled_texts
from training.measures import functional
from training.measures.functional import Cases
from training.measures.suites import PUBLISHED

LATENCY_SPLIT = "gate"  # the texts that are timed unless told otherwise
VALIDATION, UNLABELLED = "validation", "unlabelled"
TEMPLATES = "templates"
UNTRAINED_TEXTS = 500  # where labels mean nothing, more texts would tell nothing more about parity


@dataclass(frozen=True)
class Subject:
    """What a run is about: the checkpoint's folder, the artifacts to measure, their archives (none: in
    process only), the splits to score, the texts to time, and what the report says of the data.

    `unusable` are variants that could not even be opened. All archives are served if variants were `named`,
    otherwise the most promising. `baselines` None: none take part, and there is no GEMM bound unless variants
    for GPUs need it; `encoder` None: an architecture whose bound is not known. `load_average` is that of the
    other processes, taken before baselines are prepared, since that loads the machine too. `validation` (None
    if labels mean nothing) is for refitting; `suites` are functional cases."""

    checkpoint: Path
    artifacts: dict[str, Artifact]
    archives: dict[str, Path]
    unusable: dict[str, Failure]
    splits: dict[str, Split]
    timed: Sequence[str]
    data: dict[str, Any]
    named: bool = False
    baselines: Prepared | None = None
    encoder: Encoder | None = None
    load_average: float | None = None
    validation: Split | None = None
    suites: dict[str, Cases] = field(default_factory=dict)

    @property
    def places(self) -> dict[str, Path]:
        """Folders of the baselines that are ready."""
        return self.baselines.folders if self.baselines else {}

    @property
    def has_bound(self) -> bool:
        return (self.baselines is not None or self.on_cuda) and self.encoder is not None

    @property
    def on_cuda(self) -> bool:
        """Whether variants for GPUs take part."""
        return CUDA_REFERENCE in self.artifacts

    @property
    def may_have_seen(self) -> bool:
        """Whether the model may have been trained on the texts that it is judged on."""
        return bool(self.data["unseen"] == UNKNOWN)

    def baseline_servers(self) -> dict[str, BaselineServer]:
        """What others would serve takes part where baselines do, and where our archives are served."""
        if self.baselines is None or not self.archives:
            return {}
        return all_servers(self.baselines.below)

    @property
    def labelled(self) -> dict[str, Split]:
        """The splits whose labels mean something."""
        if not self.data["labels_meaningful"]:
            return {}
        return {name: split for name, split in self.splits.items() if name != UNLABELLED}

    @property
    def scored(self) -> dict[str, Sequence[str]]:
        """All texts that variants are to score, by split or suite."""
        texts: dict[str, Sequence[str]] = {name: split.texts for name, split in self.splits.items()}
        if self.validation:
            texts[VALIDATION] = self.validation.texts
        return texts | {name: cases.texts for name, cases in self.suites.items()}

    def flipped_texts(self, report: Report) -> dict[tuple[str, int], str]:
        """By split and row, the texts that flipped by the report: for those who have the data."""
        return {
            (flip.split, flip.row): self.splits[flip.split].texts[flip.row]
            for variant in report.variants
            for flip in variant.flipped
        }

    def identity(self) -> dict[str, Any]:
        """What must be the same for measurements of two runs to be put together."""
        return {
            "artifacts": {name: artifact.sha256 for name, artifact in self.artifacts.items()},
            "archives": {name: file_sha256(path) for name, path in self.archives.items()},
            "baselines": {name: str(place) for name, place in self.places.items()},
            "data": self.data,
            "texts": {name: _sha256(texts) for name, texts in (self.scored | {"": self.timed}).items()},
            "machine": plain(environment.fingerprint()),
            "commit": commit(),
        }


def _sha256(texts: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()


def prepare(
    wanted: Sequence[str],
    folder: Path,
    store: Path | None,
    checkpoint: Checkpoint,
    dataset: Dataset,
    profile: Profile,
    timed_split: str = LATENCY_SPLIT,
    baselines: Path | None = None,
    name: str = "hate",
    unlabelled: str | Path | None = None,
    copies: Mapping[str, Path] | None = None,
) -> Subject:
    """Open and check everything that the run needs. `store` None: nothing is served. `baselines` is the
    folder where they are kept between runs; None: none take part. `name` is that of the archives.
    `unlabelled` is a file of texts, one a line, or names data sets; `copies` are the user's copies of
    published suites, by name.

    Raises `UserError` for what would spoil the run: no reference, no such variant, stale archives, no Java.
    """
    load = environment.load_average()
    artifacts, unusable = find_artifacts(wanted, folder, dataset)
    archives = find_archives(artifacts, store, name) if store else {}
    if archives:
        java_home()
    most = profile.max_texts
    if not checkpoint.judged:
        most = min(most or UNTRAINED_TEXTS, UNTRAINED_TEXTS)
    splits = {name: _sampled(dataset, name, most) for name in profile.splits}
    timed = _sampled(dataset, timed_split, profile.max_texts)
    if unlabelled:
        splits[UNLABELLED] = sample(unlabelled_texts(unlabelled, dataset.data_dir), most)
    suites = _suites(checkpoint, copies or {})
    return Subject(
        checkpoint.folder,
        artifacts,
        archives,
        unusable,
        splits,
        timed.texts,
        _describe_data(checkpoint, dataset) | {"timed_split": timed_split},
        bool(wanted),
        prepare_baselines(
            checkpoint, dataset.calibration.texts, baselines, CUDA_REFERENCE in artifacts, dataset
        )
        if baselines
        else None,
        encoder_of(json.loads((checkpoint.folder / "config.json").read_text(encoding="utf-8"))),
        load,
        sample(dataset.splits[VALIDATION], most) if checkpoint.judged else None,
        suites,
    )


def _sampled(dataset: Dataset, name: str, most: int | None) -> Split:
    split = sample(dataset.splits[name], most)
    if not len(split.texts):
        raise UserError(f"the {name} split has no texts", seen=dataset.spec, remedy="Train on more data")
    return split


def _suites(checkpoint: Checkpoint, copies: Mapping[str, Path]) -> dict[str, Cases]:
    """The functional cases that this classifier can be asked."""
    labels = checkpoint.labels
    if checkpoint.multi_label or not functional.applies_to(labels):
        if copies:
            raise UserError(
                "functional cases need the labels not-hate and hate, and one label per text",
                seen=f"labels {', '.join(labels)}",
                remedy=f"Leave out {', '.join(f'--{name}' for name in copies)}",
            )
        return {}
    if not checkpoint.judged:
        return {}
    own = {TEMPLATES: functional.templates()}
    return own | {name: functional.read_published(PUBLISHED[name], path) for name, path in copies.items()}


def find_artifacts(
    wanted: Sequence[str], folder: Path, dataset: Dataset
) -> tuple[dict[str, Artifact], dict[str, Failure]]:
    """The references first (that of GPUs where variants for them take part), then the wanted variants (all
    built ones if none is named), verified; and those that cannot be used here."""
    recover_all(folder)
    built = sorted(path.parent.name for path in folder.glob(f"[!.]*/{DESCRIPTION}"))
    for name in (REFERENCE, *wanted):
        if name not in built:
            known = ", ".join(built) or "none"
            raise UserError(
                f"there is no artifact {name} in {folder} (found: {known})",
                remedy=f"Build it: {_build(name)}",
            )
    artifacts: dict[str, Artifact] = {}
    unusable: dict[str, Failure] = {}
    for name in dict.fromkeys((REFERENCE, *(wanted or built))):
        try:
            artifact = open_artifact(folder / name)
            _check_data(artifact, dataset)
            _check_checkpoint(artifact, artifacts.get(REFERENCE, artifact))
            artifacts[name] = artifact
        except UserError as error:
            if name == REFERENCE:
                raise
            unusable[name] = Failure("opening the artifact", str(error))
    if on_cuda := [name for name, artifact in artifacts.items() if is_for_cuda(artifact)]:
        return _with_cuda_reference(artifacts, folder, dataset, on_cuda), unusable
    return artifacts, unusable


def _build(name: str) -> str:
    return command(f"export build {name}", f"export VARIANTS={name}")


def is_for_cuda(artifact: Artifact) -> bool:
    return "cpu" not in artifact.meta.devices


def _with_cuda_reference(
    artifacts: dict[str, Artifact], folder: Path, dataset: Dataset, on_cuda: Sequence[str]
) -> dict[str, Artifact]:
    """The same with the reference of GPUs as the second. Raises `UserError` without it."""
    try:
        reference = artifacts.get(CUDA_REFERENCE) or open_artifact(folder / CUDA_REFERENCE)
        _check_data(reference, dataset)
        _check_checkpoint(reference, artifacts[REFERENCE])
    except UserError as error:
        raise UserError(
            f"{', '.join(on_cuda)} cannot be compared without {CUDA_REFERENCE}, the reference on GPUs",
            seen=str(error),
            remedy=f"Build it: {_build(CUDA_REFERENCE)}",
        ) from error
    return {REFERENCE: artifacts[REFERENCE], CUDA_REFERENCE: reference} | artifacts


def _check_data(artifact: Artifact, dataset: Dataset) -> None:
    trained_on = artifact.meta.training.data_sha256
    if trained_on != dataset.sha256 or list(artifact.labels) != list(dataset.labels):
        raise UserError(
            f"the artifact {artifact.name} was built from a checkpoint of other data",
            seen=f"its data is {trained_on[:12]}, the checkpoint's is {dataset.sha256[:12]}",
            remedy=f"Build it again: {_build(artifact.name)}",
        )


def _check_checkpoint(artifact: Artifact, reference: Artifact) -> None:
    ours, theirs = (variant.meta.build.checkpoint_sha256 for variant in (artifact, reference))
    if ours != theirs:
        raise UserError(
            f"the artifact {artifact.name} and {REFERENCE} were built from different checkpoints",
            seen=f"its checkpoint is {ours[:12]}, {REFERENCE}'s is {theirs[:12]}",
            remedy=f"Build it again: {_build(artifact.name)}",
        )


def find_archives(artifacts: Mapping[str, Artifact], store: Path, model: str) -> dict[str, Path]:
    """The archive of every artifact that has one; `UserError` for one that holds something else."""
    archives = {}
    for name, artifact in artifacts.items():
        path = store / f"{model}-{name}.mar"
        if path.is_file():
            check_archive(path, artifact)
            archives[name] = path
        else:
            make = command("export package", "package")
            say(f"{name}: measured in process only, because there is no archive {path}; {make} builds it")
    return archives


def _describe_data(checkpoint: Checkpoint, dataset: Dataset) -> dict[str, Any]:
    """What the texts are, without where they lie: of a path only the file's name is kept."""
    return {
        "spec": portable(dataset.spec),
        "sha256": dataset.sha256,
        "base": portable(checkpoint.meta.base),
        "task": checkpoint.meta.task,
        "labels": list(dataset.labels),
        "positive_label": checkpoint.positive_label,
        "labels_meaningful": checkpoint.judged,
        "unseen": UNKNOWN if checkpoint.may_have_seen else dataset.unseen,
    }
