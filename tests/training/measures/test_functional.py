import csv
import io
import json
import os
import re
from collections import Counter
from functools import partial
from pathlib import Path
from string import Formatter

import numpy as np
import pytest
from msgspec import structs

from common.records import plain
from handler.errors import UserError
from training.data import demo, demo_templates
from training.measures import functional
from training.measures.functional import Cases, applies_to, evaluate_cases, read_published, templates
from training.measures.functional_templates import DISGUISED, GROUPS, HATEFUL, NOT_HATEFUL
from training.measures.records import Gaps, Group
from training.measures.suites import HATECHECK, HATEMOJICHECK

DATA_DIR = os.environ.get("DATA_DIR")
CASES = templates()
HALF = {"hate": 0.5}


def of_hate(*scores):
    return np.column_stack([1 - np.array(scores), scores])


def normal(text):
    return " ".join(re.findall(r"\w+", text.casefold()))


# The project's own cases.


def test_the_cases_are_always_the_same():
    again = templates()
    assert (again.texts, again.functionality, again.group) == (CASES.texts, CASES.functionality, CASES.group)
    assert np.array_equal(again.labels, CASES.labels)


def test_there_are_enough_cases_and_few_enough_to_run_for_every_variant():
    assert 450 <= len(CASES) <= 700
    assert min(Counter(CASES.functionality).values()) >= 16


def test_every_functionality_has_one_right_label_and_both_labels_have_many():
    pairs = set(zip(CASES.functionality, CASES.labels.tolist(), strict=True))
    assert len(pairs) == len({functionality for functionality, _ in pairs})
    assert {functionality for functionality, label in pairs if label == 0} == set(NOT_HATEFUL)
    assert {functionality for functionality, label in pairs if label == 1} == {
        *HATEFUL,
        *functional.SPELLINGS,
    }
    assert 0.4 < CASES.labels.mean() < 0.6


def test_all_groups_come_equally_often_in_every_functionality_that_has_groups():
    for functionality in set(CASES.functionality):
        pairs = zip(CASES.functionality, CASES.group, strict=True)
        counts = Counter(group for case, group in pairs if case == functionality)
        assert set(counts) in (set(GROUPS), {None}), functionality
        assert len(set(counts.values())) == 1, functionality


def test_a_case_names_its_group_and_no_other():
    named = {group: (group.lower(), member.lower()) for group, member in GROUPS.items()}
    for text, group in zip(CASES.texts, CASES.group, strict=True):
        found = {
            each
            for each, names in named.items()
            if any(re.search(rf"\b{name}(?![a-z])", text.lower()) for name in names)
        }
        assert found == ({group} if group else set())


def test_no_text_comes_twice_even_but_for_its_punctuation():
    assert len({normal(text) for text in CASES.texts}) == len(CASES)


def test_no_slot_is_left_open_and_every_text_starts_upright():
    assert not [text for text in CASES.texts if "{" in text or "}" in text or text[0].islower()]


@pytest.mark.parametrize(
    ("spelling", "respelt"),
    [
        ("spelling: letters swapped", " loucsts "),
        ("spelling: letter missing", " lcusts "),
        ("spelling: spaces missing", "locusts"),
        ("spelling: spaces added", " l o c u s t s "),
        ("spelling: leetspeak", " l0cu5t5 "),
    ],
)
def test_a_word_is_respelt(spelling, respelt):
    assert functional.SPELLINGS[spelling](" locusts ") == respelt


@pytest.mark.parametrize("plain", DISGUISED)
def test_a_disguised_word_stands_between_spaces_in_the_first_template(plain):
    assert HATEFUL[plain][0].count(f" {DISGUISED[plain]} ") == 1


def test_every_spelling_is_of_the_same_sentences_and_spares_the_group():
    plain = {
        (DISGUISED[functionality], group): text
        for text, functionality, group in zip(CASES.texts, CASES.functionality, CASES.group, strict=True)
        if functionality in DISGUISED and DISGUISED[functionality] in text
    }
    for name, spell in functional.SPELLINGS.items():
        respelt = {text for text, case in zip(CASES.texts, CASES.functionality, strict=True) if case == name}
        expected = {text.replace(f" {word} ", spell(f" {word} ")) for (word, _), text in plain.items()}
        assert respelt == expected
        assert not respelt & set(plain.values())


