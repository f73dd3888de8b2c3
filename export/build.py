"""Build variants one after the other: only stale ones, and never half an artifact.

A variant is built in a hidden folder next to its place, which is renamed once its description is written, so
a kill leaves no half artifact. Content decides what is fresh: weights, data, the variant's source, and the
versions of what it requires.
"""

import ast
import contextlib
import hashlib
import inspect
import json
import logging
import platform
import shutil
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from common import records
from common.atomic import recover, replacing_folder, write_json
from common.commands import of_this_moment
from common.environment import installed
from export import check as checking
from export import proof, self_check
from export.operating_point import fit_offsets
from export.registry import REFERENCE, VARIANTS, Built, Variant
from export.source import Source
from handler import artifact as artifacts
from handler.artifact import DESCRIPTION, TOKENIZER, Artifact
from handler.batching import plan
from handler.description import (
    SCHEMA,
    Build,
    Check,
    Description,
    Lengths,
    Reference,
    Scores,
    Training,
)
from handler.errors import UserError, first_line, refusals
from handler.machine import cpu_features, gpus
from handler.predictor import Predictor
from handler.records import plain
from handler.runtimes import RUNTIMES
from training.checkpoint import portable

# If the check finds that a quantised variant is not equal, it is rebuilt with its most sensitive linear
# layers in float, more of them each time, until it is equal. If half of the layers do not help, all are int8
# again and the artifact says so. Both the order of the layers and the check use validation texts.

# The modules that every variant is made and judged with, besides those that its own module imports: a change
# of these makes artifacts stale.
ROOT = Path(__file__).parents[1]
MADE_BY = (
    *(f"export/{name}.py" for name in ("build", "check", "operating_point", "proof", "self_check", "source")),
    # What computes the scores that are checked; how requests are read and answered does not change them.
    *(f"handler/{name}.py" for name in ("artifact", "batching", "cuda", "encoder", "machine")),
    *(f"handler/{name}.py" for name in ("bands", "predictor", "runtimes", "self_check", "stages")),
    *(f"training/{name}.py" for name in ("anatomies", "measures/noninferiority", "measures/statistics")),
)
RETRY = ".retry"  # below the folder of the first attempt
# Placeholders in a description until its artifact has been checked.
UNCHECKED = Check("validation", 1, 0, 0, 0, None, None, 0, equal=False, note="not checked yet")
UNKNOWN = Reference(Scores([], []), Lengths([], []))


def build(variant: Variant, source: Source, say: Callable[[str], None]) -> Artifact:
    """The artifact of `variant`: the existing one if it is fresh, else a new one, proven and checked."""
    place = source.artifacts / variant.name
    inputs = fingerprint(variant, source)
    if existing := _fresh(place, inputs):
        say(f"{variant.name}: fresh")
        return existing
    say(f"{variant.name}: building ({variant.summary})")
    remedy = "Make room, or name another folder: --artifacts (make … BUILD=folder)"
    with refusals("the artifact cannot be written", place, remedy), replacing_folder(place) as partial:
        _build_into(partial, variant, source, inputs, say)
    _log(source, variant).unlink(missing_ok=True)
    built = artifacts.open_artifact(place)
    check = built.meta.check
    verdict = "equal" if check.equal else "NOT EQUAL"
    say(
        f"{variant.name}: {verdict} to fp32, {check.label_agreement:.2%} of {check.n} labels agree, "
        f"{built.bytes / 1e6:.1f} MB, {built.meta.build.seconds:.0f} s"
    )
    return built


def _build_into(
    folder: Path, variant: Variant, source: Source, inputs: str, say: Callable[[str], None]
) -> None:
    """Build and check; if the check fails and layers can stay in float, build again with some in float."""
    started = time.perf_counter()
    own = source.below(variant.parent)
    meta = _attempt(folder, variant, own, inputs)
    if not meta.check.equal and variant.leaves and source.checkpoint.trained and _may_be_equal(own, variant):
        meta = _widened(folder, variant, own, inputs, meta, say)
    meta = replace(meta, build=replace(meta.build, seconds=round(time.perf_counter() - started, 1)))
    artifacts.described(plain(meta))  # what nobody could read is not written
    write_json(folder / DESCRIPTION, meta)


