"""The file to label, from answers that a test gives, and the verdicts that its labels lead to."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest

from benchmarks.sameness import flips
from benchmarks.sameness.flips import verdicts
from benchmarks.sameness.flips_key import Answers, key_of, read_key, write_flips
from benchmarks.sameness.flips_labels import read_labels
from handler.artifact import Artifact
from handler.errors import UserError
from tests.descriptions import description
from training.data.splits import Split
from training.measures.gate_ledger import read_ledger

LABELS = ("not-hate", "hate")
GATE = [f"gate text {place}" for place in range(400)]
TEXTS = [f"text {place}, with a comma" for place in range(3000)]
TRUTH = np.arange(400) % 2
HIDDEN = np.arange(3000) % 2  # fp32 is right on all but every tenth text
FLIPPED = np.arange(0, 3000, 100)  # of the first variant, each for the worse


def artifacts() -> dict[str, Artifact]:
    return {
        name: Artifact(Path(), description(name=name, labels=list(LABELS)))
        for name in ("fp32", "first", "second")
    }


def said() -> Answers:
    def of(truth: np.ndarray, changed: np.ndarray) -> np.ndarray:
        theirs = np.where(np.arange(len(truth)) % 10 == 1, 1 - truth, truth)
        theirs[changed] = 1 - theirs[changed]
        return theirs

    nothing = np.array([], int)
    return Answers(
        gate={
            "fp32": of(TRUTH, nothing),
            "first": of(TRUTH, np.array([50])),
            "second": of(TRUTH, nothing),
        },
        unlabelled={
            "fp32": of(HIDDEN, nothing),
            "first": of(HIDDEN, FLIPPED),
            "second": of(HIDDEN, np.array([7])),
        },
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_flips(tmp_path / "to-label.csv", said(), artifacts(), GATE, TEXTS, checks=20, most=1000)
    return tmp_path / "to-label.csv"


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def label(path: Path, wrong: int = 0) -> None:
    """As a person would who knows the truth, and errs on the first so many rows of the gate."""
    truth = dict(zip(GATE + TEXTS, [*TRUTH, *HIDDEN], strict=True))
    rows = rows_of(path)
    for row in rows:
        place = truth[row["text"]]
        if row["text"] in GATE and wrong:
            place, wrong = 1 - place, wrong - 1
        row["label"] = LABELS[place]
    save(path, rows)


def save(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ("id", "text", "label"))
        writer.writeheader()
        writer.writerows(rows)


def test_the_file_has_all_flips_and_some_texts_of_the_gate_and_tells_nothing(path: Path) -> None:
    rows = rows_of(path)
    flipping = {TEXTS[place] for place in (*FLIPPED, 7)}
    assert {row["text"] for row in rows} - set(GATE) == flipping
    checks = [row["text"] for row in rows if row["text"] in GATE]
    assert len(checks) == 20
    assert GATE[50] not in checks, "it flips"
    assert [row["id"] for row in rows] == [str(number) for number in range(1, 52)]
    assert {row["label"] for row in rows} == {""}
    assert list(rows[0]) == ["id", "text", "label"]
    assert [row["text"] for row in rows] != sorted(row["text"] for row in rows)
    assert any(row["text"] in GATE for row in rows[:31]), "checks are not at the end"


def test_of_many_flips_a_random_sample_is_labelled(tmp_path: Path) -> None:
    path = tmp_path / "few.csv"
    key = write_flips(path, said(), artifacts(), GATE, TEXTS, checks=0, most=10)
    assert len(rows_of(path)) == 10
    assert key.flips == len(FLIPPED) + 1


def test_labels_come_back_in_the_order_of_ids_from_a_spreadsheet_too(path: Path) -> None:
    label(path)
    rows = rows_of(path)
    key = read_key(path, LABELS, GATE, TEXTS)
    in_order = read_labels(path, key, GATE, TEXTS)
    lines = [";".join((row["id"], f'"{row["text"]}"', f" {row['label']} ")) for row in rows[::-1]]
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(["id;text;label", *lines]).encode())
    np.testing.assert_array_equal(read_labels(path, key, GATE, TEXTS), in_order)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda rows: rows[3].update(label="hatee"), "line 5: unknown label 'hatee' (did you mean hate?)"),
        (lambda rows: rows[0].update(id="99"), "line 2: unknown id '99'"),
        (lambda rows: rows[1].update(rows[0]), "line 3: id 1 is there twice"),
        (lambda rows: rows[2].update(text="another"), "line 4: the text is not that of id 3"),
        (lambda rows: rows[4].update(label=""), "have no label: .*1, the first on line 6"),
        (lambda rows: rows.pop(5), "are missing: .*1, the first has the id 6"),
    ],
)
def test_what_is_wrong_with_a_row_is_told_by_its_line(path: Path, change, told: str) -> None:
    label(path)
    rows = rows_of(path)
    change(rows)
    save(path, rows)
    with pytest.raises(UserError, match=re.sub(r"[?()]", r"\\\g<0>", told)):
        read_labels(path, read_key(path, LABELS, GATE, TEXTS), GATE, TEXTS)


def test_a_file_of_other_texts_or_without_its_key_is_refused(path: Path) -> None:
    for what, given in (
        ("other labels", (("a", "b"), GATE, TEXTS)),
        ("another gate", (LABELS, GATE[1:], TEXTS)),
        ("other unlabelled texts", (LABELS, GATE, TEXTS[::-1])),
    ):
        with pytest.raises(UserError, match=f"was written for {what}"):
            read_key(path, *given)
    key_of(path).write_text('{"schema": 1}')
    with pytest.raises(UserError, match="the key of the labelled file is damaged"):
        read_key(path, LABELS, GATE, TEXTS)
    key_of(path).unlink()
    with pytest.raises(UserError, match="the key of the labelled file cannot be read"):
        read_key(path, LABELS, GATE, TEXTS)


def judged(path: Path, ledger: Path | None = None, margin: float = 0.01):
    key = read_key(path, LABELS, GATE, TEXTS)
    given = read_labels(path, key, GATE, TEXTS)
    return verdicts(ledger, key, given, Split(GATE, TRUTH), TEXTS, margin, False)


def test_each_variant_gets_a_verdict_and_the_ledger_a_look(path: Path) -> None:
    label(path)
    ledger = path.parent / "ledger.json"
    found = judged(path, ledger)
    first, second = found.verdicts["first"], found.verdicts["second"]
    assert (first.flips, first.labelled, second.flips, second.labelled) == (30, 30, 1, 1)
    # 30 of 3,000 texts, and one of the gate's 400, go from right to wrong, all in one of two equal classes.
    assert first.drop == pytest.approx(31 / 3400, abs=1e-3)
    assert first.judged.verdict == "inconclusive"
    assert second.judged.verdict == "pass"
    assert (found.checked.texts, found.checked.wrong) == (20, 0)
    kept = read_ledger(ledger)
    assert kept is not None
    assert [look.variant for look in kept.gates[0].runs[0].looks] == ["first", "second"]
    assert len(kept.gates[0].texts) == len(GATE) + len(TEXTS)
    again = judged(path, ledger)
    assert again.verdicts["first"].judged == first.judged
    kept = read_ledger(ledger)
    assert kept is not None
    assert len(kept.gates[0].runs) == 1, "the same labels are no second look"


def test_another_label_is_another_look(path: Path) -> None:
    label(path)
    ledger = path.parent / "ledger.json"
    judged(path, ledger)
    rows = rows_of(path)
    flipping = next(row for row in rows if row["text"] == TEXTS[FLIPPED[0]])
    flipping["label"] = LABELS[1 - HIDDEN[FLIPPED[0]]]
    save(path, rows)
    found = judged(path, ledger).verdicts["first"].judged
    assert found.run == 2
    assert found.level < 0.025 * 0.75


def test_labels_that_other_variants_needed_change_nothing_for_one(path: Path) -> None:
    label(path)
    ledger = path.parent / "ledger.json"
    first = judged(path, ledger).verdicts["first"].judged
    key = read_key(path, LABELS, GATE, TEXTS)
    given = read_labels(path, key, GATE, TEXTS)
    (own_of_second,) = (place for place, row in enumerate(key.rows) if row.row == 7 and row.source != "gate")
    given[own_of_second] = 1 - given[own_of_second]
    found = verdicts(ledger, key, given, Split(GATE, TRUTH), TEXTS, 0.01, False).verdicts
    assert found["first"].judged == first
    assert found["second"].judged.run == 2


def test_a_labeller_who_errs_widens_the_interval(path: Path) -> None:
    label(path)
    sure = judged(path)
    label(path, wrong=3)
    unsure = judged(path)
    assert (unsure.checked.texts, unsure.checked.wrong) == (20, 3)
    assert unsure.verdicts["first"].high > sure.verdicts["first"].high + 0.002


def test_texts_unlike_the_gates_are_told(path: Path) -> None:
    key = read_key(path, LABELS, GATE, TEXTS)
    assert flips._likeness(key).p > 0.1
    key.reference.unlabelled = [0] * len(TEXTS)
    likeness = flips._likeness(key)
    assert likeness.p < 1e-6
    assert likeness.unlabelled == {"not-hate": 3000, "hate": 0}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ((LABELS, True, True, Split(GATE, TRUTH)), "labels that exclude each other"),
        ((LABELS, False, False, Split(GATE, TRUTH)), "needs a labelled gate"),
        ((LABELS, False, True, Split(GATE, TRUTH, groups=TRUTH)), "2 groups of 400 texts"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_sentence(given, told: str) -> None:
    with pytest.raises(UserError, match=told):
        flips.require_exclusive(*given)


def test_nothing_to_label_is_said(tmp_path: Path) -> None:
    answers = said()
    same = Answers(
        *(
            dict.fromkeys(("fp32", "first", "second"), by_name["fp32"])
            for by_name in (answers.gate, answers.unlabelled)
        )
    )
    with pytest.raises(UserError, match="there is nothing to label"):
        write_flips(tmp_path / "none.csv", same, artifacts(), GATE, TEXTS, checks=20, most=10)
    assert list(tmp_path.iterdir()) == []


def test_the_key_holds_no_text(path: Path) -> None:
    assert not [text for text in (*GATE, *TEXTS) if text in key_of(path).read_text()]
    assert json.loads(key_of(path).read_text())["flips"] == 31