# What the suite asks, no model of this project has been trained on.


def test_no_case_is_a_text_of_the_embedded_corpus():
    corpus = {normal(example.text) for split in demo.corpus().values() for example in split}
    assert sum(normal(text) in corpus for text in CASES.texts) == 0


def test_no_case_fits_a_template_of_the_embedded_corpus_however_it_is_filled():
    every = (demo_templates.HATEFUL | demo_templates.NOT_HATEFUL).values()
    patterns = [
        "".join(
            re.escape(literal) + (".+" if slot else "") for literal, slot, _, _ in Formatter().parse(template)
        )
        for templates_of_class in every
        for template in templates_of_class
    ]
    anything = re.compile("|".join(f"(?:{pattern})" for pattern in patterns), re.IGNORECASE)
    assert sum(anything.fullmatch(text) is not None for text in CASES.texts) == 0


@pytest.mark.skipif(not DATA_DIR, reason="needs DATA_DIR")
@pytest.mark.parametrize("name", ["tweeteval", "davidson", "vicomtech", "ethos", "hatemoji"])
def test_no_case_stands_in_a_named_set(name):
    files = sorted(path for path in Path(DATA_DIR, name).rglob("*") if path.suffix in {".txt", ".csv"})
    if not files:
        pytest.skip(f"DATA_DIR holds no {name}")
    everything = normal("\n".join(path.read_text(encoding="utf-8", errors="replace") for path in files))
    shared = sum(normal(text) in everything for text in CASES.texts)  # counted, so that no text is shown
    assert shared == 0


# HateCheck's file.

HEADER = (
    *("index", "functionality", "case_id", "test_case", "label_gold", "target_ident", "direction"),
    *("focus_words", "focus_lemma", "ref_case_id", "ref_templ_id", "templ_id"),
)
ROWS = [
    {"functionality": "praise_nh", "test_case": "Women steer this boat well, all told.", "group": "women"},
    {"functionality": "object_nh", "test_case": 'The kettle said "no"\nand leaked.', "group": ""},
    {"functionality": "scorn_h", "test_case": "Women spoil every boat.", "group": "women"},
]


hatecheck = partial(read_published, HATECHECK)


def write_hatecheck(path, rows=ROWS, header=HEADER, encoding="utf-8"):
    stream = io.StringIO(newline="")
    writer = csv.writer(stream)
    writer.writerow(header)
    for number, row in enumerate(rows):
        label = row.get("label", "hateful" if row["functionality"].endswith("_h") else "non-hateful")
        cells = {"index": number, "label_gold": label, "target_ident": row["group"], **row}
        writer.writerow([cells.get(column, "") for column in header])
    path.write_bytes(stream.getvalue().encode(encoding))
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_hatecheck_is_read_with_or_without_a_byte_order_mark(tmp_path, encoding):
    cases = hatecheck(write_hatecheck(tmp_path / "cases.csv", encoding=encoding))
    assert cases.texts == [row["test_case"] for row in ROWS]
    assert cases.labels.tolist() == [0, 0, 1]
    assert cases.labels.dtype == np.int64
    assert cases.functionality == ["praise_nh", "object_nh", "scorn_h"]
    assert cases.group == ["women", None, "women"]


def test_columns_are_found_by_name_and_those_not_needed_may_be_gone(tmp_path):
    header = ("target_ident", "label_gold", "test_case", "functionality")
    assert len(hatecheck(write_hatecheck(tmp_path / "cases.csv", header=header))) == len(ROWS)


def test_a_missing_file_is_answered_with_where_to_get_it(tmp_path):
    with pytest.raises(UserError, match=r"HateCheck file does not exist: .*absent\.csv\. .*hatecheck-data"):
        hatecheck(tmp_path / "absent.csv")


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(UserError, match=r"Cannot read .*: Is a directory"):
        hatecheck(tmp_path)