def _widened(
    folder: Path,
    variant: Variant,
    source: Source,
    inputs: str,
    first: Description,
    say: Callable[[str], None],
) -> Description:
    """Build again with more and more layers in float until the check passes. If none helps, `first` stays,
    and its note says so."""
    retry = folder / RETRY
    tried = 0
    say(f"{variant.name}: {first.check.note}; ranking its layers by their sensitivity to static int8")
    try:
        for leave in _ladder(source):
            tried = len(leave)
            say(f"{variant.name}: building with {tried} layers left in float")
            again = _attempt(retry, variant, source, inputs, leave)
            if again.check.equal:
                _take_over(folder, retry)
                return again
            shutil.rmtree(retry)
        outcome = f"leaving up to {tried} layers in float did not help"
    except UserError as error:
        outcome = f"with {tried} layers left in float: {error}"
    finally:
        shutil.rmtree(retry, ignore_errors=True)
    return replace(first, check=replace(first.check, note=f"{first.check.note}; {outcome}"))


def _take_over(folder: Path, retry: Path) -> None:
    """Replace what was first built in `folder` with what the retry in it built."""
    for path in folder.iterdir():
        if path == retry:
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    for path in retry.iterdir():
        path.rename(folder / path.name)


def _log(source: Source, variant: Variant) -> Path:
    """Where the traceback of a build that failed is written."""
    return source.artifacts / f"{variant.name}.failed.txt"


def _may_be_equal(source: Source, variant: Variant) -> bool:
    """Whether more precision can help: a child cannot be better than a parent that is not equal."""
    if variant.parent in (None, REFERENCE):
        return True
    return artifacts.open_artifact(source.weights, verify=False).meta.check.equal


def _ladder(source: Source) -> Iterator[list[str]]:
    """The most sensitive linear layer, the two most sensitive, four … up to half of all."""
    from export.rewriting.quantise import most_sensitive

    ranked = most_sensitive(source)
    count = 1
    while count <= len(ranked) // 2:
        yield ranked[:count]
        count *= 2


def _attempt(
    folder: Path, variant: Variant, source: Source, inputs: str, leave: Sequence[str] = ()
) -> Description:
    """Build once into `folder`, reload, check: the artifact's description, still unwritten."""
    folder.mkdir(exist_ok=True)
    try:
        with _quiet():
            built = variant.build(source, folder, leave) if variant.leaves else variant.build(source, folder)
    except UserError:
        raise
    except Exception as error:  # exporters and quantisers raise all kinds
        if told := of_this_moment(error):
            raise told from error
        log = _log(source, variant)
        with contextlib.suppress(OSError):
            log.write_text(traceback.format_exc())
        raise UserError(
            f"{variant.name} could not be built",
            seen=f"{type(error).__name__}: {first_line(error)}",
            remedy=f"Check the free disk space and memory; the traceback is in {log}",
        ) from error
    shutil.copy(source.checkpoint.folder / TOKENIZER, folder / TOKENIZER)
    meta = describe(variant, source, folder, built, inputs)
    predictor = Predictor(Artifact(folder, meta))
    answers = checking.ask(predictor, source)
    meta.proof["validation_tokens"] = _tokens(predictor, answers.tokens)
    expected = _reference(variant, source)
    if variant.parent is not None and source.checkpoint.trained and built.needs_offsets:
        offsets = fit_offsets(predictor.artifact, answers.logits, expected)
        meta = replace(meta, logit_offsets=offsets)
        predictor.artifact = Artifact(folder, meta)
    check, reference = checking.check(predictor, source, answers, expected)
    self_check.write(folder, self_check.record(predictor, source, answers.logits))
    return replace(meta, check=check, reference=reference, files=artifacts.describe_files(folder))


def _tokens(predictor: Predictor, lengths: Sequence[int]) -> dict[str, int]:
    """Tokens of the validation texts, and those that the model computes for them: the rest is padding."""
    computed = sum(part.tokens for part in plan(lengths, predictor.grid))
    return {"real": sum(lengths), "computed": computed}


