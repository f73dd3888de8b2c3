"""Adopt a classifier that was trained elsewhere: turn it into a checkpoint that every later stage can use.

Its decisions stay as they are: no temperature is fitted, and a score of one half decides. Before anything is
built, the model as served is compared with transformers itself (`conformance`), and a table shows which label
each output stands for (`assignment`).
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from common.commands import say
from export.adoption import assignment as assigning
from export.adoption.assignment import Assignment, Fit, assign
from export.adoption.conformance import (
    LOGIT_MARGIN,
    hold_against_transformers,
    own_batches_differ,
    unreadable,
)
from export.adoption.pretrained import label_names, read
from export.build import describe
from export.registry import REFERENCE, VARIANTS, Built
from export.source import Source
from handler.artifact import Artifact
from handler.description import Adoption
from handler.errors import UserError
from handler.predictor import Predictor
from training import data
from training.backbones import LEAST_OWN, UNLIMITED, readable_tokens
from training.checkpoint import (
    MULTI_LABEL,
    Checkpoint,
    check_place,
    describe_data,
    describe_surroundings,
    write_checkpoint,
)
from training.data import Dataset
from training.data.labels import names_of
from training.data.positive import positive
from training.data.records import STATED, UNKNOWN
from training.data.sources import Columns
from training.data.tables import UNLABELLED
from training.description import SCHEMA, Description
from training.measures.calibration import uncalibrated
from training.measures.noninferiority import MAY_HAVE_SEEN, UNPROVEN

MAX_LENGTH = 128
TASKS = ("single-label", "multi-label")
# Labelled texts to check the order of the labels on, and texts of the data to compare with transformers.
JUDGED_TEXTS, OWN_TEXTS = 500, 32


def adopt(
    place: str,
    folder: Path,
    spec: str | None = None,
    data_dir: str | Path = "data",
    columns: Columns | None = None,
    max_length: int | None = None,
    task: str | None = None,
    unseen: bool = False,
) -> Checkpoint:
    """Write the classifier at `place` (a folder, or a name on the hub) as a checkpoint to `folder`.

    `spec` names data as training does; None stands for texts without labels. `max_length` (in tokens, 128 if
    None) is limited to what the model can read. `task` says whether labels exclude each other, if the model's
    configuration does not. `unseen` states that the model was trained on none of these texts; without it, the
    model is judged on files that are not for training, if there are any. Raises `UserError` if it is not such
    a classifier, would not be served as transformers reads it, or its labels would have to be guessed.
    """
    check_place(folder)
    columns = columns or Columns()
    model, tokenizer, notes = read(place)
    own = label_names(place, model.config.to_dict())
    max_length = _max_length(place, model, tokenizer, max_length, notes)
    spec = spec or UNLABELLED
    dataset = _load(spec, data_dir, columns, own, unseen)
    independent = _independent(model.config.problem_type, task, dataset, notes)
    assigned, dataset, found = _assign(model, tokenizer, dataset, own, columns, max_length)
    notes += _sides(model, tokenizer, max_length)
    labels = assigned.names
    named = dataset.positive.label if dataset.positive.how == "named" else ""
    sought = positive(labels, named or "", independent)
    say(str(sought))
    say(_judged_on(dataset))
    calibration = uncalibrated(labels, independent, sought.label)
    meta = Description(
        schema=SCHEMA,
        base=place,
        task="multi-label" if independent else "single-label",
        labels=list(labels),
        positive_label=sought.label,
        temperature=calibration.temperature,
        thresholds=calibration.thresholds,
        max_length=max_length,
        data=describe_data(dataset),
        seed=0,
        recipe={"adopted": True, "epochs": 0},
        metrics={},
        seconds=0.0,
        **describe_surroundings(),
    )
    checkpoint = _write(folder, model, tokenizer, meta, dataset, assigning.record(assigned, found), notes)
    for note in notes:
        say(f"note: {note}")
    return checkpoint


def _sides(model: Any, tokenizer: Any, max_length: int) -> Iterator[str]:
    """Notes on a tokenizer that truncates or pads on the left."""
    if tokenizer.truncation_side == "left":
        yield "if a text is too long, the end is read, as its tokenizer says (truncation_side left)"
    if tokenizer.padding_side == "left":
        batches = model.config.pad_token_id is not None  # else transformers answers no two texts at once
        moved = own_batches_differ(model, tokenizer, max_length) if batches else 0.0
        differs = f"; its own batches, padded on the left, differ by up to {moved:.2g}"
        said = "texts are padded on the right, and each is answered as if it were alone"
        yield said + (differs if moved > LOGIT_MARGIN else "")


def _judged_on(dataset: Dataset) -> str:
    """The texts that the model is judged on, and whether it may have seen them."""
    if dataset.unseen == UNKNOWN:
        return (
            f"WARNING: {MAY_HAVE_SEEN}: every verdict will be {UNPROVEN!r}. If it was trained on none of "
            "them, give --unseen; otherwise give texts that it was not trained on: --gate FILE, or --data "
            "with a folder that has a gate, test or validation file"
        )
    if dataset.unseen == STATED:
        return "judged on texts that it was not trained on, as --unseen states"
    if dataset.spec == UNLABELLED:
        return "judged on this project's synthetic texts"
    counts = ", ".join(f"{len(dataset.splits[name]):,} {name}" for name in ("gate", "validation", "test"))
    said = f"judged only on texts that are not for training: {counts}"
    if "gate" not in dataset.published:
        given = "test" if "test" in dataset.published else "validation"
        said += f"; the gate is taken from {given}, which is therefore not only for final figures"
    return said


def _load(spec: str, data_dir: str | Path, columns: Columns, own: tuple[str, ...], unseen: bool) -> Dataset:
    if twice := sorted({name for name in columns.labels if columns.labels.count(name) > 1}):
        raise UserError(
            "--labels gives one name to several outputs", seen=", ".join(twice), remedy="Give each its own"
        )
    if columns.gate and not _is_table(spec):
        raise UserError(
            "--gate needs a table of your own as --data",
            seen=spec,
            remedy="Give --data csv:PATH, jsonl:, parquet: or hub:",
        )
    if not spec.startswith("texts:"):
        # Outputs that are only numbered say nothing about hate, and neither do 0 and 1 in a table.
        columns = replace(columns, verbatim=bool(assigning.numbered(own)))
        dataset = data.load(spec, data_dir, 0, columns, elsewhere=True, unseen=unseen)
        if columns.labels and set(columns.labels) != set(dataset.labels):
            raise UserError(
                "--labels names other labels than the data has",
                seen=f"{', '.join(columns.labels)}; {', '.join(dataset.labels)}",
                remedy="Give the data's labels, in the order of the model's outputs",
            )
        return dataset
    if columns.labels and len(columns.labels) != len(own):
        raise UserError(
            "--labels does not name each output of the model",
            seen=f"{len(columns.labels)} names, {len(own)} outputs ({', '.join(own)})",
            remedy="Give as many, in the order of the outputs, or leave --labels out",
        )
    columns = replace(columns, labels=columns.labels or own)
    return data.load(spec, data_dir, 0, columns, elsewhere=True, unseen=unseen)


def _independent(problem_type: str | None, task: str | None, dataset: Dataset, notes: list[str]) -> bool:
    """Whether labels are independent, from the configuration, or else from the user."""
    known = {MULTI_LABEL: TASKS[1], None: None}.get(problem_type, TASKS[0])
    if task and known and task != known:
        raise UserError(
            "--task contradicts the model's configuration",
            seen=f"{task}; problem_type is {problem_type}",
            remedy="Leave --task out, or correct problem_type in the config.json of a copy",
        )
    unlabelled = dataset.spec.startswith("texts:")
    judged = None if unlabelled else TASKS[dataset.multi_label]
    if judged and not known and not task and dataset.multi_label:
        raise UserError(
            "the model does not say whether its labels exclude each other, and in the data they do not",
            seen="no problem_type in its config.json",
            remedy="Give --task multi-label if it was trained that way (a sigmoid for each label), or data "
            "with one label per text",
        )
    taken = known or task or TASKS[0]
    if judged and judged != taken:
        words = {TASKS[1]: "independent", TASKS[0]: "one of several"}
        raise UserError(
            "the model and the data disagree on whether labels exclude each other",
            seen=f"{words[taken]} in the model, {words[judged]} in the data",
            remedy="Give data of the model's kind, or leave --data out",
        )
    if not known and not task and unlabelled:
        notes.append(
            "its configuration does not say whether labels exclude each other; they are assumed to, as in "
            "transformers' pipeline (give --task multi-label if it was trained with a sigmoid for each)"
        )
    return taken == TASKS[1]


def _assign(
    model: Any, tokenizer: Any, dataset: Dataset, own: tuple[str, ...], columns: Columns, max_length: int
) -> tuple[Assignment, Dataset, Fit | None]:
    """The labels of the outputs, which are shown in a table; the data with its labels in that order; the fit.

    Raises `UserError` if it would be a guess."""
    if dataset.spec.startswith("texts:"):
        how = "as --labels says" if columns.labels else "by the model's own names"
        alone = Assignment(own, dataset.labels, how, assigning.CERTAIN)
        say(assigning.table(alone))
        if assigning.numbered(alone.names):
            say("the outputs have only numbers: name them in order with --labels")
        return alone, dataset, None
    named = columns.labels or (dataset.labels if _names_labels(dataset.spec) else ())
    assigned = assign(own, dataset.labels, named, public=not _is_table(dataset.spec))
    texts, truth = _judged(dataset)
    found = assigning.fit(assigned, _logits(model, tokenizer, texts, max_length), truth, dataset.labels)
    say(assigning.table(assigned, found))
    assigning.require_known(assigned, found, dataset.multi_label)
    if found.clearly_better:
        say(f"WARNING: {assigned.how}, labels fit far worse than in another order; check the model's names")
    if assigned.names != dataset.labels:
        ordered = _ordered(dataset, assigned.names)
        stated = dataset.unseen == STATED
        dataset = data.load(
            dataset.spec, dataset.data_dir, dataset.seed, ordered, elsewhere=True, unseen=stated
        )
        if dataset.labels != assigned.names:
            raise UserError(
                "the model has the data's labels in an order in which this data cannot be read",
                seen=f"{', '.join(assigned.names)}; {', '.join(dataset.labels)} in {dataset.spec}",
                remedy="Write the texts to a table of your own (csv:PATH), whose labels may be in any order",
            )
    return assigned, dataset, found


def _ordered(dataset: Dataset, names: tuple[str, ...]) -> Columns:
    """The columns that give the data's labels in the order of `names`. Several label columns keep the order
    in which they are named; their `labels`, if any, rename them."""
    columns = dataset.columns
    if not dataset.multi_label:
        return replace(columns, labels=names)
    column_of = dict(zip(dataset.labels, names_of(columns), strict=False))
    label = ",".join(column_of.get(name, name) for name in names)
    return replace(columns, label=label, labels=names if columns.labels else ())


def _is_table(spec: str) -> bool:
    return spec.split(":")[0] in ("csv", "jsonl", "parquet", "hub")


def _names_labels(spec: str) -> bool:
    """Whether the data's own settings name the labels."""
    return "labels=" in spec.partition("?")[2]


