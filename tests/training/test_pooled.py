"""Every kind of backbone: trained, saved, read back; LoRA; heads over embeddings; code of a model's own."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, dynamic_module_utils

from handler.errors import UnsupportedError, UserError
from handler.pooled_classifier import TRUST, PooledClassifier, pool
from tests.bases import BASES, DECODERS, save
from training import data
from training.backbones import add_lora, backbone, merge_lora
from training.fit import fit, predict_logits
from training.recipe import Recipe

LABELS = ("not-hate", "hate")
TEXTS = ["short", "a text that is quite a bit longer than the first, so that padding matters", "and a third"]
RECIPE = Recipe(epochs=1, learning_rate=1e-3, max_length=48)


@pytest.fixture(autouse=True)
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Code of a model's own is copied below the test's folder, not the user's."""
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(tmp_path / "modules")


def logits(model: torch.nn.Module, tokenizer: object, texts: list[str] = TEXTS) -> np.ndarray:
    return predict_logits(model, tokenizer, texts, 48)  # type: ignore[arg-type]


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("kind", [*BASES, "own-code", "sentences"])
def test_each_kind_is_trained_saved_and_read_back(kind, small_jsonl, tmp_path, monkeypatch):
    monkeypatch.setenv(TRUST, "1")
    dataset = data.load(f"jsonl:{small_jsonl}")
    base = save(kind, tmp_path / "base")
    model, tokenizer = backbone(base, LABELS, trust_remote_code=True)
    before = weights(model)
    fit(model, tokenizer, dataset, RECIPE, tmp_path / "state")
    head = [name for name in before if name.startswith(("head", "classifier"))]
    changed = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    assert set(head) < set(changed)
    model.save_pretrained(tmp_path / "saved")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved")
    texts = list(dataset.splits["validation"].texts)
    expected = logits(model, tokenizer, texts)
    assert expected.std() > 0.01
    np.testing.assert_allclose(logits(again, tokenizer, texts), expected, atol=1e-6)
    assert isinstance(model, PooledClassifier) == (kind not in ("bert", "roberta"))


@pytest.mark.parametrize("kind", DECODERS)
def test_a_decoder_reads_its_last_token_whatever_is_padded(kind, tmp_path):
    model, tokenizer = backbone(save(kind, tmp_path / "base"), LABELS, trust_remote_code=True)
    assert (model.config.pooling, model.config.causal, tokenizer.padding_side) == ("last", True, "right")
    alone = np.concatenate([logits(model, tokenizer, [text]) for text in TEXTS])
    np.testing.assert_allclose(logits(model, tokenizer), alone, atol=1e-5)


def test_a_decoder_without_a_padding_token_is_padded_with_its_end(tmp_path):
    base = Path(save("gpt2", tmp_path / "base"))
    config = json.loads((base / "tokenizer_config.json").read_text())
    del config["pad_token"]
    (base / "tokenizer_config.json").write_text(json.dumps(config | {"eos_token": "[SEP]"}))
    (base / "special_tokens_map.json").unlink()
    config = json.loads((base / "tokenizer_config.json").read_text())
    (base / "tokenizer_config.json").write_text(
        json.dumps(config | {"tokenizer_class": "PreTrainedTokenizerFast"})
    )
    model, tokenizer = backbone(str(base), LABELS)
    assert tokenizer.pad_token == "[SEP]"
    assert model.config.pad_token_id == tokenizer.pad_token_id
    alone = np.concatenate([logits(model, tokenizer, [text]) for text in TEXTS])
    np.testing.assert_allclose(logits(model, tokenizer), alone, atol=1e-5)


def test_a_base_without_a_tokenizer_is_refused_with_a_remedy(tmp_path):
    base = Path(save("own-code", tmp_path / "base"))
    for file in base.glob("*token*"):
        file.unlink()
    with pytest.raises(UserError, match=r"has no tokenizer that can be read.*tokenizer\.json"):
        backbone(str(base), LABELS, trust_remote_code=True)


