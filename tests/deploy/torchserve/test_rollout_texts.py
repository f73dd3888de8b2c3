"""What a roll-out makes of the labels of two versions and fp32. No server: a stand-in answers at once."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deploy.drift.detector import ALTERNATIVES, bets, evidence, wagered
from deploy.torchserve.rollout import Limits, compare, watch
from deploy.torchserve.rollout_texts import Asked, Sample, drawn, recorded
from handler.errors import UserError
from tests.conftest import refused

LIMITS = Limits(max_flip=0.06, max_shift=0.05, max_slowdown=5.0, watch_s=0.0)
Label = Callable[[int], str]


class Stand:
    """In the place of a server: each version's label of a text, of which all that counts is its number."""

    def __init__(self, **labels: Label) -> None:
        self.labels = labels

    def ask(self, text: str, version: str = "new") -> tuple[dict[str, Any], float]:
        answer = {"label": self.labels[version](int(text)), "scores": {"hate": 0.5, "not-hate": 0.5}}
        return answer | {"model": {"version": version}}, 1.0


def usual(number: int) -> str:
    return "hate" if number % 2 else "not-hate"


def flipped(each: int, of: int) -> Label:
    """The first `each` of `of` texts have the other label."""
    return lambda number: usual(number + (number % of < each))


def one_way(number: int) -> str:
    return "not-hate" if number % 40 == 1 else usual(number)


def numbered(texts: int, fp32: Label | None = None) -> list[Asked]:
    return [Asked(str(number), fp32 and fp32(number)) for number in range(texts)]


def objections(old: Label, new: Label, fp32: Label | None = None) -> list[str]:
    stand: Any = Stand(old=old, new=new)
    return compare(stand, "old", "new", numbered(500, fp32)).objections(LIMITS)


def test_flips_that_go_one_way_are_objected_to_and_as_many_both_ways_are_not() -> None:
    assert objections(usual, usual, usual) == []
    assert objections(usual, flipped(2, 60)) == []
    way = "labels go one way: 13 hate -> not-hate, 0 back"
    assert objections(usual, one_way) == [f"{way} (p = 0.00024)"]
    assert objections(one_way, one_way, usual) == [f"{way}, against fp32 (p = 0.00024)"]
    stand: Any = Stand(old=usual, new=one_way)
    assert compare(stand, "old", "new", numbered(500)).objections(replace(LIMITS, alpha=0)) == []


def test_flips_do_not_add_up_over_versions_where_fp32_s_labels_are_known() -> None:
    """Each version flips 3 % of the texts of the one before, which is allowed."""
    assert objections(flipped(3, 100), flipped(6, 100)) == []
    (objection,) = objections(flipped(3, 100), flipped(6, 100), usual)
    assert objection.startswith("6.0% of labels differ from fp32's")


@pytest.mark.parametrize(
    ("new", "fp32", "sentence"),
    [
        (flipped(20, 100), None, "labels differ from the old version's"),
        (one_way, None, "labels go one way: .* hate -> not-hate"),
        (usual, flipped(20, 100), "labels differ from fp32's"),
    ],
)
def test_a_version_that_answers_otherwise_while_it_is_watched_goes_back(
    new: Label, fp32: Label | None, sentence: str
) -> None:
    stand: Any = Stand(old=usual, new=new)
    sample = Sample(numbered(100), numbered(1500, fp32))
    found = compare(Stand(old=usual, new=usual), "old", "new", sample.compared)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=sentence):
        watch(stand, "old", "new", sample, found, replace(LIMITS, watch_s=60))


def test_texts_are_drawn_from_all_of_a_file_the_same_with_the_same_seed(tmp_path: Path) -> None:
    lines = tmp_path / "texts.txt"
    lines.write_text("".join(f"{number}\n" for number in range(30_000)))
    sample = drawn(lines, None, 500, 0)
    assert sample == drawn(lines, None, 500, 0)
    assert sample.compared != drawn(lines, None, 500, 1).compared
    assert (len(sample.compared), len(sample.fresh)) == (500, 10_000)
    assert not {*sample.compared} & {*sample.fresh}
    middle = np.mean([int(asked.text) for asked in sample.compared])
    assert abs(middle - 15_000) < 5 * 30_000 / (12 * 500) ** 0.5


def test_texts_come_with_fp32_s_labels_from_what_predict_wrote(tmp_path: Path) -> None:
    path = tmp_path / "fp32.jsonl"
    rows = [{"text": str(number), "label": usual(number), "error": None} for number in range(100)]
    rows.append({"text": "", "label": None, "error": "the text is empty"})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    sample = drawn(None, path, 80, 0)
    assert len(sample.compared) + len(sample.fresh) == 100
    assert all(asked.fp32 == usual(int(asked.text)) for asked in sample.compared)
    other = tmp_path / "other.jsonl"
    other.write_text('{"line": "a"}\n')
    assert "these are not fp32's answers" in refused("deploy", "rollout", "new.mar", "--fp32", other)


@pytest.mark.slow
def test_a_watched_version_that_differs_as_much_as_it_may_goes_back_as_seldom_as_is_said() -> None:
    """Tested after each of 10,000 texts, at 1 %; the usual test, repeated, objects in 5.5 % of runs."""
    runs, share, alpha = 2000, 0.05, 0.01
    rng = np.random.default_rng(0)
    against, levels = bets(np.zeros(runs), np.full(runs, share)), np.zeros((runs, ALTERNATIVES))
    rejected = np.zeros(runs, bool)
    for _ in range(10_000):
        levels = wagered(levels, against, rng.binomial(1, share, runs), 1)
        rejected |= evidence(levels) >= -np.log(alpha)
    assert rejected.mean() <= alpha + 3 * (alpha * (1 - alpha) / runs) ** 0.5


@pytest.mark.parametrize(
    ("joined", "labels"),
    [
        ("a|b", ["a", "b"]),
        ("a|b|c", ["a|b", "c"]),
        ("c|a|b", ["c", "a|b"]),
        ("", []),
        ("old|c", ["old", "c"]),
    ],
)
def test_labels_that_hold_a_bar_are_told_apart(joined: str, labels: list[str]) -> None:
    named = ["a|b", "c"] if "a|b" in labels else ["a", "b", "c"]
    answer = {"labels": [], "scores": dict.fromkeys(named, 0.5)}
    assert recorded(Asked("text", joined), answer) == labels
