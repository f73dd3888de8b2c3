"""The model card: `README.md` in the checkpoint, in Hugging Face's format, for those who get the model.

It is written from `checkpoint.json` at the end of a training, and again with the results of each evaluation.
Format: https://huggingface.co/docs/hub/model-cards
"""

import json
import os
import re
import shlex
from contextlib import suppress
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from msgspec import ValidationError

from common.atomic import write_text
from common.records import read
from handler.errors import UserError
from training.checkpoint import Checkpoint
from training.data import sources
from training.description import Description
from training.evaluation import page
from training.evaluation.document import SPLITS, weights_sha256
from training.evaluation.records import FILE, FOLDER, Evaluation
from training.measures.records import Figures
from training.recipe import default_recipe
from training.recipe import options as recipe_options

CARD = "README.md"
HUB_BASES = {"minilm": "sentence-transformers/all-MiniLM-L6-v2"}
HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+")
SYNTHETIC = "demo"
METRICS = {
    "macro_f1": ("f1", "macro-F1"),
    "accuracy": ("accuracy", "accuracy"),
    "auroc": ("roc_auc", "AUROC"),
    "average_precision": ("average_precision", "average precision"),
}


def write_card(checkpoint: Checkpoint, evaluations: Path | None = None, into: Path | None = None) -> Path:
    """Write the card into the checkpoint, or into the folder `into`, and return its path.

    `evaluations` (default: `evaluation` in the checkpoint) holds a folder for each split that was evaluated;
    results of other weights are ignored.
    """
    folder = into or checkpoint.folder
    evaluations = evaluations or checkpoint.folder / FOLDER
    path = folder / CARD
    where = Path(os.path.relpath(evaluations, folder))
    write_text(path, card(checkpoint, read_evaluations(checkpoint, evaluations), where))
    return path


def read_evaluations(checkpoint: Checkpoint, folder: Path) -> list[Evaluation]:
    """The evaluations of these weights, in the order of the splits."""
    found = []
    for split in SPLITS:
        with suppress(OSError, ValueError, ValidationError):  # none, damaged, or of another version
            found.append(read(json.loads((folder / split / FILE).read_text(encoding="utf-8")), Evaluation))
    weights = weights_sha256(checkpoint) if found else ""
    return [document for document in found if document.checkpoint.weights_sha256 == weights]


def card(checkpoint: Checkpoint, evaluations: list[Evaluation], where: Path = Path(FOLDER)) -> str:
    """The card's text; `where` is the way from the card to the folder of the evaluations."""
    meta = checkpoint.meta
    sections = [
        f"# {_title(meta)}",
        _what(checkpoint),
        "## Data",
        *_data(meta),
        "## Training",
        *_training(checkpoint),
        *(["## Figures", *_figures(meta, evaluations)] if checkpoint.judged else []),
        "## Scores and labels",
        _calibration(checkpoint),
        *(_evaluated(evaluations, where) if checkpoint.judged else []),
        "## Limits",
        _limits(checkpoint),
        "## Made with",
        _made_with(checkpoint),
    ]
    return f"---\n{_front(checkpoint, evaluations)}---\n\n" + "\n\n".join(sections) + "\n"


def _front(checkpoint: Checkpoint, evaluations: list[Evaluation]) -> str:
    meta = checkpoint.meta
    hub = [names[0] for part in _parts(meta) if (names := _hub_names(part))]
    hub += [part.argument.split(":")[0] for part in _parts(meta) if part.name == "hub"]
    base = HUB_BASES.get(meta.base, meta.base)
    is_hub_name = HUB_NAME.fullmatch(base) and not Path(base).exists()
    data = ModelCardData(
        pipeline_tag="text-classification",
        library_name="transformers",
        base_model=base if is_hub_name else None,
        datasets=list(dict.fromkeys(hub)) or None,  # TweetEval's tasks are one set there
        metrics=["f1", "accuracy", "roc_auc"],
        model_name=_title(meta),
        eval_results=_results(checkpoint, evaluations) or None,
    )
    return data.to_yaml() + "\n"


def _results(checkpoint: Checkpoint, evaluations: list[Evaluation]) -> list[EvalResult]:
    if not checkpoint.judged:
        return []
    first = _parts(checkpoint.meta)[0]
    hub_name, config = _hub_names(first) or (page.short(first.spec), None)
    return [
        EvalResult(
            task_type="text-classification",
            dataset_type=hub_name,
            dataset_name=page.short(first.spec),
            dataset_config=config,
            dataset_split=split,
            metric_type=kind,
            metric_name=name,
            metric_value=round(value, 4),
        )
        for split, found in _figures_by_split(checkpoint.meta, evaluations).items()
        for key, (kind, name) in METRICS.items()
        if (value := getattr(found, key)) is not None
    ]