def test_the_first_token_of_a_decoder_is_refused(tmp_path):
    with pytest.raises(UserError, match="sees no other token"):
        backbone(save("gpt2", tmp_path / "base"), LABELS, pooling="first")


def test_an_encoder_decoder_is_refused(tmp_path):
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(vocab_size=32, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=1)
    T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"is an encoder-decoder, .*: T5ForConditionalGeneration"):
        backbone(str(tmp_path), LABELS)


@pytest.mark.parametrize(
    ("pooling", "expected"), [("first", [1.0, 4.0]), ("mean", [2.0, 4.0]), ("last", [3.0, 4.0])]
)
def test_pooling_leaves_padding_out(pooling, expected):
    hidden = torch.tensor([[[1.0], [2.0], [3.0]], [[4.0], [90.0], [90.0]]])
    mask = torch.tensor([[1, 1, 1], [1, 0, 0]])
    assert pool(hidden, mask, pooling).squeeze(1).tolist() == expected


def test_a_sentence_embedding_model_is_pooled_as_it_was_made(tmp_path):
    base = Path(save("sentences", tmp_path / "base"))
    model, _ = backbone(str(base), LABELS)
    assert (type(model), model.config.pooling, model.config.causal) == (PooledClassifier, "mean", False)
    settings = base / "1_Pooling" / "config.json"
    settings.write_text(json.dumps({"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True}))
    with pytest.raises(UserError, match=r"uses a pooling that is not supported.*--pooling"):
        backbone(str(base), LABELS)
    assert backbone(str(base), LABELS, pooling="mean")[0].config.pooling == "mean"


def test_minilm_under_the_projects_head_has_its_own_weights_and_the_mean_of_its_tokens():
    model, _ = backbone("minilm", LABELS, head="mlp")
    plain, _ = backbone("minilm", LABELS)
    assert (model.config.pooling, model.config.head) == ("mean", "mlp")
    for name, value in plain.base_model.state_dict().items():
        torch.testing.assert_close(model.backbone.state_dict()[name], value)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "bert", "own-code"])
def test_merged_low_rank_updates_answer_as_they_did_before(kind, tmp_path):
    model, tokenizer = backbone(save(kind, tmp_path / "base"), LABELS, trust_remote_code=True)
    names, before = set(model.state_dict()), logits(model, tokenizer)
    added = add_lora(model, replace(RECIPE, lora_rank=4))
    np.testing.assert_allclose(logits(model, tokenizer), before, atol=1e-6)  # they begin at zero
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    apart = logits(model, tokenizer)
    assert np.abs(apart - before).max() > 1e-3
    merge_lora(added)
    assert set(model.state_dict()) == names
    np.testing.assert_allclose(logits(model, tokenizer), apart, atol=1e-5)


def test_low_rank_updates_change_the_named_layers_and_the_head_alone(small_jsonl, tmp_path):
    model, tokenizer = backbone(save("llama", tmp_path / "base"), LABELS)
    before = weights(model)
    recipe = replace(RECIPE, lora_rank=4, lora_targets="q_proj, v_proj")
    fit(model, tokenizer, data.load(f"jsonl:{small_jsonl}"), recipe, tmp_path / "state")
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    attention = "backbone.layers.{}.self_attn.{}_proj.weight"
    named = {attention.format(layer, part) for layer in (0, 1) for part in "qv"}
    assert changed == {"head.weight", "head.bias", *named}


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"freeze": "encoder"}, "LoRA cannot update a frozen encoder"),
        ({"lora_targets": "no_such_layer"}, "LoRA found no layer to update: no_such_layer"),
    ],
)
def test_low_rank_updates_of_nothing_are_refused(settings, sentence):
    model, _ = backbone("random:tiny", LABELS)
    with pytest.raises(UserError, match=sentence):
        add_lora(model, replace(RECIPE, lora_rank=2, **settings))


