"""The student of two narrow layers: where it starts, and that it learns its teacher's answers."""

from types import SimpleNamespace

import numpy as np
import torch

from export.rewriting.distil import Texts, predict
from export.rewriting.static import Lessons, teach
from export.rewriting.tiny import tiny_student_of


def teacher() -> SimpleNamespace:
    """Word embeddings of 300 words in 192 dimensions, most of whose variance lies in 100 of them."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((300, 100)) @ rng.standard_normal((100, 192)) + 0.01 * rng.random((300, 192))
    embedding = torch.nn.Embedding.from_pretrained(torch.tensor(rows, dtype=torch.float32))
    config = SimpleNamespace(pad_token_id=0, id2label={0: "no", 1: "yes"}, label2id={"no": 0, "yes": 1})
    return SimpleNamespace(config=config, get_input_embeddings=lambda: embedding)


def test_its_words_lie_as_far_apart_as_the_teachers() -> None:
    found = teacher()
    student = tiny_student_of(found, 64)
    ours = student.get_input_embeddings().weight.detach()
    theirs = found.get_input_embeddings().weight.detach()
    assert ours.shape == (300, 128)
    assert torch.allclose(torch.cdist(ours, ours), torch.cdist(theirs, theirs), rtol=0.02, atol=0.5)
    again = tiny_student_of(found, 64)
    assert all(
        torch.equal(one, other) for one, other in zip(student.parameters(), again.parameters(), strict=True)
    ), "it always starts from the same weights"


class Order(torch.nn.Module):
    """Says whether token 7 stands before token 8: no bag of words can tell."""

    config = SimpleNamespace(num_labels=2)
    device = torch.device("cpu")

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> SimpleNamespace:
        first, second = (torch.argmax((input_ids == token).int(), dim=1) for token in (7, 8))
        sign = torch.where(first < second, 3.0, -3.0)
        return SimpleNamespace(logits=torch.stack([-sign, sign], dim=1))


def test_it_learns_what_depends_on_the_order_of_words() -> None:
    rng = np.random.default_rng(1)
    ids = []
    for _ in range(1200):
        text = rng.integers(20, 300, 8)
        places = rng.choice(8, 2, replace=False)
        text[places] = 7, 8
        ids.append([1, *text.tolist(), 2])
    taught, asked = (Texts(part, np.zeros(len(part), np.int64), 0) for part in (ids[:1000], ids[1000:]))
    student = tiny_student_of(teacher(), 64)
    lessons = Lessons("two layers", epochs=8, learning_rate=1e-3, repeats=3, batch_size=64)
    facts = teach(student, Order(), taught, len(taught), lessons, multi_label=False)
    assert facts["texts"] == 1000
    wanted = predict(Order(), asked).argmax(axis=1)
    assert (predict(student, asked).argmax(axis=1) == wanted).mean() > 0.9