def _judged(dataset: Dataset) -> tuple[list[str], np.ndarray]:
    """Labelled texts of validation, and of train if those are few; never of gate and test."""
    splits = [dataset.splits[name] for name in ("validation", "train")]
    texts: list[str] = []
    labels = []
    for split in splits:
        taken = min(JUDGED_TEXTS - len(texts), len(split))
        rows = np.linspace(0, len(split) - 1, taken).astype(int) if taken > 0 else np.array([], int)
        texts += [split.texts[int(row)] for row in rows]
        labels.append(split.labels[rows])
    return texts, np.concatenate(labels)


def _logits(model: Any, tokenizer: Any, texts: Sequence[str], max_length: int, batch: int = 32) -> np.ndarray:
    """float32 [texts, outputs] by transformers, similar lengths together."""
    import torch

    padding = model.config.pad_token_id
    if padding is None:  # transformers answers no two texts at once then
        padding = tokenizer.pad_token_id
        batch = 1
    found = np.empty((len(texts), model.config.num_labels), np.float32)
    encoded = [tokenizer(text, truncation=True, max_length=max_length)["input_ids"] for text in texts]
    order = sorted(range(len(texts)), key=lambda row: len(encoded[row]))
    with torch.no_grad():
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            length = max(1, *(len(encoded[row]) for row in rows))
            ids = torch.full((len(rows), length), padding)
            mask = torch.zeros_like(ids)
            for place, row in enumerate(rows):
                ids[place, : len(encoded[row])] = torch.tensor(encoded[row])
                mask[place, : max(1, len(encoded[row]))] = 1
            try:
                found[rows] = model(input_ids=ids, attention_mask=mask).logits.float()
            except Exception as error:
                raise unreadable(length, error) from error
    return found


