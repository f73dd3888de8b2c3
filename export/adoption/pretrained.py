"""Read a fine-tuned classifier as its authors saved it, with transformers, or refuse it in one sentence.

Takes a folder or a hub name in Hugging Face format. Runs no code of the model's own and unpickles nothing.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from handler.errors import UserError, first_line
from training.backbones import require_embeddings

ELSEWHERE = "Give a folder or hub name of an encoder fine-tuned to classify (…ForSequenceClassification)"
SAVE_AGAIN = "Load it with transformers' own class, save it again (save_pretrained), and give that folder"
LFS_POINTER = b"version https://git-lfs"
# What other libraries leave in place of safetensors.
OTHER_WEIGHTS = {
    ".bin": "pickled weights, which are not read because reading them can run code",
    ".pt": "pickled weights, which are not read because reading them can run code",
    ".ckpt": "pickled weights, which are not read because reading them can run code",
    ".h5": "only TensorFlow weights",
    ".msgpack": "only Flax weights",
    ".onnx": "only an ONNX graph",
    ".gguf": "only GGUF weights",
}
# Weights that a classifier of the same architecture does without: heads and poolers of the pretraining.
UNUSED = ("pooler.", "cls.", "lm_head.", "position_ids", "vocab_", "mlm_", "generator_", "discriminator_")
MOST_NAMED = 5
KNOWN_LEAST = 0.9  # share of the embeddings that have a token: the rest only rounds sizes up


def read(place: str) -> Any:
    """The fp32 model in eval mode with its fast tokenizer, as transformers makes them of `place`, and notes
    for people.

    Raises `UserError` for what is no classifier, or none that can be served.
    """
    import huggingface_hub
    from transformers.utils import logging as transformers_logging

    # Retries and missing weights are reported below.
    huggingface_hub.utils.logging.set_verbosity_error()
    transformers_logging.set_verbosity_error()
    config = _read_config(place)
    model, notes = _read_model(place, config)
    tokenizer = _read_tokenizer(place)
    require_embeddings(f"the tokenizer of {place}", model, tokenizer)
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) < KNOWN_LEAST * rows:
        notes.append(
            f"its tokenizer has {len(tokenizer):,} tokens, its model {rows:,} embeddings: is it the one "
            "that the model was trained with?"
        )
    return model, tokenizer, notes


def label_names(place: str, given: Mapping[str, Any]) -> tuple[str, ...]:
    """The model's own names of its outputs, in their order, of its config.json as a dict.

    Raises `UserError` where these are not the names of outputs 0, 1 …, each once.
    """
    written = given.get("id2label")
    if written is None:  # transformers' own names
        return tuple(f"LABEL_{index}" for index in range(given.get("num_labels", 2)))
    if not isinstance(written, dict):
        raise _misnamed(place, "id2label names no outputs", type(written).__name__)
    names = _numbered_names(place, written)
    if sorted(names) != list(range(len(names))):
        seen = ", ".join(map(str, sorted(names)))
        raise _misnamed(place, "id2label does not number the outputs 0, 1, 2 …", seen)
    ordered = tuple(names[index] for index in range(len(names)))
    if twice := sorted({name for name in ordered if ordered.count(name) > 1}):
        raise _misnamed(place, "id2label gives one name to several outputs", ", ".join(twice))
    back = given.get("label2id")
    if not isinstance(back, dict):
        return ordered
    for index, name in enumerate(ordered):
        if str(back.get(name, index)) != str(index):
            seen = f"{name} is output {index} in id2label, {back[name]} in label2id"
            raise _misnamed(place, "label2id contradicts id2label", seen)
    return ordered


def _numbered_names(place: str, written: Mapping[Any, Any]) -> dict[int, str]:
    """The names of `id2label` by the numbers of their outputs, each once."""
    names: dict[int, str] = {}
    for key, name in written.items():
        if not str(key).strip().isdecimal():
            raise _misnamed(place, "id2label does not number the outputs", f"{key!r}: {name!r}")
        if not isinstance(name, (str, int, float)) or isinstance(name, bool) or not str(name).strip():
            raise _misnamed(place, "id2label has an output without a name", f"{key!r}: {name!r}")
        if int(key) in names:
            raise _misnamed(place, "id2label numbers an output twice", f"{int(key)}")
        names[int(key)] = str(name).strip()
    return names


def _misnamed(place: str, what: str, seen: str) -> UserError:
    remedy = 'Write "id2label" as {"0": "first label", "1": "second label"}, in the order of outputs'
    return UserError(f"{what} in the config.json of {place}", seen=seen, remedy=remedy)


def _given_config(place: str) -> dict[str, Any]:
    """The content of config.json, if the classifier is complete, not quantised and without code."""
    from transformers import PretrainedConfig

    adapter = UserError(
        f"{place} is an adapter (PEFT), not a whole classifier",
        seen="adapter_config.json",
        remedy="Merge it into its base (merge_and_unload) and save the result (save_pretrained)",
    )
    try:
        given, _ = PretrainedConfig.get_config_dict(place, trust_remote_code=False)
    except Exception as error:  # of whatever kind transformers raises at files that are not its own
        # Not if the hub could not be reached: that would mean waiting twice.
        found = Path(place).is_dir() or "does not appear to have" in str(error)
        if found and _has(place, "adapter_config.json"):
            raise adapter from error
        raise _unreadable(place, error) from error
    if _has(place, "adapter_config.json"):
        raise adapter
    if not given and Path(place).is_dir():
        raise UserError(f"there is no classifier at {place}", seen="no config.json", remedy=ELSEWHERE)
    if given.get("auto_map"):
        raise UserError(
            f"{place} ships its own code, which is not run",
            seen=", ".join(sorted(given["auto_map"])),
            remedy="If transformers' own class computes the same, remove auto_map from config.json in a copy",
        )
    if method := given.get("quantization_config"):
        name = method.get("quant_method") if isinstance(method, dict) else method
        raise UserError(
            f"the weights at {place} are quantised already",
            seen=name or "quantization_config",
            remedy="Give the classifier that it was made from, in float32, float16 or bfloat16",
        )
    return dict(given)


def _read_config(place: str) -> Any:
    from transformers import AutoConfig

    given = _given_config(place)
    try:
        config = AutoConfig.from_pretrained(place, trust_remote_code=False)
    except Exception as error:
        label_names(place, given)  # whose sentence is the better one
        raise _unreadable(place, error) from error
    names = given.get("architectures") or ["no architecture"]
    if not any(name.endswith("ForSequenceClassification") for name in names):
        raise UserError(f"{place} is not a fine-tuned classifier", seen=", ".join(names), remedy=ELSEWHERE)
    if config.is_encoder_decoder:
        raise UserError(
            f"{place} is an encoder-decoder, which this toolkit does not serve",
            seen=config.model_type,
            remedy=ELSEWHERE,
        )
    labels = label_names(place, given)
    if len(labels) < 2 or config.problem_type == "regression":
        raise UserError(
            f"{place} does not choose among several labels; regression models are not served",
            seen=f"{len(labels)} outputs, problem_type {config.problem_type}",
            remedy=ELSEWHERE,
        )
    return config


def _read_model(place: str, config: Any) -> Any:
    import inspect

    import torch
    from transformers import AutoModelForSequenceClassification

    _check_files(place)
    try:
        # safetensors alone: what somebody else pickled is not unpickled here.
        model, found = AutoModelForSequenceClassification.from_pretrained(
            place,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are told below
        )
    except Exception as error:
        raise _unreadable(place, error) from error
    _require_fit(place, model, found)
    if "attention_mask" not in inspect.signature(model.forward).parameters:
        raise UserError(
            f"{place} takes no attention_mask, so padding would change its answers",
            seen=config.model_type,
            remedy=ELSEWHERE,
        )
    for name, tensor in model.named_parameters():
        if not bool(torch.isfinite(tensor).all()):
            raise UserError(
                f"the weights at {place} are not all finite numbers",
                seen=f"{name} holds {int((~torch.isfinite(tensor)).sum())} NaN or infinite values",
                remedy="Use an earlier checkpoint of its training",
            )
    notes = []
    unused = sorted(name for name in found["unexpected_keys"] if not any(known in name for known in UNUSED))
    if unused:
        notes.append(
            f"transformers does not use {len(unused)} of its weights ({_some(unused)}): "
            f"was it trained as a {type(model).__name__}?"
        )
    return model.eval(), notes


def _require_fit(place: str, model: Any, found: dict[str, Any]) -> None:
    """`UserError` if the weights `found` have other shapes than the model's, or some are missing."""
    if mismatched := sorted(key if isinstance(key, str) else key[0] for key in found["mismatched_keys"]):
        name = mismatched[0]
        expected = "x".join(map(str, model.state_dict()[name].shape))
        raise UserError(
            f"the weights at {place} do not fit its config.json",
            seen=f"{_some(mismatched)}; config.json asks for {expected} in {name}",
            remedy="Use the config.json that was saved with these weights",
        )
    if lacking := sorted(found["missing_keys"]):  # transformers would draw them at random
        head = [name for name in lacking if not name.startswith(f"{model.base_model_prefix}.")]
        raise UserError(
            f"the classifier's weights are not in {place}"
            if head
            else f"the weights at {place} are incomplete",
            seen=f"missing {_some(lacking)}",
            remedy="Save the whole fine-tuned model (save_pretrained), not only the encoder",
        )


