from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from msgspec import structs
from transformers import PreTrainedModel

from export.build import fingerprint
from export.command import _more_texts
from export.registry import VARIANTS
from export.rewriting import prune as pruning
from export.rewriting.distil import UNKNOWN, Recovery, Texts, decision, distil, highest, predict, takes_over
from export.source import Source
from handler.errors import UserError
from training.data import sources
from training.data.splits import Split
from training.data.unlabelled import read_unlabelled

QUICK = Recovery(epochs=2, learning_rate=2e-3, noisy_copies=0)


@pytest.fixture(scope="module")
def train(source: Source) -> Texts:
    return Texts.of(source, "train").sample(600)


@pytest.fixture(scope="module")
def validation(source: Source) -> Texts:
    return Texts.of(source, "validation")


def halved(source: Source) -> PreTrainedModel:
    """The tiny classifier with half of its arithmetic, chosen badly: the least important parts stay."""
    model = source.model()
    shape = pruning.fit_shape(model, 0.5, (0, 1))
    measured = pruning.importance(model, Texts.of(source, "train").sample(64).batches(), labelled=True)
    return pruning.prune(model, pruning.Importance(-measured.heads, -measured.neurons), shape)


def agreement(student: PreTrainedModel, source: Source, texts: Texts) -> float:
    given, wanted = (highest(predict(model, texts)) for model in (student, source.model()))
    return float((given == wanted).mean())


def test_distillation_brings_a_damaged_student_back_to_its_teacher(source, train, validation) -> None:
    student = halved(source)
    torch.manual_seed(0)
    student.pre_classifier.reset_parameters()
    student.classifier.reset_parameters()
    before = agreement(student, source, validation)
    facts = distil(student, source.model(), train, validation, (0, 1), replace(QUICK, epochs=4))
    after = agreement(student, source, validation)
    assert before < 0.8 < 0.9 < after
    assert facts["validation_agreement"] == pytest.approx(after, abs=1e-4)
    assert not student.training


def test_the_best_epoch_is_what_stays(source, train, validation) -> None:
    """A learning rate that destroys the student later must not take its first epoch with it."""
    student = halved(source)
    facts = distil(student, source.model(), train, validation, (0, 1), replace(QUICK, learning_rate=0.3))
    assert 1 <= facts["best_epoch"] <= QUICK.epochs
    assert facts["validation_agreement"] == pytest.approx(agreement(student, source, validation), abs=1e-4)


def test_the_same_seed_gives_the_same_student(source, train, validation) -> None:
    recipe = replace(QUICK, epochs=1, dropout=True)
    few = train.sample(128)
    first, second = halved(source), halved(source)
    for student in (first, second):
        distil(student, source.model(), few, validation, (0, 1), recipe)
    for (name, one), other in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        assert torch.equal(one, other), name


def test_zeros_stay_zero_through_recovery(source, train, validation) -> None:
    student = source.model()
    pruning.mask_smallest(student, 0.6)
    before = [linear.weight == 0 for linear in pruning.encoder_linears(student)]
    distil(student, source.model(), train.sample(128), validation, (0, 1), replace(QUICK, epochs=1))
    pruning.make_permanent(student)
    after = [linear.weight == 0 for linear in pruning.encoder_linears(student)]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert pruning.zeros(student) == pytest.approx(0.6, abs=1e-3)


def test_embeddings_stay_the_teachers_and_the_teacher_stays_as_it_was(source, train, validation) -> None:
    student, teacher = halved(source), source.model()
    distil(student, teacher, train.sample(128), validation, (0, 1), replace(QUICK, epochs=1))
    word = "distilbert.embeddings.word_embeddings.weight"
    assert torch.equal(student.state_dict()[word], source.model().state_dict()[word])
    for name, tensor in source.model().state_dict().items():
        assert torch.equal(teacher.state_dict()[name], tensor), name


