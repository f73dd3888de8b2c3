"""A tiny classifier that learned 300 texts of the embedded corpus, and its evaluation."""

import pytest

from training.__main__ import main
from training.checkpoint import load_data, open_checkpoint
from training.evaluation.classifier import load_classifier


@pytest.fixture(scope="session")
def checkpoint(small_jsonl, tmp_path_factory):
    folder = tmp_path_factory.mktemp("build") / "checkpoint"
    options = ["--epochs", "1", "--learning-rate", "1e-2"]
    main(["--data", f"jsonl:{small_jsonl}", "--base", "random:tiny", "--output", str(folder), *options])
    return open_checkpoint(folder)


@pytest.fixture(scope="session")
def dataset(checkpoint):
    return load_data(checkpoint)


@pytest.fixture(scope="session")
def classifier(checkpoint):
    return load_classifier(checkpoint)


@pytest.fixture(scope="session")
def evaluated(checkpoint, tmp_path_factory):
    """The folder of an evaluation of validation, outside the checkpoint."""
    output = tmp_path_factory.mktemp("evaluation")
    assert (
        main(["evaluate", "--checkpoint", str(checkpoint.folder), "--output", str(output), "--sample", "40"])
        == 0
    )
    return output / "validation"