@pytest.mark.parametrize("head", ["linear", "mlp", "logistic", "fourier"])
def test_a_head_alone_is_fitted_and_the_encoder_stays_as_it_is(head, small_jsonl, tmp_path):
    dataset = data.load(f"jsonl:{small_jsonl}")
    recipe = replace(RECIPE, head=head, freeze="encoder", epochs=10, head_learning_rate=1e-2, patience=10)
    model, tokenizer = backbone("random:tiny", LABELS, head=head)
    before = weights(model)
    score = fit(model, tokenizer, dataset, recipe, tmp_path / "state")
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all(name.startswith("head.") for name in changed)
    validation = dataset.splits["validation"]
    chosen = logits(model, tokenizer, list(validation.texts)).argmax(axis=1)
    right = (chosen == validation.labels).mean()
    assert right > 0.55  # random embeddings hold the words, and no more
    assert score > 0.5


def test_logistic_regression_writes_the_weights_that_scikit_learn_found(small_jsonl, tmp_path):
    from sklearn.linear_model import LogisticRegression

    from training.heads import PENALTIES, embeddings

    dataset = data.load(f"jsonl:{small_jsonl}")
    model, tokenizer = backbone("random:tiny", LABELS, head="logistic")
    recipe = replace(RECIPE, head="logistic", precision="fp32")
    fit(model, tokenizer, dataset, recipe, tmp_path / "state")
    train, validation = (
        embeddings(model, tokenizer, dataset.splits[name].texts, recipe) for name in ("train", "validation")
    )
    mean, scale = train.mean(axis=0), train.std(axis=0)
    found = logits(model, tokenizer, list(dataset.splits["validation"].texts))
    ours = 1 / (1 + np.exp(found[:, 0] - found[:, 1]))
    theirs = [
        LogisticRegression(C=penalty, max_iter=1000)
        .fit((train - mean) / scale, dataset.splits["train"].labels)
        .predict_proba((validation - mean) / scale)[:, 1]
        for penalty in PENALTIES
    ]
    assert min(np.abs(ours - scores).max() for scores in theirs) < 1e-3


def test_a_fourier_head_computes_what_scikit_learn_fitted(small_jsonl, tmp_path):
    from sklearn.kernel_approximation import RBFSampler
    from sklearn.linear_model import Ridge

    from handler.pooled_classifier import FEATURES
    from training.heads import RIDGE, WIDTHS, Lesson, embeddings

    dataset = data.load(f"jsonl:{small_jsonl}")
    train, validation = (dataset.splits[name] for name in ("train", "validation"))
    teacher = np.random.default_rng(0).normal(size=(len(train), 2)).astype(np.float32)
    model, tokenizer = backbone("random:tiny", LABELS, head="fourier")
    recipe = replace(RECIPE, head="fourier", teacher_weight=1, precision="fp32")
    fit(model, tokenizer, dataset, recipe, tmp_path / "state", teacher=Lesson(teacher))
    rows = [embeddings(model, tokenizer, split.texts, recipe) for split in (train, validation)]
    known, judged = (row / np.linalg.norm(row, axis=1, keepdims=True) for row in rows)
    wanted = teacher - teacher.mean(axis=1, keepdims=True)
    found = logits(model, tokenizer, list(validation.texts))
    theirs = []
    for gamma in WIDTHS:
        features = RBFSampler(gamma=gamma, n_components=FEATURES, random_state=0).fit(known)
        for penalty in RIDGE:
            fitted = Ridge(penalty).fit(features.transform(known), wanted / wanted.std())
            theirs.append(fitted.predict(features.transform(judged)))
    assert min(np.abs(found - values).max() for values in theirs) < 1e-3


