import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from msgspec import ValidationError, structs

from handler.errors import UserError
from tests.descriptions import checkpoint_description
from training import data
from training.backbones import backbone
from training.checkpoint import describe_data, load_data, open_checkpoint, write_checkpoint
from training.data.sources import Columns

LABELS = ("not-hate", "hate")


@pytest.fixture(scope="module")
def tiny():
    return backbone("random:tiny", LABELS)


@pytest.fixture
def checkpoint(tiny, tmp_path):
    return write_checkpoint(tmp_path / "build" / "checkpoint", *tiny, checkpoint_description())


def test_what_was_written_is_opened(checkpoint):
    opened = open_checkpoint(checkpoint.folder)
    assert opened == checkpoint
    assert opened.labels == LABELS
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= {
        file.name for file in checkpoint.folder.iterdir()
    }
    assert all(file.stat().st_mode & 0o444 == 0o444 for file in checkpoint.folder.iterdir())


def test_a_new_checkpoint_replaces_the_old_one_and_leaves_nothing_else(checkpoint, tiny):
    (checkpoint.folder / "of-the-old-one").touch()
    write_checkpoint(checkpoint.folder, *tiny, checkpoint_description(base="new"))
    assert open_checkpoint(checkpoint.folder).meta.base == "new"
    assert not (checkpoint.folder / "of-the-old-one").exists()
    assert [entry.name for entry in checkpoint.folder.parent.iterdir()] == ["checkpoint"]


def test_a_failure_while_writing_leaves_the_old_checkpoint(checkpoint, tiny):
    with pytest.raises(ValidationError, match="temperature"):
        write_checkpoint(checkpoint.folder, *tiny, structs.replace(checkpoint.meta, temperature=-1.0))
    assert open_checkpoint(checkpoint.folder) == checkpoint
    assert [entry.name for entry in checkpoint.folder.parent.iterdir()] == ["checkpoint"]


def test_a_folder_that_is_no_checkpoint_is_never_replaced(tiny, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="not a checkpoint"):
        write_checkpoint(tmp_path, *tiny, checkpoint_description())
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_the_one_checkpoint_in_a_folder_is_found_and_of_two_none(checkpoint, tmp_path):
    adopted = tmp_path / "adopted"
    shutil.copytree(checkpoint.folder, adopted / "first")
    assert open_checkpoint(adopted).folder == adopted / "first"
    shutil.copytree(checkpoint.folder, adopted / "second")
    with pytest.raises(UserError, match=r"2 checkpoints.*first, second"):
        open_checkpoint(adopted)


def test_a_missing_checkpoint_is_answered_with_make_train(tmp_path):
    with pytest.raises(UserError, match="Run `python -m training train` first"):
        open_checkpoint(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "is damaged"),
        ("[]", "is damaged"),
        ('{"schema": 99}', "has an unknown schema: 99"),
        ('{"schema": 1}', "of another version of this project: .* Run `python -m training train` again"),
    ],
)
def test_a_broken_checkpoint_is_answered_with_a_sentence(checkpoint, content, sentence):
    (checkpoint.folder / "checkpoint.json").write_text(content)
    with pytest.raises(UserError, match=sentence):
        open_checkpoint(checkpoint.folder)


def test_a_checkpoint_without_weights_is_incomplete(checkpoint):
    (checkpoint.folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"incomplete: no model\.safetensors"):
        open_checkpoint(checkpoint.folder)


def test_recorded_data_is_loaded_again_and_a_change_is_noticed(checkpoint, tmp_path):
    file = tmp_path / "some.csv"
    lines = [f"text {row},{'ok' if row % 2 else 'bad'}" for row in range(60)]
    file.write_text("\n".join(["Content,verdict", *lines]))
    columns = Columns("Content", "verdict", ("ok", "bad"))
    dataset = data.load(f"csv:{file}", "nowhere", 3, columns)
    recorded = replace(checkpoint, meta=checkpoint_description(data=describe_data(dataset)))
    assert Path(recorded.meta.data.data_dir).is_absolute()
    assert load_data(recorded).sha256 == dataset.sha256
    file.write_text(file.read_text().replace("text 7,", "text seven,"))
    with pytest.raises(UserError, match="has changed since the training"):
        load_data(recorded)