def describe(variant: Variant, source: Source, folder: Path, built: Built, inputs: str = "") -> Description:
    """The description of what is in `folder`, before it is checked."""
    meta = source.checkpoint.meta
    capability = list(built.exact_capability or variant.capability)
    proof.require("summary" in built.proof, "evidence of the optimisation", built.proof)
    return Description(
        schema=SCHEMA,
        name=variant.name,
        summary=variant.summary,
        runtime=variant.runtime,
        runtime_options=built.runtime_options,
        devices=list(variant.devices),
        parent=variant.parent,
        requires=list(RUNTIMES[variant.runtime].packages),
        cpu_features=list(built.cpu_features),
        cuda_capability=capability if any(capability) else None,
        cuda_capability_exact=True if built.exact_capability else None,
        files=artifacts.describe_files(folder),
        inputs=source.inputs(built.grid or source.grid),
        task=meta.task,
        labels=list(meta.labels),
        positive_label=source.checkpoint.positive_label,
        temperature=meta.temperature,
        thresholds=meta.thresholds,
        bands=meta.bands,
        training=Training(
            base=portable(meta.base),
            trained=source.checkpoint.trained,
            data=portable(meta.data.spec),
            data_sha256=meta.data.sha256,
            seed=meta.seed,
            commit=meta.commit,
            metrics={portable(name): records.plain(figures) for name, figures in meta.metrics.items()},
        ),
        build=Build(
            inputs_sha256=inputs,
            checkpoint_sha256=source.sha256,
            versions=_versions(variant),
            machine={"platform": platform.platform(), "cpu_features": list(cpu_features())}
            | ({"gpu": gpus()[0].name} if "cuda" in variant.devices and gpus() else {}),
            seconds=0,
        ),
        proof=built.proof,
        adoption=meta.adoption,
        check=UNCHECKED,
        reference=UNKNOWN,
    )


def _reference(variant: Variant, source: Source) -> np.ndarray:
    """fp32's scores of the validation texts; for fp32 itself, those of transformers."""
    return checking.reference_scores(source) if variant.parent is None else checking.fp32_scores(source)


def fingerprint(variant: Variant, source: Source) -> str:
    """sha256 over everything that the artifact is made of."""
    own = inspect.getsource(sys.modules[variant.build.__module__])
    parts = [source.sha256, variant.name, str(SCHEMA), json.dumps(asdict(source.grid))]
    parts += [json.dumps({option: getattr(source, option) for option in variant.options})]
    parts += [json.dumps(_versions(variant)), ",".join(cpu_features()), own]
    if "cuda" in variant.devices:
        parts += [str(gpu.capability) for gpu in gpus()[:1]]
    parts += [(ROOT / name).read_text() for name in dict.fromkeys((*MADE_BY, *_named_modules(own)))]
    if variant.parent is not None:
        parts += [fingerprint(VARIANTS[name], source) for name in (variant.parent, *variant.also)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _named_modules(code: str) -> list[str]:
    """Files of the `export` modules that a variant's module imports, at its head or in its functions, and of
    those that these import in turn."""
    found: set[str] = set()
    waiting = [code]
    while waiting:
        for name in _imported(waiting.pop()):
            path = f"{name.replace('.', '/')}.py"
            if name.startswith("export.") and path not in found and (ROOT / path).is_file():
                found.add(path)
                waiting.append((ROOT / path).read_text())
    return sorted(found)


def _imported(code: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _versions(variant: Variant) -> dict[str, str]:
    return installed(sorted({"tokenizers", *variant.requires, *RUNTIMES[variant.runtime].packages}))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Exporters' progress goes to stderr (our stdout is JSON); their advice to developers is left out."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def _fresh(place: Path, inputs: str) -> Artifact | None:
    recover(place)
    if not (place / DESCRIPTION).is_file():
        return None
    try:
        existing = artifacts.open_artifact(place)
    except UserError:  # damaged, of another schema or machine: built anew
        return None
    return existing if existing.meta.build.inputs_sha256 == inputs else None
