"""The drift alarm: quiet for as long as promised, quick after a change however late, kept over restarts."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.sameness.alarms import QUIET, REFERENCES, SHORT_RUN, calm, wait, watched
from deploy.drift.detector import ALTERNATIVES, NOTHING, Detector, bets, evidence, grown
from deploy.drift.judge import ELSE, GIVEN, Counts, Distribution, Rule, references
from deploy.drift.shares import FLIPS, Share, look, shares_of
from deploy.drift.sources import flipped
from deploy.drift.watch import Watch
from handler.artifact import Artifact
from handler.errors import UserError
from tests.conftest import run_stage

RULE = Rule()


def label_of(hits: int, texts: int) -> tuple[Distribution, Distribution]:
    return (
        Distribution("length", ("16", "inf"), (texts, 0)),
        Distribution("label:hate", (GIVEN, ELSE), (hits, texts - hits)),
    )


def counts(hits: int, texts: int) -> Counts:
    return Counts({("length", "16"): texts, ("label:hate", GIVEN): hits})


def share_of(hits: int, texts: int, rule: Rule = RULE) -> Share:
    (share,) = (each for each in shares_of(label_of(hits, texts), rule) if each.is_of_decisions)
    return share


def test_every_bet_is_fair_wherever_the_share_is_within_what_is_allowed() -> None:
    for low, high in ((0.05, 0.2), (0.4, 0.5), (-0.01, 0.03), (0.97, 1.2), (0.5, 0.5)):
        against = bets(low, high)
        for share in np.linspace(max(low, 0), min(high, 1), 20):
            mean = share * np.exp(against.hit) + (1 - share) * np.exp(against.miss)
            assert (mean <= 1 + 1e-12).all()


def test_the_order_of_texts_between_two_looks_makes_no_difference() -> None:
    against, none = bets(0.1, 0.2), np.full(ALTERNATIVES, NOTHING)
    at_once = grown(none, against, 30, 100)
    assert grown(none, against, 0, 0) is none
    per_text = none
    for place in range(100):
        per_text = grown(per_text, against, int(place < 30), 1)
    # One by one a later beginning of the change is thought of, too: never much less is seen.
    assert evidence(at_once) > 0
    assert evidence(per_text) > 0


def test_an_alarm_ends_soon_after_the_change_does() -> None:
    detector = Detector(0.1, 0.2, 1e6)
    detector.add(400_000, 1_000_000)
    assert detector.is_alarmed
    texts = 0
    while detector.is_alarmed:
        detector.add(15, 100)
        texts += 100
    assert texts <= 5_000
    assert detector.progress < 0.5
    detector.add(40, 100)
    assert not detector.is_alarmed, "it begins again"


@pytest.mark.parametrize(("hits", "now"), [(50, 100), (400, 500)])
def test_a_reference_is_a_sample_and_what_it_may_have_been_is_no_drift(hits: int, now: int) -> None:
    """Of 999 texts; ten thousand that have a label more often, but by less than is sure."""
    share = share_of(hits, 999)
    assert share.low < hits / 999 - RULE.min_shift < hits / 999 + RULE.min_shift < share.high
    assert look(share, counts(round(share.high * 10_000), 10_000), RULE).verdict == "no drift"
    assert look(share, counts(round(share.high * 10_000 + 200), 10_000), RULE).verdict == "drift"
    assert look(share, counts(10, 10), RULE).verdict == "too few texts"


def test_a_queue_that_doubles_is_seen_at_the_least_change_that_is_set() -> None:
    """From 5 % to 10 % of texts."""
    wide, narrow = (share_of(100, 2000, replace(RULE, min_shift=least)) for least in (0.05, 0.01))
    assert look(wide, counts(10_000, 100_000), RULE).verdict == "no drift"
    assert look(narrow, counts(10_000, 100_000), RULE).verdict == "drift"


def test_single_looks_at_texts_that_have_not_drifted_are_wrong_as_seldom_as_they_may() -> None:
    rng = np.random.default_rng(0)
    rule = replace(RULE, min_shift=1e-9, alpha=0.2)
    found = 0
    for _ in range(300):
        share = share_of(int(rng.binomial(999, 0.4)), 999, rule)
        found += look(share, counts(int(rng.binomial(5000, 0.4)), 5000), rule).verdict == "drift"
    assert found <= 30, "half of 20 % is for labels"


def watch_of(path: Path, hits: int = 50, artifact_sha256: str = "0" * 64, rule: Rule = RULE) -> Watch:
    return Watch(shares_of(label_of(hits, 999), rule), rule, artifact_sha256, path)


def test_detection_goes_on_after_a_restart_and_begins_again_for_another_artifact_or_limit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "kept" / "drift.json"
    one = watch_of(path)
    one.add(counts(60, 500))
    one.add(counts(70, 500))
    again = watch_of(path)
    assert again.texts == 1000
    assert again.record() == one.record()
    for each in (one, again):
        each.add(counts(250, 1000))
    assert again.alarmed() == one.alarmed() == ["label:hate"]
    assert watch_of(path).alarmed() == ["label:hate"]
    capsys.readouterr()
    others = (
        watch_of(path, artifact_sha256="1" * 64),
        watch_of(path, hits=51),
        watch_of(path, rule=replace(RULE, min_shift=0.06)),
        watch_of(path, rule=replace(RULE, texts_per_alarm=1_000_000)),
    )
    assert [other.texts for other in others] == [0] * 4
    assert capsys.readouterr().err.count("detection starts over") == 4
    path.write_text('{"schema": 1}')
    with pytest.raises(UserError, match="not a drift state"):
        watch_of(path)


def written(path: Path, given: list[str]) -> Path:
    rows = [{"label": label, "score": 0.9, "tokens": 5, "error": None} for label in given]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_flips_against_fp32_are_bounded_and_may_not_all_go_one_way(build_once, tmp_path: Path) -> None:
    artifact: Artifact = build_once("fp32")
    hate, other = str(artifact.positive_label), artifact.labels[0]
    fp32 = written(tmp_path / "fp32.jsonl", [hate, other] * 500)
    one_way = written(tmp_path / "one.jsonl", [other, other] * 15 + [hate, other] * 485)
    both_ways = written(tmp_path / "both.jsonl", [other, hate] * 8 + [hate, other] * 492)
    many = written(tmp_path / "many.jsonl", [other, hate] * 50 + [hate, other] * 450)

    def verdicts(path: Path) -> dict[str, str]:
        found = flipped(str(path), str(fp32), artifact) + counts(500, 1000)
        shares = [each for each in shares_of((), RULE, artifact) if each.distribution == FLIPS]
        return {each.name: look(each, found, RULE).verdict for each in shares}

    way = f"{artifact.labels[0]} -> {artifact.labels[1]}"
    assert verdicts(one_way) == {"flips": "no drift", way: "drift"}
    assert verdicts(both_ways) == {"flips": "no drift", way: "no drift"}
    assert verdicts(many) == {"flips": "drift", way: "no drift"}
    shorter = written(tmp_path / "short.jsonl", [hate] * 10)
    with pytest.raises(UserError, match="have not as many rows"):
        flipped(str(shorter), str(fp32), artifact)

    # Looked at each day, with one file of state: one day is not enough, and some are.
    state = tmp_path / "state.json"
    day = ("deploy", "drift", "--artifact", artifact.folder, "--state", state, "--reference", fp32)
    days = 0
    while (done := run_stage(*day, "--file", one_way, "--fp32", fp32)).returncode == 0 and days < 10:
        days += 1
    assert done.returncode == 1, done.stderr
    found = {row["share"]: row["is_alarmed"] for row in json.loads(done.stdout)["shares"]}
    assert found[way]
    assert not found["flips"]


def test_an_artifact_of_an_earlier_version_is_watched_without_its_labels(build_once) -> None:
    artifact: Artifact = build_once("fp32")
    known = replace(artifact.meta.reference, labels=None)
    older = replace(artifact, meta=replace(artifact.meta, reference=known))
    assert [each.name for each in references(older)] == ["score:hate", "length"]
    assert not [each for each in shares_of(references(older), RULE) if each.is_of_decisions]
    others = Counts({("length", str(known.lengths.up_to[0])): 300, ("label:hate", GIVEN): 60})
    (share,) = (each for each in shares_of(references(older, others), RULE) if each.is_of_decisions)
    assert share.reference == 0.2


@pytest.mark.slow
@pytest.mark.parametrize("reference", REFERENCES)
def test_the_alarm_keeps_its_promise_and_is_as_quick_after_a_quiet_month_as_on_the_first_day(
    reference: int,
) -> None:
    """A plain mixture e-process against a reference of 999 texts alarms in 57 % of driftless runs, and needs
    21,453 texts for a change after a million quiet ones."""
    runs = 150
    found = calm(reference, 0.42, 0.05, runs)
    promised = found.texts / RULE.texts_per_alarm + RULE.alpha / 2
    error = 3 * (promised * (1 - promised) / runs) ** 0.5
    assert found.alarms <= found.alarms_at_edge <= promised + error
    assert found.alarms == 0
    at_once, later, much_later = (watched(reference, 0.42, 0.65, 0.05, quiet, runs) for quiet in QUIET)
    for each in (at_once, later, much_later):
        assert each.seen >= (0.85 if reference == 200 else 0.99)
        assert each.median <= 1.3 * at_once.median
        assert each.median <= 4_000


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.05, 0.42])
def test_false_alarms_come_as_far_apart_as_they_are_said_to(share: float) -> None:
    assert wait(share, 300).mean >= SHORT_RUN
