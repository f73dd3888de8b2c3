"""Whatever cannot be adopted is one sentence and exit status 2, and leaves nothing behind."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from export.adoption.adopt import adopt
from handler.artifact import Artifact
from handler.errors import UserError
from handler.predictor import load_tokenizer
from tests.conftest import refused
from tests.descriptions import EXAMPLE, description
from tests.tiny import edit_json, make_classifier
from training.checkpoint import open_checkpoint

TWO = {"0": "calm", "1": "heated"}


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_classifier(tmp_path_factory.mktemp("classifier") / "theirs", labels=("calm", "heated"))


def config(**changes: object) -> Callable[[Path], None]:
    return lambda place: edit_json(place / "config.json", **changes)


def weights(change: Callable[[dict], dict]) -> Callable[[Path], None]:
    def damage(place: Path) -> None:
        file = place / "model.safetensors"
        save_file(change(load_file(file)), file, metadata={"format": "pt"})

    return damage


def others(*names: str) -> Callable[[Path], None]:
    def damage(place: Path) -> None:
        (place / "model.safetensors").unlink()
        for name in names:
            (place / name).write_bytes(b"weights")

    return damage


def pointer(place: Path) -> None:
    (place / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\n")


def cut(place: Path) -> None:
    file = place / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])


def adapter(place: Path) -> None:
    (place / "adapter_config.json").write_text('{"base_model_name_or_path": "somewhere"}')


def with_nan(tensors: dict) -> dict:
    tensors["classifier.weight"][0, 0] = torch.nan
    return tensors


def without(start: str) -> Callable[[dict], dict]:
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if not name.startswith(start)}


def broken(name: str) -> Callable[[Path], None]:
    return lambda place: (place / name).write_text("{")


def lost(name: str) -> Callable[[Path], None]:
    return lambda place: (place / name).unlink()


DAMAGES = {
    "ids from 1": (config(id2label={"1": "calm", "2": "heated"}), "does not number the outputs 0, 1, 2"),
    "ids with a hole": (config(id2label={"0": "calm", "2": "heated"}), "does not number the outputs 0, 1, 2"),
    "ids below 0": (config(id2label={"-1": "calm", "0": "heated"}), "does not number the outputs"),
    "names for ids": (config(id2label={"calm": 0, "heated": 1}), "does not number the outputs"),
    "one name twice": (
        config(id2label={"0": "other", "1": "hate", "2": "other"}, label2id={"other": 2, "hate": 1}),
        "gives one name to several outputs.*: other",
    ),
    "no name": (config(id2label={"0": None, "1": "heated"}), "an output without a name"),
    "an empty name": (config(id2label={"0": " ", "1": "heated"}), "an output without a name"),
    "ids as a list": (config(id2label=["calm", "heated"]), "id2label names no outputs"),
    "label2id the other way": (config(label2id={"calm": 1, "heated": 0}), "label2id contradicts id2label"),
    "more names than outputs": (
        config(id2label=TWO | {"2": "mixed"}, label2id=None),
        "do not fit its config",
    ),
    "one output": (config(id2label={"0": "score"}, label2id=None), "regression models are not served"),
    "a regression": (
        config(problem_type="regression"),
        "does not choose among several labels; regression models are not served",
    ),
    "another problem": (config(problem_type="multilabel"), "no classifier that can be read"),
    "tokens": (config(architectures=["DistilBertForTokenClassification"]), "is not a fine-tuned classifier"),
    "answers": (config(architectures=["DistilBertForQuestionAnswering"]), "is not a fine-tuned classifier"),
    "an encoder": (
        config(architectures=["DistilBertModel"]),
        "is not a fine-tuned classifier: DistilBertModel",
    ),
    "no architecture": (config(architectures=None), "is not a fine-tuned classifier: no architecture"),
    "own code": (
        config(auto_map={"AutoModel": "own.Own"}),
        "ships its own code, which is not run: AutoModel",
    ),
    "quantised": (
        config(quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True}),
        "are quantised already: bitsandbytes",
    ),
    "gptq": (config(quantization_config={"quant_method": "gptq", "bits": 4}), "are quantised already: gptq"),
    "an unknown kind": (config(model_type="nothing-known"), "no classifier that can be read"),
    "other sizes": (config(dim=64), "do not fit its config.json"),
    "fewer layers than weights": (config(n_layers=1), None),
    "more layers than weights": (config(n_layers=3), "the weights at .* are incomplete"),
    "no positions": (config(max_position_embeddings=0), "do not fit its config.json|can be read at"),
    "an adapter": (adapter, "is an adapter"),
    "no head": (weights(without("classifier")), "the classifier's weights are not in"),
    "no encoder layer": (weights(without("distilbert.transformer.layer.1")), "are incomplete"),
    "not a number": (weights(with_nan), r"not all finite numbers: classifier\.weight holds 1 NaN"),
    "pickled weights": (others("pytorch_model.bin"), "holds pickled weights.*: pytorch_model.bin"),
    "TensorFlow": (others("tf_model.h5"), "holds only TensorFlow weights: tf_model.h5"),
    "Flax": (others("flax_model.msgpack"), "holds only Flax weights: flax_model.msgpack"),
    "no weights": (others(), "no classifier that can be read"),
    "a pointer": (pointer, "holds a pointer in place of the weights: model.safetensors.*git lfs pull"),
    "cut weights": (cut, "no classifier that can be read"),
    "broken config": (broken("config.json"), "no classifier that can be read"),
    "no config": (lost("config.json"), "config.json"),
    "broken tokenizer": (broken("tokenizer.json"), "no tokenizer that can be read"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_it_is_a_sentence(kind: str, theirs: Path, tmp_path: Path) -> None:
    damage, expected = DAMAGES[kind]
    place = tmp_path / "damaged"
    shutil.copytree(theirs, place)
    damage(place)
    if expected is None:
        adopt(str(place), tmp_path / "ours")
        return
    with pytest.raises(UserError, match=expected):
        adopt(str(place), tmp_path / "ours")
    assert list(tmp_path.iterdir()) == [place]


def test_weights_that_are_not_used_are_said(
    theirs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(theirs, tmp_path / "theirs")
    edit_json(tmp_path / "theirs" / "config.json", n_layers=1)
    adopt(str(tmp_path / "theirs"), tmp_path / "ours")
    assert "transformers does not use 16 of its weights" in capsys.readouterr().err


@pytest.mark.parametrize("length", [1, 2, 5])
def test_a_length_without_room_for_a_text_is_status_2(length: int, theirs: Path, tmp_path: Path) -> None:
    place, artifacts = theirs, tmp_path / "b" / "a"
    arguments = ("--checkpoint", place, "--artifacts", artifacts, "--max-length", length)
    said = refused("export", "build", "fp32", *arguments)
    assert f"--max-length leaves no room for a text: {length} tokens, 2 of them special ones" in said
    assert not (tmp_path / "b").exists()


def test_what_stood_there_stays_where_another_is_refused(theirs: Path, tmp_path: Path) -> None:
    place, ours = tmp_path / "theirs", tmp_path / "ours"
    shutil.copytree(theirs, place)
    before = adopt(str(place), ours).meta
    weights(with_nan)(place)
    with pytest.raises(UserError, match="not all finite"):
        adopt(str(place), ours)
    assert open_checkpoint(ours).meta == before


def test_an_artifact_that_has_no_room_for_a_text_is_a_sentence(theirs: Path, tmp_path: Path) -> None:
    checkpoint = adopt(str(theirs), tmp_path / "ours")
    meta = description(inputs=EXAMPLE["inputs"] | {"max_length": 2})
    with pytest.raises(UserError, match="leaves no room for a text: 2 tokens at most, 2 of them special"):
        load_tokenizer(Artifact(checkpoint.folder, meta))


def test_a_tokenizer_of_far_fewer_tokens_than_embeddings_is_asked_about(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = make_classifier(tmp_path / "theirs", vocab_size=5000)
    adopt(str(place), tmp_path / "ours")
    assert "5,000 embeddings: is it the one that the model was trained with?" in capsys.readouterr().err


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_read_as_fp32(dtype: torch.dtype, theirs: Path, tmp_path: Path) -> None:
    place = tmp_path / "theirs"
    shutil.copytree(theirs, place)
    weights(lambda tensors: {name: tensor.to(dtype) for name, tensor in tensors.items()})(place)
    edit_json(place / "config.json", dtype=str(dtype).removeprefix("torch."))
    checkpoint = adopt(str(place), tmp_path / "ours")
    assert checkpoint.meta.adoption.max_logit_diff < 1e-4
    assert load_file(tmp_path / "ours" / "model.safetensors")["classifier.weight"].dtype == torch.float32


def test_weights_in_several_files_are_read(theirs: Path, tmp_path: Path) -> None:
    import transformers

    place = tmp_path / "theirs"
    shutil.copytree(theirs, place)
    (place / "model.safetensors").unlink()
    transformers.AutoModelForSequenceClassification.from_pretrained(theirs).save_pretrained(
        place, max_shard_size="20KB"
    )
    assert (place / "model.safetensors.index.json").is_file()
    adopt(str(place), tmp_path / "ours")
    assert (tmp_path / "ours" / "model.safetensors").is_file()
    next(place.glob("model-00002*")).unlink()
    with pytest.raises(UserError, match="no classifier that can be read"):
        adopt(str(place), tmp_path / "again")