def test_a_fourier_head_learns_from_texts_without_labels_what_the_teacher_says(small_jsonl, tmp_path):
    from training.heads import Lesson

    dataset = data.load(f"jsonl:{small_jsonl}")
    train, validation = (dataset.splits[name] for name in ("train", "validation"))
    more = [text for text in validation.texts if text.strip()]
    told = np.random.default_rng(0).choice([-2.0, 2.0], size=len(more)).astype(np.float32)
    of_more = np.stack([-told, told], axis=1)
    followed = []
    for lesson in (
        Lesson(np.zeros((len(train), 2), np.float32)),
        Lesson(np.zeros((len(train), 2), np.float32), more, of_more),
    ):
        model, tokenizer = backbone("random:tiny", LABELS, head="fourier")
        recipe = replace(RECIPE, head="fourier", teacher_weight=1)
        fit(model, tokenizer, dataset, recipe, tmp_path / "state", teacher=lesson)
        found = logits(model, tokenizer, more)
        followed.append(((found[:, 1] > found[:, 0]) == (told > 0)).mean())
    assert followed[1] > 0.8 > 0.7 > followed[0]


@pytest.mark.parametrize("head", ["logistic", "fourier"])
def test_independent_labels_get_a_regression_each(head, tmp_path):
    from training.heads import fit_head

    dataset = _independent()
    model, tokenizer = backbone("random:tiny", ("one", "two", "never"), head=head)
    recipe = replace(RECIPE, head=head)
    fit_head(model, tokenizer, dataset, recipe, dataset.splits["train"].targets(3))
    scores = logits(model, tokenizer, list(dataset.splits["validation"].texts))
    held = dataset.splits["validation"].labels
    assert ((scores[:, :2] > 0) == (held[:, :2] > 0)).mean() > 0.9
    assert (scores[:, 2] < 0).all()


def _independent() -> data.Dataset:
    """Texts whose words say which of two labels they have; no text has the third."""
    words = np.array([[row % 2, (row // 2) % 2, 0] for row in range(120)])
    texts = [f"{'apple ' * 3 * a}{'stone ' * 3 * b}number {row}" for row, (a, b, _) in enumerate(words)]
    loaded = data.load("demo")
    splits = {
        "train": data.Split(texts[:80], words[:80]),
        "validation": data.Split(texts[80:], words[80:]),
    }
    return replace(loaded, splits=splits, labels=("one", "two", "never"), task="multi-label")


def test_code_of_a_models_own_is_not_run_unasked(tmp_path):
    base = Path(save("own-code", tmp_path / "base"))
    mark = tmp_path / "ran"
    for file in base.glob("*.py"):
        file.write_text(f"open({str(mark)!r}, 'w').close()\n{file.read_text()}")
    with pytest.raises(UserError, match=r"needs its own code.*modeling_tinylm\.py.*--trust-remote-code"):
        backbone(str(base), LABELS)
    assert not mark.exists()


def test_a_saved_model_with_code_of_its_own_is_read_only_by_who_says_so(tmp_path, monkeypatch):
    monkeypatch.delenv(TRUST, raising=False)
    model, tokenizer = backbone(save("own-code", tmp_path / "base"), LABELS, trust_remote_code=True)
    model.save_pretrained(tmp_path / "saved")
    with pytest.raises(UnsupportedError, match=f"its own code, which is not run.*{TRUST}=1"):
        AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved")
    monkeypatch.setenv(TRUST, "1")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved")
    np.testing.assert_allclose(logits(again, tokenizer), logits(model, tokenizer), atol=1e-6)


def test_where_transformers_knows_the_model_its_folders_code_never_runs(tmp_path):
    base = Path(save("bert", tmp_path / "base"))
    (base / "modeling_theirs.py").write_text("raise RuntimeError('was run')")
    config = json.loads((base / "config.json").read_text())
    own = {"AutoConfig": "modeling_theirs.Config", "AutoModel": "modeling_theirs.Model"}
    (base / "config.json").write_text(json.dumps(config | {"auto_map": own}))
    assert backbone(str(base), LABELS, trust_remote_code=True)[0].config.model_type == "bert"
