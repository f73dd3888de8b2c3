"""Functional cases: our own, a user's HateCheck, and figures that can be counted by hand."""

import os
import re
from pathlib import Path

import numpy as np
import pytest

from handler.errors import UserError
from training import data
from training.functional import Cases, applies_to, evaluate_cases, hatecheck, subgroup_aucs, templates

HEADER = "functionality,case_id,test_case,label_gold,target_ident\n"
NAMED = ("tweeteval", "davidson", "vicomtech", "ethos")


def test_the_templates_make_the_same_cases_every_time_and_none_twice() -> None:
    cases = templates()
    assert cases.texts == templates().texts
    assert len(set(cases.texts)) == len(cases.texts) > 500
    assert len(set(cases.functionality)) > 20
    assert 0.5 < cases.labels.mean() < 0.75


def test_every_functionality_has_one_right_answer_and_as_many_cases_of_each_group() -> None:
    cases = templates()
    for kind in set(cases.functionality):
        rows = [row for row, name in enumerate(cases.functionality) if name == kind]
        assert len({int(cases.labels[row]) for row in rows}) == 1
        of_groups = [cases.group[row] for row in rows if cases.group[row]]
        assert len({of_groups.count(group) for group in set(of_groups)}) <= 1
        assert len(set(of_groups)) in (0, 8)


def normalised(text: str) -> str:
    return re.sub(r"\W+", " ", text.lower()).strip()


@pytest.mark.parametrize("spec", ["demo", *NAMED])
def test_no_corpus_shares_a_case(spec: str) -> None:
    if spec != "demo" and not os.environ.get("DATA_DIR"):
        pytest.skip("DATA_DIR is not set: no real data sets here")
    try:
        found = data.load(spec, os.environ.get("DATA_DIR", "data"))
    except UserError as error:
        pytest.skip(f"{spec} is not there: {error}")
    ours = {normalised(text) for text in templates().texts}
    shared = sum(normalised(text) in ours for split in found.splits.values() for text in split.texts)
    assert shared == 0


def test_misspelt_cases_differ_from_the_plain_ones() -> None:
    cases = templates()
    of = {
        kind: [t for t, k in zip(cases.texts, cases.functionality, strict=True) if k == kind]
        for kind in set(cases.functionality)
    }
    assert "I loathe women with all my heart." in of["strong negative emotion"]
    assert "I l o a t h e women with all my heart." in of["hate, spaces within a word"]
    assert "1 l04th3 w0m3n w1th 4ll my h34rt." in of["hate, leetspeak"]


def test_hatecheck_is_read_as_it_was_published(tmp_path: Path) -> None:
    path = tmp_path / "cases.csv"
    path.write_text(
        "\ufeff" + HEADER + 'F1,1,"Our own, first",hateful,women\nF2,2,Our own second,non-hateful,\n'
    )
    cases = hatecheck(path)
    assert cases.texts == ["Our own, first", "Our own second"]
    assert cases.labels.tolist() == [1, 0]
    assert cases.functionality == ["F1", "F2"]
    assert cases.group == ["women", None]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(None, "cannot be read", id="missing"),
        pytest.param("a,b\n1,2\n", "no functionality, test_case, label_gold, target_ident", id="columns"),
        pytest.param(HEADER, "holds no case", id="empty"),
        pytest.param(HEADER + "F1,1,secret text,maybe,\n", "line 2: label_gold 'maybe'", id="label"),
        pytest.param(HEADER + "F1,1, ,hateful,\n", "no text or no functionality.*line 2", id="no text"),
        pytest.param(HEADER.encode() + b"F1,1,\xff,hateful,\n", "no CSV in UTF-8", id="encoding"),
    ],
)
def test_a_file_that_is_not_hatecheck_is_refused_without_quoting_it(tmp_path, content, message) -> None:
    path = tmp_path / "cases.csv"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as caught:
        hatecheck(path)
    assert re.search(message, str(caught.value), re.DOTALL)
    assert "secret text" not in str(caught.value)
    assert "hatecheck-data" in str(caught.value)


def test_accuracy_and_flips_are_counted_by_functionality() -> None:
    cases = Cases(["a", "b", "c", "d"], np.array([1, 1, 0, 0]), ["x", "x", "y", "y"], ["g", None, "g", "h"])
    of_hate = np.array([0.9, 0.2, 0.6, 0.1])
    found = evaluate_cases(
        cases, np.stack([1 - of_hate, of_hate], 1), np.array([1, 0, 1, 0]), np.array([1, 1, 1, 0])
    )
    assert found["accuracy"] == 0.5
    assert found["reference_accuracy"] == 0.75
    assert found["flips"] == 1
    assert found["functionalities"][0] == {
        "functionality": "x",
        "label": "hate",
        "n": 2,
        "accuracy": 0.5,
        "reference_accuracy": 1.0,
        "flips": 1,
    }


def test_the_aucs_of_a_group_are_those_of_borkan() -> None:
    truth = np.array([1, 0, 1, 0])
    scores = np.array([0.8, 0.7, 0.6, 0.1])  # the group's harmless text lies above the others' hateful one
    found = subgroup_aucs(truth, scores, np.array([True, True, False, False]))
    assert found == {"subgroup_auc": 1.0, "bpsn_auc": 0.0, "bnsp_auc": 1.0}


def test_a_group_without_harmless_texts_has_no_auc_of_its_own() -> None:
    found = subgroup_aucs(np.array([1, 0]), np.array([0.8, 0.2]), np.array([True, False]))
    assert found["subgroup_auc"] is None
    assert found["bnsp_auc"] == 1.0


def test_only_hate_and_not_hate_can_be_asked() -> None:
    assert applies_to(["not-hate", "hate"])
    assert not applies_to(["hate", "not-hate"])
    assert not applies_to(["hate", "offensive", "neither"])