def test_what_does_not_fit_in_memory_is_computed_again_and_teaches_the_same(
    source, train, validation, monkeypatch: pytest.MonkeyPatch
) -> None:
    few, recipe = train.sample(64), replace(QUICK, epochs=1)
    cached, uncached = halved(source), halved(source)
    distil(cached, source.model(), few, validation, (0, 1), recipe)
    monkeypatch.setattr("export.rewriting.distil.CACHE_BYTES", 0)
    distil(uncached, source.model(), few, validation, (0, 1), recipe)
    for (name, one), other in zip(cached.state_dict().items(), uncached.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-2, rtol=0, msg=name)


def test_noisy_copies_keep_length_ends_and_most_tokens(train: Texts) -> None:
    noisy = train.with_noise(copies=1, share=0.2)
    assert len(noisy) == 2 * len(train)
    assert noisy.ids[: len(train)] == train.ids
    pairs = list(zip(train.ids, noisy.ids[len(train) :], strict=True))
    assert all(len(one) == len(other) for one, other in pairs)
    assert all((one[0], one[-1]) == (other[0], other[-1]) for one, other in pairs)
    changed = np.mean([one != other for text, copy in pairs for one, other in zip(text, copy, strict=True)])
    assert 0.1 < changed < 0.2


def test_splices_begin_as_one_text_and_end_as_another(train: Texts) -> None:
    few = train.sample(20)
    spliced = few.with_splices(50)
    assert spliced.ids[: len(few)] == few.ids
    assert (spliced.labels[len(few) :] == UNKNOWN).all()
    starts = {tuple(text[:cut]) for text in few.ids for cut in range(1, len(text))}
    ends = {tuple(text[cut:]) for text in few.ids for cut in range(1, len(text))}
    made = spliced.ids[len(few) :]
    assert len(made) == 50
    assert all(len(text) <= max(few.lengths) for text in made)
    assert all(
        any(tuple(text[:cut]) in starts and tuple(text[cut:]) in ends for cut in range(1, len(text)))
        for text in made
    )


def test_splices_of_the_shortest_texts_are_texts(train: Texts) -> None:
    shortest = replace(train, ids=[[2, 3], [2, 7, 3], [5]], labels=train.labels[:3])
    assert all(shortest.with_splices(200).ids)


def test_labels_are_decided_by_the_checkpoints_own_temperature_and_threshold(source: Source) -> None:
    calibrated = {"temperature": 2.0, "thresholds": {source.checkpoint.labels[1]: 0.6}}
    strict = replace(
        source,
        checkpoint=replace(source.checkpoint, meta=structs.replace(source.checkpoint.meta, **calibrated)),
    )
    logits = np.array([[0.0, 0.5], [0.0, 1.0]])  # scores 0.56 and 0.62 at temperature 2
    assert decision(strict)(logits).tolist() == [0, 1]
    assert highest(logits).tolist() == [1, 1]


def test_a_kept_layer_takes_over_those_dropped_after_it() -> None:
    assert takes_over((0, 2, 5), depth=6) == (1, 4, 5)
    assert takes_over((0, 3, 4), depth=6) == (2, 3, 5)
    assert takes_over(range(3), depth=3) == (0, 1, 2)


def test_texts_are_padded_to_the_longest_in_the_batch() -> None:
    texts = Texts([[5, 6, 7], [8]], np.array([0, 2]), pad_id=1)
    batch = texts.batch([1, 0])
    assert batch["input_ids"].tolist() == [[8, 1, 1], [5, 6, 7]]
    assert batch["attention_mask"].tolist() == [[1, 0, 0], [1, 1, 1]]
    assert batch["labels"].tolist() == [2, 0]


def test_random_weights_are_pruned_and_not_distilled(source: Source, tmp_path) -> None:
    recipe = source.checkpoint.meta.recipe | {"epochs": 0}
    untrained = replace(
        source,
        checkpoint=replace(source.checkpoint, meta=structs.replace(source.checkpoint.meta, recipe=recipe)),
    )
    for name in ("pruned", "shallow", "sparse"):
        folder = tmp_path / name
        proof = VARIANTS[name].build(untrained, folder).proof
        assert proof["recovery"]["epochs"] == 0, name
        assert "random" in proof["recovery"]["note"], name
        assert (folder / "model.safetensors").is_file()


