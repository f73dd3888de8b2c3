"""The student without attention: what it sees of a text, and what it does not."""

import pytest
import torch

from export.rewriting.static import student_of
from export.source import Source
from handler.pooled_classifier import PooledClassifier, read_classifier


@pytest.fixture(scope="module")
def student(source: Source) -> PooledClassifier:
    torch.manual_seed(0)
    return student_of(source.model(), 16).eval()


def logits(student: PooledClassifier, *ids: int, padding: int = 0) -> torch.Tensor:
    row = torch.tensor([[*ids, *[0] * padding]])
    mask = torch.tensor([[1] * len(ids) + [0] * padding])
    with torch.inference_mode():
        return student(row, mask).logits[0]


def test_padding_says_nothing_to_a_text_and_its_last_token(student: PooledClassifier) -> None:
    torch.testing.assert_close(logits(student, 5, 6, 7), logits(student, 5, 6, 7, padding=9))


def test_neighbours_tell_orders_apart_and_what_is_further_off_does_not(student: PooledClassifier) -> None:
    assert not torch.allclose(logits(student, 5, 6, 7, 8), logits(student, 6, 5, 7, 8))
    # The same words next to the same words, in another order.
    one, other = (5, 5, 6, 5, 5, 7, 5, 5), (5, 5, 7, 5, 5, 6, 5, 5)
    torch.testing.assert_close(logits(student, *one), logits(student, *other))


def test_what_was_saved_answers_the_same(student: PooledClassifier, tmp_path) -> None:
    student.save_pretrained(tmp_path)
    torch.testing.assert_close(logits(read_classifier(tmp_path), 5, 6, 7), logits(student, 5, 6, 7))


def test_a_configuration_without_channels_is_of_an_earlier_version(student: PooledClassifier) -> None:
    given = student.config.to_dict()
    old = PooledClassifier(
        type(student.config).from_dict({k: v for k, v in given.items() if k != "channels"})
    )
    assert old.neighbours is None
    assert old.head[0].in_features == 2 * old.config.hidden_size