def _read_tokenizer(place: str) -> Any:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(place, use_fast=True, trust_remote_code=False)
    except Exception as error:
        raise UserError(
            f"the classifier at {place} has no tokenizer that can be read",
            # Where files are missing, transformers fails with a TypeError about a path that is None.
            seen="no tokenizer files" if isinstance(error, TypeError) else first_line(error),
            remedy="Put its tokenizer.json next to the weights (tokenizer.save_pretrained)",
        ) from error

    def refuse(why: str, seen: object, remedy: str) -> UserError:
        return UserError(f"the tokenizer of {place} cannot be served: {why}", seen=seen, remedy=remedy)

    kind = type(tokenizer).__name__
    if tokenizer.init_kwargs.get("auto_map"):
        raise refuse(
            "it ships its own code, which is not run",
            "auto_map in tokenizer_config.json",
            "If transformers' own class reads the same, remove auto_map from tokenizer_config.json in a copy",
        )
    if not tokenizer.is_fast:
        raise refuse("it is a slow tokenizer", kind, "Convert it to a tokenizer.json")
    if tokenizer.pad_token_id is None:
        raise refuse(
            "it has no padding token",
            kind,
            "Set the one it was trained with (tokenizer.pad_token = …) and save it (save_pretrained)",
        )
    if tokenizer.init_kwargs.get("split_special_tokens"):
        raise refuse(
            "it reads its special tokens as words, which a tokenizer.json cannot express",
            "split_special_tokens in tokenizer_config.json",
            "Remove the setting from tokenizer_config.json in a copy, if the model was not trained with it",
        )
    return tokenizer