def _title(meta: Description) -> str:
    return f"{page.short(meta.base)} fine-tuned on {page.short(meta.data.spec)}"


def _what(checkpoint: Checkpoint) -> str:
    meta = checkpoint.meta
    labels = ", ".join(f"`{label}`" for label in checkpoint.labels)
    kind = (
        f"decides for each of {labels} whether it applies"
        if meta.task == "multi-label"
        else f"assigns one of {labels}"
    )
    state = "" if checkpoint.trained else " **Its weights are random: its labels mean nothing.**"
    return (
        f"A text classifier that {kind}. It reads up to {meta.max_length} tokens of a text and ignores the "
        f"rest.{state}"
    )


def _data(meta: Description) -> list[str]:
    data = meta.data
    parts = _parts(meta)
    said = [
        f"`{page.short(part.spec)}`"
        + (f" (each text has weight {part.weight:g} in the loss)" if part.weight != 1 else "")
        for part in parts
    ]
    words = f"From {', '.join(said)}"
    if len(parts) > 1:
        words += "; the first gives validation, gate and test, the others only add training texts"
    names = list(next(iter(data.splits.values())).labels)
    rows = [
        [name, f"{split.n:,}", *(f"{split.labels.get(label, 0):,}" for label in names)]
        for name, split in data.splits.items()
    ]
    lines = [f"{words}.", page.table((rows, ["split", "texts", *names]))]
    dropped = [
        f"- dropped from {page.short(name)}: "
        + ", ".join(f"{count:,} {why}" for why, count in reasons.items())
        for name, reasons in data.dropped.items()
    ]
    dropped += [f"- {leak.of(name)}: dropped from train" for name, leak in data.leaks.items()]
    return [*lines, *(["\n".join(dropped)] if dropped else [])]


def _held(meta: Description) -> str:
    """How an adopted model compares with transformers; older checkpoints do not record it."""
    held = meta.adoption
    if held is None:
        return ""
    return (
        f" As served, it tokenises {held.texts} test texts exactly as transformers does, and its logits "
        f"differ by at most {held.max_logit_diff:.1e}."
    )


def _training(checkpoint: Checkpoint) -> list[str]:
    meta = checkpoint.meta
    recipe = meta.recipe
    if recipe.get("adopted"):
        base = page.short(meta.base)
        return [f"Trained elsewhere and adopted unchanged from {base}.{_held(meta)}"]
    rows = [[name.replace("_", " "), f"`{_shown(value)}`"] for name, value in recipe.items() if value != ""]
    return [
        page.table((rows, ["setting", "value"])),
        "To train it again, run this in the project's folder (named data sets are read from `DATA_DIR`; "
        "give the paths of your own files):",
        f"```\n{command_line(meta)}\n```",
    ]


def command_line(meta: Description) -> str:
    """The training's command from its record: what differs from the defaults, without the machine's paths."""
    data = meta.data
    words = [
        "python",
        "-m",
        "training",
        "--data",
        page.short(data.spec),
        "--base",
        page.short(meta.base),
    ]
    columns = data.columns
    for flag, value, default in (
        ("--text-column", columns.text, "text"),
        ("--label-column", columns.label, "label"),
        ("--labels", ",".join(columns.labels), ""),
        ("--split-seed", data.seed, 0),
    ):
        if value != default:
            words += [flag, str(value)]
    defaults = default_recipe(meta.base)
    for option in recipe_options():
        value = meta.recipe.get(option.name, option.default)
        if value != getattr(defaults, option.name):
            flag = option.name.replace("_", "-")
            words += (
                [f"--{flag}" if value else f"--no-{flag}"]
                if isinstance(value, bool)
                else [f"--{flag}", _shown(value)]
            )
    return shlex.join(words)


def _figures(meta: Description, evaluations: list[Evaluation]) -> list[str]:
    by_split = _figures_by_split(meta, evaluations)
    rows = {split: [split, *page.cells(found)] for split, found in by_split.items()}
    for document in evaluations:  # what the training had measured without an interval has one here
        rows |= {row[0]: list(row) for row in page.figures(document)[0][1:]}
    if not rows:
        return ["None yet: run `python -m training evaluate`."]
    lines = [page.table((list(rows.values()), ["split", *page.HEADS]))]
    chosen = "test" if "test" in by_split else next(iter(by_split))
    lines += [f"By label, on {chosen}:", page.table(page.per_label(by_split[chosen].labels))]
    return lines


