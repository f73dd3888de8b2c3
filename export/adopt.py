"""A classifier that was trained elsewhere, made a checkpoint of ours, so that every later stage can take it.

Takes a folder or a hub name of an encoder with a sequence-classification head, in Hugging Face format. Its
decisions are kept as they are: no temperature is fitted, a score of one half decides. Labels are independent
where the model's own configuration says so. With labelled data, the checks and the benchmarks judge it on
that; without, only scores can be compared, and they say so. Leaves out: models with code of their own, and
regression.
"""

from collections.abc import Sequence
from pathlib import Path

from handler.errors import UserError
from training import data
from training.calibration import uncalibrated
from training.checkpoint import (
    MULTI_LABEL,
    Checkpoint,
    describe_data,
    describe_surroundings,
    write_checkpoint,
)
from training.data.sources import Columns
from training.data.tables import UNLABELLED

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
    spec = spec or UNLABELLED
    unlabelled = spec.startswith("texts:")
    asked = Columns(columns.text, columns.label, labels if unlabelled else columns.labels)
    dataset = data.load(spec, data_dir, 0, asked)
    labels = _matched(labels, dataset.labels, columns.labels)
    independent = model.config.problem_type == MULTI_LABEL
    if not unlabelled and independent != dataset.multi_label:
        words = {True: "independent", False: "one of several"}
        raise UserError(
            "the model's labels are not those of the data: on one side they exclude each other",
            seen=f"{words[independent]} in the model, {words[dataset.multi_label]} in the data",
            remedy="Give data of the model's kind, or none",
        )
    expected = _logits(model, tokenizer)
    model.config.id2label = dict(enumerate(labels))
    model.config.label2id = {label: index for index, label in enumerate(labels)}
    if model.config.pad_token_id is None:  # else it stays: RoBERTa counts positions by it
        model.config.pad_token_id = tokenizer.pad_token_id
    calibration = uncalibrated(labels, independent)
    meta = {
        "base": place,
        "task": "multi-label" if independent else "single-label",
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
    checkpoint = write_checkpoint(folder, model, tokenizer, meta)
    _require_same(folder, expected)
    return checkpoint


def _load(place: str):
    """The fp32 model in eval mode, and its fast tokenizer."""
    import huggingface_hub
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

    huggingface_hub.utils.logging.set_verbosity_error()  # of retries; how they end is told below
    try:
        config = AutoConfig.from_pretrained(place, trust_remote_code=False)
        names = getattr(config, "architectures", None) or ["no architecture"]
        if not any(name.endswith("ForSequenceClassification") for name in names):
            raise UserError(
                f"{place} is not a fine-tuned classifier", seen=", ".join(names), remedy=ELSEWHERE
            )
        # safetensors alone: what somebody else pickled is not unpickled here.
        model, found = AutoModelForSequenceClassification.from_pretrained(
            place,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise UserError(
            f"there is no classifier that can be read at {place}", seen=_first_line(error), remedy=ELSEWHERE
        ) from error
    if lacking := sorted(found["missing_keys"]):  # transformers would draw them at random
        raise UserError(
            f"the classifier at {place} lacks weights of its own",
            seen=", ".join(lacking[:3]),
            remedy="Save all of it (save_pretrained)",
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, use_fast=True, trust_remote_code=False)
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
    return model.eval(), tokenizer


def _logits(model, tokenizer):
    """Logits of three texts of different lengths, padded."""
    import torch

    texts = ["one", "a few words more", "and, to have some padding, a text that is longer than the others"]
    inputs = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        return model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits


def _require_same(folder: Path, expected) -> None:
    """What was written computes what was read."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False
    ).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    found = _logits(model, tokenizer)
    if not torch.allclose(found, expected, atol=1e-5):
        raise UserError(
            "the classifier does not survive being saved",
            seen=f"logits differ by {float((found - expected).abs().max()):.1e}",
            remedy="Check its configuration, the padding token first",
        )


def _labels(place: str, config) -> tuple[str, ...]:
    """The model's own names of its labels, in the order of its logits."""
    if config.num_labels < 2 or config.problem_type == "regression":
        raise UserError(
            f"{place} does not choose among several labels",
            seen=f"{config.num_labels} labels, {config.problem_type or 'regression'}",
            remedy=ELSEWHERE,
        )
    return tuple(str(config.id2label[index]) for index in range(config.num_labels))


def _matched(model: tuple[str, ...], given: tuple[str, ...], named: tuple[str, ...]) -> tuple[str, ...]:
    """The data's names of the labels, in the order of the model's logits.

    They are the model's names but for case and hyphens, or the model has numbers alone, or they were `named`
    in the model's order.
    """
    numbers = [f"LABEL_{index}" for index in range(len(model))]
    if len(given) == len(model) and (
        list(model) == numbers or _plain(model) == _plain(given) or given == named
    ):
        return given
    raise UserError(
        "the model's labels are not those of the data",
        seen=f"{', '.join(model)} and {', '.join(given)}",
        remedy="Name the data's labels in the model's order (--labels; of csv: and jsonl:)",
    )


def _plain(labels: Sequence[str]) -> list[str]:
    return [label.lower().replace("_", "-").replace(" ", "-") for label in labels]


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
