import importlib
import shutil

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
)

from handler.errors import UserError
from training.backbones import MINILM_PACKAGE, backbone, minilm_folder

LABELS = ("not-hate", "hate")
TEXTS = [
    "short",
    "a text that is quite a bit longer than the first, so that padding matters",
    "and: a third one",
]


@pytest.fixture(scope="module")
def minilm():
    return backbone("minilm", LABELS)


def test_minilm_as_distilbert_has_the_hidden_states_of_minilm_as_bert(minilm):
    model, tokenizer = minilm
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    bert = BertModel.from_pretrained(minilm_folder(), dtype=torch.float32).eval()
    with torch.inference_mode():
        expected = bert(**batch).last_hidden_state
        seen = model.eval().distilbert(**batch).last_hidden_state
    real = batch["attention_mask"].bool()
    assert not real.all()
    torch.testing.assert_close(seen[real], expected[real], rtol=0, atol=1e-5)


def test_minilm_is_a_distilbert_of_22_million_parameters_with_named_labels(minilm):
    model, _ = minilm
    assert model.config.model_type == "distilbert"
    assert 22e6 < model.num_parameters() < 23e6
    assert model.config.id2label == {0: "not-hate", 1: "hate"}


def test_the_tokenizer_is_saved_as_distilberts_without_limits_or_token_types(minilm, tmp_path):
    _, tokenizer = minilm
    tokenizer.save_pretrained(tmp_path)
    saved = AutoTokenizer.from_pretrained(tmp_path)
    assert set(saved(TEXTS[0])) == {"input_ids", "attention_mask"}
    assert saved.backend_tokenizer.truncation is None
    assert saved.backend_tokenizer.padding is None
    assert (tmp_path / "tokenizer.json").is_file()
    original = AutoTokenizer.from_pretrained(minilm_folder())
    assert saved(TEXTS[1])["input_ids"] == original(TEXTS[1])["input_ids"]


def test_the_seed_decides_the_new_weights_alone():
    first, second, other = (backbone("random:tiny", LABELS, seed)[0].state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["classifier.weight"], other["classifier.weight"])


def test_building_a_backbone_leaves_the_global_random_state_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    backbone("random:tiny", LABELS, seed=1)
    assert torch.equal(torch.rand(3), expected)


def test_random_distilbert_has_full_size():
    model, _ = backbone("random:distilbert-base", ("a", "b", "c"))
    assert 66e6 < model.num_parameters() < 68e6
    assert model.config.num_labels == 3


def test_a_local_folder_gives_its_weights_and_a_head_of_the_right_size(tmp_path):
    config = BertConfig(
        vocab_size=30522, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    bert = BertForSequenceClassification(config)
    bert.save_pretrained(tmp_path)
    backbone("random:tiny", LABELS)[1].save_pretrained(tmp_path)
    model, tokenizer = backbone(str(tmp_path), ("a", "b", "c"))
    words = "embeddings.word_embeddings.weight"
    assert torch.equal(model.bert.state_dict()[words], bert.bert.state_dict()[words])
    assert model.config.id2label == {0: "a", 1: "b", 2: "c"}
    assert model(**tokenizer(TEXTS, padding=True, return_tensors="pt")).logits.shape == (3, 3)


def test_a_saved_backbone_loads_as_what_it_was(minilm, tmp_path):
    model, tokenizer = minilm
    model.save_pretrained(tmp_path)
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path, dtype=torch.float32).eval()
    with torch.inference_mode():
        torch.testing.assert_close(again(**batch).logits, model.eval()(**batch).logits)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("minlm", "Did you mean minilm?"),
        ("random:tyni", "Did you mean random:tiny?"),
        ("./no/such/folder", "Unknown base model"),
        ("someone/some-model", "Check the name and the network"),
    ],
)
def test_an_unknown_base_is_answered_with_what_to_do(name, part):
    with pytest.raises(UserError) as error:
        backbone(name, LABELS)
    assert part in str(error.value)


def test_an_empty_folder_is_no_base_model(tmp_path):
    with pytest.raises(UserError, match="could not be loaded"):
        backbone(str(tmp_path), LABELS)


def test_damaged_embedded_weights_are_refused_with_both_sums(tmp_path, monkeypatch):
    package = tmp_path / MINILM_PACKAGE
    shutil.copytree(minilm_folder().parent, package, ignore=shutil.ignore_patterns("*.safetensors"))
    (package / "model" / "model.safetensors").write_bytes(b"damaged")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    with pytest.raises(UserError, match=r"model\.safetensors .*: sha256 .*expected 53aa5117.*pip install"):
        backbone("minilm", LABELS)
