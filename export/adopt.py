"""A classifier that was trained elsewhere, made a checkpoint of ours, so that every later stage can take it.

Takes a folder or a hub name of an encoder with a sequence-classification head, in Hugging Face format. Its
decisions are kept as they are: no temperature is fitted, a score of one half decides. With labelled data, the
checks and the benchmarks judge it on that; without, only scores can be compared, and they say so. Leaves out:
models with code of their own, several labels a text, and regression.
"""

from collections.abc import Sequence
from pathlib import Path

from handler.errors import UserError
from training import data
from training.calibration import uncalibrated
from training.checkpoint import Checkpoint, describe_data, describe_surroundings, write_checkpoint
from training.sources import UNLABELLED, Columns

MAX_LENGTH = 128
ELSEWHERE = "Name a folder or hub model of an encoder fine-tuned to classify (…ForSequenceClassification)"


def adopt(
    place: str,
    folder: Path,
    spec: str | None = None,
    data_dir: str | Path = "data",
    columns: Columns | None = None,
    max_length: int = MAX_LENGTH,
) -> Checkpoint:
    """Write the classifier at `place` (a folder, or a name on the hub) as a checkpoint to `folder`.

    `spec` names data as training does; None stands for texts without labels. `max_length` (tokens) is cut to
    what the model can read. Raises `UserError` for anything that is not such a classifier.
    """
    columns = columns or Columns()
    model, tokenizer = _load(place)
    labels = _labels(place, model.config)
    asked = Columns(columns.text, columns.label, columns.labels or (() if spec else labels))
    dataset = data.load(spec or UNLABELLED, data_dir, 0, asked)
    labels = _matched(labels, dataset.labels)
    model.config.id2label = dict(enumerate(labels))
    model.config.label2id = {label: index for index, label in enumerate(labels)}
    model.config.pad_token_id = tokenizer.pad_token_id
    calibration = uncalibrated(labels)
    meta = {
        "base": place,
        "task": "single-label",
        "labels": list(labels),
        "temperature": calibration.temperature,
        "thresholds": calibration.thresholds,
        "max_length": min(max_length, _longest(model, tokenizer)),
        "data": describe_data(dataset),
        "seed": 0,
        "recipe": {"adopted": True, "epochs": 0},
        "metrics": {},
        "seconds": 0.0,
        **describe_surroundings(),
    }
    return write_checkpoint(folder, model, tokenizer, meta)


def _load(place: str):
    """The fp32 model in eval mode, and its fast tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

    try:
        config = AutoConfig.from_pretrained(place)
        names = getattr(config, "architectures", None) or ["no architecture"]
        if not any(name.endswith("ForSequenceClassification") for name in names):
            raise UserError(
                f"{place} is not a fine-tuned classifier", seen=", ".join(names), remedy=ELSEWHERE
            )
        model = AutoModelForSequenceClassification.from_pretrained(place, dtype=torch.float32).eval()
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise UserError(
            f"there is no classifier that can be read at {place}", seen=_first_line(error), remedy=ELSEWHERE
        ) from error
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, use_fast=True)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"the classifier at {place} has no tokenizer that can be read",
            seen=_first_line(error),
            remedy="Put its tokenizer.json beside the weights (tokenizer.save_pretrained)",
        ) from error
    if not tokenizer.is_fast or tokenizer.pad_token_id is None:
        seen = type(tokenizer).__name__ if not tokenizer.is_fast else "no padding token"
        raise UserError(
            f"the tokenizer of {place} cannot be served",
            seen=seen,
            remedy="Convert it to a tokenizer.json with a padding token",
        )
    return model, tokenizer


def _labels(place: str, config) -> tuple[str, ...]:
    """The model's own names of its labels, in the order of its logits."""
    if config.num_labels < 2 or config.problem_type in ("regression", "multi_label_classification"):
        raise UserError(
            f"{place} does not choose one label of several",
            seen=f"{config.num_labels} labels, {config.problem_type or 'regression'}",
            remedy=ELSEWHERE,
        )
    return tuple(str(config.id2label[index]) for index in range(config.num_labels))


def _matched(model: tuple[str, ...], given: tuple[str, ...]) -> tuple[str, ...]:
    """The data's names of the labels; the model's must be the same in the same order, or mere numbers."""
    numbered = [f"LABEL_{index}" for index in range(len(model))]
    if model == given or (list(model) == numbered and len(given) == len(model)):
        return given
    raise UserError(
        "the model's labels are not those of the data",
        seen=f"{', '.join(model)} and {', '.join(given)}",
        remedy=f"Name the data's labels in the model's order: --labels {','.join(model)}",
    )


def _longest(model, tokenizer) -> int:
    """Tokens that both read; RoBERTa and its kin count positions from behind the padding id."""
    positions = getattr(model.config, "max_position_embeddings", None) or MAX_LENGTH
    embeddings = getattr(getattr(model, model.base_model_prefix), "embeddings", None)
    padding = getattr(embeddings, "padding_idx", None)
    if padding is not None:
        positions -= padding + 1
    return min(positions, tokenizer.model_max_length)


def _first_line(error: Exception) -> str:
    lines: Sequence[str] = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
