"""The search for the fastest variant: what it tries, what it takes, and that it goes on where it was left."""

import json
from itertools import groupby

import pytest

from benchmarks.__main__ import main
from benchmarks.compression.candidates import Candidate, candidates
from benchmarks.compression.records import NAME, Compression, Measured, Tried
from benchmarks.compression.search import search
from benchmarks.report.files import read_compression
from benchmarks.report.frontier import excerpt, front, picture, table
from export.registry import VARIANTS
from handler.errors import UserError

MARGIN = 0.01
SUBJECT = {"checkpoint": "abc"}


def tried_of(candidate: Candidate) -> Tried:
    """A re-check makes it closer and slower, a first stage faster and less close, pruning far less close."""
    faster = (1 + 40 * candidate.may_turn) / candidate.keep * (0.9 if candidate.recheck else 1)
    margin = 0.006 + candidate.may_turn / 2 - 0.004 * candidate.recheck + 0.2 * (1 - candidate.keep)
    measured = Measured(
        faster=faster, low=faster * 0.97, high=faster * 1.03, agreement=0.99, margin=margin, equal=True
    )
    return Tried(**candidate.params, variant=candidate.variant, measured=measured)


def margin_of(candidate: Candidate) -> float:
    measured = tried_of(candidate).measured
    assert measured is not None
    return measured.margin


def test_every_candidate_is_a_variant() -> None:
    import export.variants  # noqa: F401 - registers the variants

    names = {candidate.variant for candidate in candidates(prunable=True)}
    assert names <= set(VARIANTS)
    assert len(names) == 8
    assert {candidate.keep for candidate in candidates(prunable=False)} == {1.0}


def test_ship_does_not_try_what_takes_a_training() -> None:
    tried = {name for name, variant in VARIANTS.items() if variant.tried}
    assert "openvino-int8-rechecked-cascade" in tried
    assert not [name for name in tried if name.startswith("pruned")]


def test_all_are_tried_once_plain_int8_first(tmp_path) -> None:
    asked: list[Candidate] = []

    def try_out(candidate: Candidate) -> Tried:
        asked.append(candidate)
        return tried_of(candidate)

    found = search(tmp_path, SUBJECT, True, 1.0, MARGIN, try_out)
    assert asked[0] == Candidate()
    of_each = [keep for keep, _ in groupby(asked, key=lambda each: each.keep)]
    assert (of_each[0], len(of_each)) == (1.0, 5), "no other pruning before all that is made of one"
    assert sorted(asked, key=str) == sorted(candidates(prunable=True), key=str)
    best = Compression(data="demo", margin=MARGIN, gate=1750, left=0, tried=found).best
    passing = [candidate for candidate in candidates(True) if margin_of(candidate) <= MARGIN]
    assert best is not None
    assert best.faster == max(tried_of(candidate).faster for candidate in passing)


def test_an_interrupted_search_goes_on(tmp_path) -> None:
    asked: list[Candidate] = []

    def try_out(candidate: Candidate) -> Tried:
        if len(asked) == 3:
            raise KeyboardInterrupt
        asked.append(candidate)
        return tried_of(candidate)

    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, SUBJECT, False, 1.0, MARGIN, try_out)
    before = list(asked)
    asked.clear()
    found = search(tmp_path, SUBJECT, False, 1.0, MARGIN, lambda each: asked.append(each) or tried_of(each))
    assert not set(before) & set(asked)
    assert {each.candidate for each in found} == set(candidates(prunable=False))


def test_time_that_is_up_leaves_candidates_out(tmp_path) -> None:
    found = search(tmp_path, SUBJECT, True, 1e-9, MARGIN, tried_of)
    assert [each.candidate for each in found] == [Candidate()]


def test_another_search_in_the_same_folder_is_refused(tmp_path) -> None:
    search(tmp_path, SUBJECT, False, 1e-9, MARGIN, tried_of)
    with pytest.raises(UserError, match="different checkpoint"):
        search(tmp_path, {"checkpoint": "other"}, False, 1e-9, MARGIN, tried_of)


def test_what_fails_the_check_is_not_chosen_however_fast() -> None:
    slow, fast = (tried_of(candidate) for candidate in (Candidate(), Candidate(may_turn=0.005)))
    assert fast.measured is not None
    fast.measured.equal = False
    found = Compression(data="demo", margin=MARGIN, gate=1750, left=0, tried=[slow, fast])
    assert found.best == slow


def test_the_front_has_none_that_another_beats_in_both() -> None:
    every = [tried_of(candidate) for candidate in candidates(prunable=True)]
    found = Compression(data="demo", margin=MARGIN, gate=1750, left=0, tried=every)
    best = front(found)
    assert best
    for tried, measured in best:
        beaten_by = [
            other
            for other in every
            if other.faster > tried.faster and margin_of(other.candidate) < measured.margin
        ]
        assert not beaten_by
    speeds = [measured.faster for _, measured in best]
    assert speeds == sorted(speeds, reverse=True)


def test_the_table_says_what_is_chosen_and_why_others_were_refused() -> None:
    refused = Tried(
        keep=1.0, may_turn=0.01, recheck=False, variant="openvino-int8-cascade", refused="too few"
    )
    found = Compression(data="demo", margin=MARGIN, gate=1750, left=2, tried=[tried_of(Candidate()), refused])
    first, second = table(found).splitlines()[2:]
    assert "1.00 (0.97 to 1.03)" in first
    assert "chosen" in first
    assert "refused: too few" in second
    assert "2 combinations were not tried" in excerpt(found)
    assert "<svg" in picture(found)
    assert picture(Compression(data="demo", margin=MARGIN, gate=1, left=0, tried=[refused])) == ""


@pytest.mark.slow
def test_a_search_builds_measures_and_hands_over(checkpoint, tmp_path, capsys) -> None:
    given = [
        "compress",
        "--checkpoint",
        checkpoint.folder,
        "--output",
        tmp_path / "search",
        "--minutes",
        0.001,
    ]
    status = main(list(map(str, given)))
    shown = json.loads(capsys.readouterr().out)
    found = read_compression(tmp_path / "search" / f"{NAME}.json")
    assert [each["variant"] for each in shown["tried"]] == ["openvino-int8"]
    (int8,) = found.tried
    assert int8.measured is not None
    assert int8.measured.low < 1.25
    assert status == (0 if found.best else 1)
    if found.best:
        assert {path.name for path in (tmp_path / "artifacts-search").iterdir()} == {"fp32", "openvino-int8"}