def test_a_file_that_is_too_large_is_not_read_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(functional, "MOST_BYTES", 100)
    with pytest.raises(UserError, match="too large"):
        hatecheck(write_hatecheck(tmp_path / "cases.csv"))


def test_missing_columns_are_named_and_what_stands_there_instead_is_not(tmp_path):
    file = write_hatecheck(tmp_path / "cases.csv", header=("test_case", "secret words", "label_gold"))
    with pytest.raises(UserError, match=r"\(functionality, target_ident\): 3 cells in line 1") as error:
        hatecheck(file)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"label": "maybe"},
            r"Line 3 of .* unknown label in label_gold: 'maybe'\. Known: non-hateful, hateful",
        ),
        ({"label": ""}, r"Line 3 of .* unknown label in label_gold: ''"),
        ({"label": "the secret words"}, r"Line 3 of .* unknown label in label_gold: 16 characters"),
        ({"test_case": " "}, "Line 3 of .* has an empty test_case"),
        ({"functionality": "", "label": "hateful"}, "Line 3 of .* has an empty functionality"),
        ({"functionality": "praise_nh", "label": "hateful"}, "Line 3 of .* a different label .*: 'hateful'"),
    ],
    ids=["label", "no label", "text for a label", "no text", "no functionality", "two labels"],
)
def test_a_wrong_row_is_answered_with_its_line_and_never_its_text(tmp_path, change, sentence):
    wrong = {"functionality": "scorn_h", "test_case": "the secret words", "group": "women", **change}
    file = write_hatecheck(tmp_path / "cases.csv", [ROWS[0], wrong])
    with pytest.raises(UserError, match=sentence) as error:
        hatecheck(file)
    assert "secret" not in str(error.value)
    assert error.value.remedy


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (b"scorn_h,the secret, words,hateful,women", "Line 2 of .* does not fit the header: 5 cells for 4"),
        (b"scorn_h,the secret words", "Line 2 of .* does not fit the header: 2 cells for 4"),
        (b"scorn_h,the secret \xff,hateful,women", "Line 2 of .* is not UTF-8: byte 0xff"),
        (b'scorn_h,"the secret words', "is not CSV: .*line 2"),
        (b"", "contains no cases"),
    ],
    ids=["comma without quotes", "short", "not UTF-8", "open quotes", "no rows"],
)
def test_a_broken_file_is_answered_with_the_place_and_without_its_text(tmp_path, line, sentence):
    file = tmp_path / "cases.csv"
    file.write_bytes(b"functionality,test_case,label_gold,target_ident\n" + line + b"\n")
    with pytest.raises(UserError, match=sentence) as error:
        hatecheck(file)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(("hateful", "other"), [("1", "0"), ("hateful", "non-hateful")])
def test_hatemojicheck_has_a_functionality_for_each_way_and_label(tmp_path, hateful, other):
    header = "case_id,templ_id,test_grp_id,text,target,functionality,set,label_gold,unrealistic_flags"
    rows = [
        f"1,1.0,1,A boat leaks.,women,f1,orig,{hateful},0",
        f"2,1.2,1,A boat floats.,women,f1,polarity,{other},0",
        f"3,2.2,2,A boat sinks.,,f1,polarity,{hateful},0",
    ]
    (tmp_path / "cases.csv").write_text("\n".join([header, *rows]))
    cases = read_published(HATEMOJICHECK, tmp_path / "cases.csv")
    assert cases.labels.tolist() == [1, 0, 1]
    assert cases.functionality == ["f1, orig, hate", "f1, polarity, not-hate", "f1, polarity, hate"]
    assert cases.group == ["women", "women", None]


def test_an_empty_file_is_a_file_without_columns(tmp_path):
    (tmp_path / "cases.csv").write_bytes(b"")
    with pytest.raises(UserError, match=r"lacks columns .*: 0 cells"):
        hatecheck(tmp_path / "cases.csv")


# The figures.