def test_unlabelled_texts_are_those_of_no_split_each_once(source: Source, tmp_path: Path) -> None:
    known = source.dataset.splits["gate"].texts[0]
    file = tmp_path / "texts.txt"
    lines = ["one more", "", f" {known} ", "one more", "and\u2028another"]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8-sig")
    assert read_unlabelled(file, source.dataset) == ("one more", "and\u2028another")
    held_out = {"elsewhere": {"test": Split(["one more"], np.array([1]))}}
    assert read_unlabelled(file, replace(source.dataset, others=held_out)) == ("and\u2028another",)
    file.write_text(known, encoding="utf-8")
    with pytest.raises(UserError, match="no unlabelled text is left"):
        read_unlabelled(file, source.dataset)
    with pytest.raises(UserError, match="cannot be read"):
        read_unlabelled(tmp_path / "none.txt", source.dataset)
    with pytest.raises(UserError, match="all are in the data already: 4000 texts in demo"):
        read_unlabelled("demo", source.dataset)


def test_the_other_half_of_a_pair_that_judges_is_not_learnt_from(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = np.array([1, 2, 3], np.uint64)
    halves = Split(["its other half is in gate", "in train", "nowhere"], np.zeros(3, np.int64), groups=groups)
    pairs = sources.Source("pairs", "made-up texts", lambda _: sources.Raw(("a", "b"), {"train": halves}))
    monkeypatch.setitem(sources.SOURCES, "pairs", pairs)
    splits = {
        name: replace(split, groups=np.full(len(split), {"gate": 1, "train": 2}.get(name, 4), np.uint64))
        for name, split in source.dataset.splits.items()
    }
    assert read_unlabelled("pairs", replace(source.dataset, splits=splits)) == ("in train", "nowhere")


def test_nothing_learns_on_traffic(source: Source, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    learnt, traffic = tmp_path / "learnt.txt", tmp_path / "traffic.txt"
    learnt.write_text("of both\nto learn on\n")
    traffic.write_text(f"{source.dataset.splits['gate'].texts[0]}\nto fit rules to\nof both\n")
    given = Namespace(unlabelled=str(learnt), traffic=str(traffic))
    assert _more_texts(given, source.dataset) == (("to learn on",), ("to fit rules to", "of both"))
    assert "2 texts of traffic to fit rules to" in capsys.readouterr().err
    assert _more_texts(Namespace(unlabelled=None, traffic=None), source.dataset) == ((), ())


def test_a_student_learns_from_unlabelled_texts_what_the_teacher_says(
    source, train, validation, capfd: pytest.CaptureFixture[str]
) -> None:
    """Nearly all of its texts have no label: cross-entropy leaves them out, and no loss is lost by it."""
    student = halved(source)
    before = agreement(student, source, validation)
    others = replace(source, unlabelled=source.dataset.splits["train"].texts)
    texts = train.first(32).with_unlabelled(others)
    assert (texts.labels == -100).mean() > 0.9
    distil(student, source.model(), texts, validation, (0, 1), replace(QUICK, label_weight=0.5))
    assert agreement(student, source, validation) > max(before, 0.95)
    assert "nan" not in capfd.readouterr().err


def test_unlabelled_texts_make_a_pruned_artifact_stale(source: Source) -> None:
    more = replace(source, unlabelled=("one more",))
    for name in ("pruned", "shallow", "pruned-openvino-int8"):
        assert fingerprint(VARIANTS[name], source) != fingerprint(VARIANTS[name], more)
    assert fingerprint(VARIANTS["openvino-int8"], source) == fingerprint(VARIANTS["openvino-int8"], more)