def _write(
    folder: Path,
    model: Any,
    tokenizer: Any,
    meta: Description,
    dataset: Dataset,
    labels: dict[str, Any],
    notes: Sequence[str],
) -> Checkpoint:
    """Write the checkpoint, after comparing what it would serve with `model` and `tokenizer`."""
    model.config.id2label = dict(enumerate(meta.labels))
    model.config.label2id = {label: index for index, label in enumerate(meta.labels)}
    padding = model.config.pad_token_id
    if padding is None:  # else it stays: RoBERTa counts positions by it
        model.config.pad_token_id = tokenizer.pad_token_id
    to_write = copy.deepcopy(tokenizer)
    to_write.padding_side = "right"  # as texts are served

    def confirm(written: Checkpoint) -> Adoption:
        model.config.pad_token_id = padding  # what is compared with is the user's model as it was
        texts, _ = _judged(dataset)
        step = max(1, len(texts) // OWN_TEXTS)
        record = hold_against_transformers(
            model, tokenizer, _predictor(written, dataset), texts[::step][:OWN_TEXTS]
        )
        say(
            f"compared with transformers itself on {record.texts} texts: the same token ids, logits "
            f"differ by at most {record.max_logit_diff:.1e} ({LOGIT_MARGIN} is allowed)"
        )
        return replace(record, labels=labels, notes=list(notes))

    return write_checkpoint(folder, model, to_write, meta, confirm)


def _predictor(checkpoint: Checkpoint, dataset: Dataset) -> Predictor:
    """The checkpoint as its fp32 artifact would serve it."""
    import torch

    source = Source(checkpoint, dataset, checkpoint.folder)
    built = Built(proof={"summary": "none yet"}, runtime_options={"dtype": "float32"})
    meta = describe(VARIANTS[REFERENCE], source, checkpoint.folder, built)
    return Predictor(Artifact(checkpoint.folder, meta), torch.get_num_threads())


def _max_length(place: str, model: Any, tokenizer: Any, asked: int | None, notes: list[str]) -> int:
    """How many tokens of a text are read: as many as asked for, within what model and tokenizer can read."""
    special = tokenizer.num_special_tokens_to_add(pair=False)
    if asked is not None and asked < special + LEAST_OWN:
        raise UserError(
            "--max-length leaves no room for a text",
            seen=f"{asked} tokens, {special} of them special ones",
            remedy=f"Give {special + LEAST_OWN} or more",
        )
    longest = readable_tokens(model, tokenizer)
    if longest < special + LEAST_OWN:
        raise UserError(
            f"the classifier at {place} cannot read any text",
            seen=f"{longest} tokens, by its max_position_embeddings and its tokenizer's model_max_length",
            remedy="Correct these in a copy of its config.json and tokenizer_config.json",
        )
    taken = min(asked or MAX_LENGTH, longest)
    if asked and taken < asked:
        notes.append(f"texts are cut at {taken} tokens, not {asked}: it cannot read more")
    elif not asked and taken < longest:
        known = f"up to {longest}" if longest < UNLIMITED else "more"
        notes.append(f"texts are cut at {taken} tokens; it can read {known} (--max-length)")
    return taken