SMALL = Cases(
    texts=["a", "b", "c", "d", "e", "f"],
    labels=np.array([1, 0, 1, 0, 1, 0]),
    functionality=["scorn", "praise", "scorn", "praise", "scorn", "objects"],
    group=["women", "women", "Jews", "Jews", "Jews", None],
)
SCORES = of_hate(0.9, 0.6, 0.4, 0.5, 0.8, 0.1)


def test_accuracy_and_flips_by_hand():
    reference = of_hate(0.9, 0.1, 0.7, 0.1, 0.8, 0.1)
    figures = evaluate_cases(SMALL, SCORES, reference, {"hate": 0.55}, HALF)
    answers = ("n", "accuracy", "reference_accuracy", "flips")
    assert [getattr(figures, key) for key in answers] == [6, 4 / 6, 1, 2]
    rows = [
        [getattr(row, key) for key in ("functionality", "label", *answers)] for row in figures.functionalities
    ]
    assert rows == [
        ["scorn", "hate", 3, 2 / 3, 1, 1],
        ["praise", "not-hate", 2, 0.5, 1, 1],
        ["objects", "not-hate", 1, 1, 1, 0],
    ]


def test_each_model_is_decided_by_its_own_threshold():
    figures = evaluate_cases(SMALL, SCORES, SCORES, {"hate": 0.85}, {"hate": 0.3})
    assert figures.flips == 4


def test_ranking_by_group_by_hand():
    women, jews = evaluate_cases(SMALL, SCORES, SCORES, HALF, HALF).groups
    # Women: .9 over .6. Hateful background (.4, .8) against their .6: one of two pairs is in order. Their
    # hateful .9 against the other background (.5, .1): both are.
    assert women == Group(group="women", n=2, subgroup_auc=1, bpsn_auc=0.5, bnsp_auc=1)
    # Jews: .4 and .8 against .5; the background's .9 against .5; .4 and .8 against .6 and .1.
    assert jews == Group(group="Jews", n=3, subgroup_auc=0.5, bpsn_auc=1, bnsp_auc=0.75)


def test_gaps_are_the_best_group_minus_the_worst():
    gaps = evaluate_cases(SMALL, SCORES, SCORES, HALF, HALF).gaps
    assert gaps == Gaps(subgroup_auc=0.5, bpsn_auc=0.5, bnsp_auc=0.25)


def test_what_is_undefined_is_null_and_never_nan():
    cases = Cases(
        ["a", "b", "c"], np.array([1, 1, 0]), ["scorn", "scorn", "objects"], ["women", "Jews", None]
    )
    figures = evaluate_cases(cases, of_hate(0.9, 0.8, 0.1), of_hate(0.9, 0.8, 0.1), HALF, HALF)
    assert [row.subgroup_auc for row in figures.groups] == [None, None]
    assert [row.bpsn_auc for row in figures.groups] == [None, None]
    assert [row.bnsp_auc for row in figures.groups] == [1, 1]
    assert figures.gaps == Gaps(subgroup_auc=None, bpsn_auc=None, bnsp_auc=0)
    json.dumps(plain(figures), allow_nan=False)


def test_cases_without_groups_have_no_rows_and_no_gaps():
    cases = Cases(["a", "b"], np.array([1, 0]), ["scorn", "objects"], [None, None])
    figures = evaluate_cases(cases, of_hate(0.9, 0.1), of_hate(0.9, 0.1), HALF, HALF)
    assert figures.groups == []
    assert set(structs.astuple(figures.gaps)) == {None}


def test_every_group_has_figures():
    scores = of_hate(*np.random.default_rng(0).random(len(CASES)))
    figures = evaluate_cases(CASES, scores, 1 - scores, HALF, HALF)
    assert len(figures.groups) == len(GROUPS)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (("not-hate", "hate"), True),
        (["not-hate", "hate"], True),
        (("hate", "not-hate"), False),
        (("neither", "offensive", "hate"), False),
    ],
)
def test_the_suite_applies_to_not_hate_and_hate_in_this_order(labels, expected):
    assert applies_to(labels) is expected