def _figures_by_split(meta: Description, evaluations: list[Evaluation]) -> dict[str, Figures]:
    """Those of the training, and in their place those of an evaluation, which have intervals."""
    found = meta.metrics | {evaluation.split: evaluation.figures for evaluation in evaluations}
    return {
        name: found[name]
        for name in sorted(found, key=lambda name: SPLITS.index(name) if name in SPLITS else 9)
    }


def _calibration(checkpoint: Checkpoint) -> str:
    meta = checkpoint.meta
    squash = "sigmoid" if meta.task == "multi-label" else "softmax"
    if not checkpoint.trained:
        return "Scores are not calibrated, because the weights are random."
    if meta.recipe.get("adopted"):
        return (
            f"A score is the {squash} of the logits: neither a temperature nor a threshold was fitted here. "
            f"The rule: {page.thresholds(meta.thresholds)}."
        )
    return (
        f"A score is the {squash} of the logits divided by the temperature {meta.temperature:.4f}, "
        f"fitted on validation (Guo et al., 2017). The rule: {page.thresholds(meta.thresholds)}. "
        "A threshold differs from 0.5 only if its gain in macro-F1 on validation was significant "
        "(95 % interval of a paired bootstrap above zero)."
    )


def _evaluated(evaluations: list[Evaluation], where: Path) -> list[str]:
    """The functional suite once, since it is the same for every split, and the robustness of each."""
    sections: list[str] = []
    if evaluations:
        for suite, found in evaluations[-1].functional.items():
            weakest = page.functional(found)
            sections += [
                f"## Functional suite: {page.SUITES.get(suite, suite)}",
                page.functional_words(found),
            ]
            sections += ["The weakest kinds of cases:", page.table((weakest[0][:8], weakest[1]))]
    for document in evaluations:
        if tried := document.robustness:
            sections += [f"## Robustness, on {document.split}", page.robustness_words(tried)]
            sections += [page.table(page.robustness(tried))]
    for document in evaluations:
        link = (where / document.split / "evaluation.md").as_posix()
        sections += [f"Details: [{link}]({link})."]
    return sections


def _limits(checkpoint: Checkpoint) -> str:
    meta = checkpoint.meta
    lines = []
    if any(part.name == SYNTHETIC for part in _parts(meta)):
        lines.append(
            "- The data is synthetic, generated from templates for trying out the tool. The figures show "
            "that training works, and say nothing about texts that people write."
        )
    if not checkpoint.trained:
        lines.append("- The weights are random: the model is only useful for measuring speed.")
    lines += [
        "- Do not moderate people by its output alone. It makes mistakes, more of them on some groups and "
        "ways of writing than on others, and does not know who is speaking to whom. Let people decide, and "
        "let those affected object.",
        "- It knows only the language, time and platform of its data. The figures hold for texts like those; "
        "results on yours may differ, above all on quoted, reclaimed or ironic speech.",
        "- Labels are the annotators' judgement, and annotators disagree.",
        "- It can be evaded by changing how a text is written: see robustness, if it was measured.",
        "- The licence depends on data and base model: add it in the first lines of this file.",
    ]
    return "\n".join(lines)


def _made_with(checkpoint: Checkpoint) -> str:
    meta = checkpoint.meta
    versions = ", ".join(f"{name} {version}" for name, version in meta.versions.items())
    machine = meta.machine
    return (
        f"Commit {(meta.commit or 'unknown')[:12]}, data sha256 {meta.data.sha256[:12]}; "
        f"{machine.gpu or machine.cpu}, {machine.threads} threads, {meta.seconds:.0f} s; "
        f"{versions}."
    )


def _hub_names(part: sources.Part) -> tuple[str, str | None] | None:
    """The set and its configuration on the hub; None where it is not there."""
    known = sources.SOURCES.get(part.name)
    return known.hub if known else None


def _parts(meta: Description) -> list[sources.Part]:
    spec = meta.data.spec
    try:
        return sources.parse(spec)
    except UserError:  # the data of a model that was taken over, or of a source that is no more
        name, _, argument = spec.partition(":")
        return [sources.Part(name, argument)]


def _shown(value: Any) -> str:
    """A setting; of a folder its name alone."""
    return Path(value).name if isinstance(value, str) and "/" in value else str(value)