def _check_files(place: str) -> None:
    """Refuse a folder that holds something else in place of readable weights."""
    folder = Path(place)
    if not folder.is_dir():
        return
    weights = sorted(folder.glob("*.safetensors"))
    if not weights and not list(folder.glob("*.safetensors.index.json")):
        for file in sorted(folder.iterdir()):
            if words := OTHER_WEIGHTS.get(file.suffix):
                raise UserError(f"{place} holds {words}", seen=file.name, remedy=SAVE_AGAIN)
    for file in weights:
        with file.open("rb") as opened:
            pointer = opened.read(len(LFS_POINTER)) == LFS_POINTER
        if pointer:
            raise UserError(
                f"{place} holds a pointer in place of the weights",
                seen=file.name,
                remedy="Run git lfs pull there",
            )


def _has(place: str, name: str) -> bool:
    from transformers.utils.hub import cached_file

    if Path(place).is_dir():
        return (Path(place) / name).is_file()
    try:
        return cached_file(place, name, _raise_exceptions_for_missing_entries=False) is not None
    except Exception:  # no such model, no network: what reads its configuration next says so
        return False


def _unreadable(place: str, error: Exception) -> UserError:
    return UserError(
        f"there is no classifier that can be read at {place}", seen=first_line(error), remedy=ELSEWHERE
    )


def _some(names: list[str]) -> str:
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
