"""Selection: which variant wins under which objective, and whether the reasons say why."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.__main__ import main
from benchmarks.lateness import LEAST, lateness
from benchmarks.records import Interval, OpenLevel, Rate, Report, plain
from benchmarks.report.phrases import reason
from benchmarks.report.verdicts import verdict
from benchmarks.sameness.gate import judge_run
from benchmarks.selection import Objective, choose_served, over_int8, select, verdicts_at
from handler.errors import UserError
from training.measures.gate_ledger import share_of
from training.measures.noninferiority import drop_of


def open_level(
    offered: float, p99_ms: float, saturated: bool = False, lost: int = 0, n: int = 4000
) -> OpenLevel:
    """One in twenty takes `p99_ms`, evenly spread, and none longer; the first `lost` are not answered."""
    latencies: list[float | None] = [p99_ms if place % 20 == 0 else p99_ms / 3 for place in range(n)]
    latencies[:lost] = [None] * lost
    percentiles = p99_ms / 3, p99_ms / 2, p99_ms
    errors = {"503": lost} if lost else {}
    told = offered, 4.0, n, offered, offered, *percentiles, errors, saturated, 0.4, None
    return OpenLevel(*told, lateness([latencies]))


@pytest.fixture
def field(make):
    """Three that are the same classifier (one small, one quick to answer, one with most throughput), and
    faster ones that are not. What clients that wait reach holds for arrivals that do not."""
    found = make.document(
        make.variant("fp32", levels=(make.level(1, 40, 30), make.level(32, 60, 700))),
        make.variant(
            "snappy", drop=(-0.003, 0.004), levels=(make.level(1, 150, 8), make.level(32, 200, 250))
        ),
        make.variant("bulky", drop=(-0.002, 0.005), levels=(make.level(1, 50, 25), make.level(32, 300, 200))),
        make.variant(
            "small", drop=(-0.004, 0.006), mb=20, levels=(make.level(1, 60, 20), make.level(32, 90, 500))
        ),
        make.variant("damaged", drop=(0.03, 0.06), levels=(make.level(32, 900, 50),)),
        make.variant("unsettled", drop=(-0.004, 0.013), levels=(make.level(32, 800, 60),)),
    )
    for variant in found.variants:
        variant.open = [open_level(level.requests_per_second, level.p99_ms) for level in variant.served]
    return found


def test_without_an_objective_the_most_requests_per_second_win(field) -> None:
    chosen = select(field, Objective())
    assert chosen.selected == "bulky"
    assert chosen.artifact_sha256 == field.variants[2].artifact_sha256


@pytest.mark.parametrize(
    ("objective", "winner"),
    [
        pytest.param(Objective(p99_ms=10), "snappy", id="quick answers"),
        pytest.param(Objective(p99_ms=200), "bulky", id="lenient p99"),
        pytest.param(Objective(max_mb=30), "small", id="little disk"),
        pytest.param(Objective(max_f1_drop=0.004), "snappy", id="strict margin"),
        pytest.param(Objective(max_f1_drop=0.02), "unsettled", id="lenient margin"),
        pytest.param(Objective(max_f1_drop=0.1), "damaged", id="any quality"),
        pytest.param(Objective(p99_ms=30, rps=100), "snappy", id="both at once"),
        pytest.param(Objective(max_f1_drop=0), "fp32", id="no drop at all"),
    ],
)
def test_objectives_pick_differently(field, objective: Objective, winner: str) -> None:
    assert select(field, objective).selected == winner


def test_the_reasons_tell_worse_from_not_proven_from_slower(field) -> None:
    reasons = select(field, Objective()).reasons
    assert list(reasons) == [variant.name for variant in field.variants]
    assert reasons["bulky"].startswith(
        "chosen: the fastest that qualifies, 300 requests a second to 32 clients"
    )
    assert "5.0 times fp32" in reasons["bulky"]
    assert "it is worse: its macro-F1 lies from 0.030 below to 0.060 below fp32's" in reasons["damaged"]
    assert "not proven to be as good, nor shown to be worse" in reasons["unsettled"]
    assert "from 0.004 above to 0.013 below" in reasons["unsettled"]
    assert "slower than bulky" in reasons["fp32"]
    assert "so close" not in reasons["snappy"]


def test_a_drop_that_is_certain_but_perhaps_small_is_called_worse(make) -> None:
    found = make.document(make.variant("fp32"), make.variant("a", speed=3, drop=(0.002, 0.02)))
    assert "it is worse, and not proven to be within the margin" in select(found, Objective()).reasons["a"]


def test_a_near_runner_up_is_not_said_to_be_slower(make) -> None:
    found = make.document(make.variant("fp32"), make.variant("a", speed=3.0), make.variant("b", speed=2.95))
    chosen = select(found, Objective())
    assert chosen.selected == "a"
    assert "not shown to differ in speed from a" in chosen.reasons["b"]


@pytest.mark.parametrize(
    ("flaw", "reason"),
    [
        pytest.param({"equal": False}, "the check at export found it not equal", id="check"),
        pytest.param({"error": "out of memory"}, "it failed during latency: out of memory", id="crash"),
        pytest.param({"served_as_measured": False}, "differ from those in process", id="another one served"),
    ],
)
def test_the_fastest_loses_when_it_is_not_proven_the_same(make, flaw: dict, reason: str) -> None:
    best = make.variant("best", speed=9, levels=() if "error" in flaw else (make.level(32, 900, 10),), **flaw)
    found = make.document(make.variant("fp32", levels=(make.level(32, 60, 700),)), best)
    chosen = select(found, Objective())
    assert chosen.selected == "fp32"
    assert reason in chosen.reasons["best"]


def test_a_level_of_load_with_refused_requests_does_not_count(make) -> None:
    levels = make.level(1, 50, 20), make.level(32, 500, 20, {"503": 400})
    found = make.document(
        make.variant("fp32", levels=(make.level(32, 60, 700),)), make.variant("a", levels=levels)
    )
    assert "slower than fp32: 50 requests a second to 1 client" in select(found, Objective()).reasons["a"]


def test_without_serving_throughput_in_process_decides(make) -> None:
    found = make.document(make.variant("fp32"), make.variant("a", speed=2), make.variant("b", speed=4))
    chosen = select(found, Objective())
    assert chosen.selected == "b"
    assert "texts a second in process" in chosen.reasons["b"]
    with pytest.raises(UserError, match="nothing was measured as served"):
        select(found, Objective(p99_ms=20))


def loaded(make, *levels: OpenLevel, name: str = "fp32"):
    """A variant that met these arrivals."""
    found = make.variant(name, levels=(make.level(32, 500, 9),))
    found.open = list(levels)
    return found


def test_an_objective_is_held_against_arrivals_that_do_not_wait(make) -> None:
    fp32 = loaded(make, open_level(20, 40), open_level(50, 90))
    a = loaded(make, open_level(200, 40), open_level(400, 90, saturated=True), name="a")
    found = make.document(fp32, a)
    assert (
        "200 requests a second arriving at random, late 0.0 % (0.0 to 0.1)"
        in select(found, Objective(p99_ms=95)).reasons["a"]
    )
    assert select(found, Objective(p99_ms=50)).runners_up == ["fp32"]
    none = select(found, Objective(p99_ms=30))
    assert none.selected is None, "closed loops of 9 ms do not count"
    too_much = select(found, Objective(rps=400))
    assert too_much.selected is None
    assert "more than it can keep up with" in too_much.reasons["a"]
    assert (
        "not tried at 300 requests a second: make benchmark RPS=300"
        in select(found, Objective(rps=300)).reasons["a"]
    )


def test_no_level_counts_above_one_that_fails(make) -> None:
    found = make.document(loaded(make, open_level(85, 39), open_level(170, 95), open_level(238, 89)))
    assert (
        select(found, Objective(p99_ms=92))
        .reasons["fp32"]
        .startswith("chosen: the fastest that qualifies, 85 requests a second")
    )
    assert select(found, Objective(p99_ms=92, rps=200)).selected is None
    assert select(found, Objective(p99_ms=95, rps=200)).selected == "fp32"


def test_a_level_below_the_requested_rate_must_not_fail_and_need_not_hold(make) -> None:
    unclear, late = open_level(50, 20, n=400, lost=2), open_level(50, 20, saturated=True)
    asked = open_level(100, 20)
    for lower, chosen in ((unclear, "fp32"), (late, None)):
        found = make.document(loaded(make, lower, asked))
        assert select(found, Objective(p99_ms=20)).selected is None, "without a rate all levels are tested"
        assert select(found, Objective(p99_ms=20, rps=100)).selected == chosen


def test_servers_that_took_turns_are_compared_by_them(make) -> None:
    """As served alone, b seems the faster: the machine was slower while a had it."""
    fp32 = make.variant("fp32", levels=(make.level(32, 100, 90),))
    a = make.variant("a", speed=4, levels=(make.level(32, 350, 90),))
    b = make.variant("b", speed=4, levels=(make.level(32, 450, 90),))
    a.served_turns, b.served_turns = [400.0, 420, 410, 430, 405, 415], [300.0, 310, 312, 318, 305, 311]
    slower = select(make.document(fp32, a, b), Objective())
    assert slower.selected == "a"
    assert "slower than a" in slower.reasons["b"]
    assert "(in turns, 0.7" in slower.reasons["b"]
    b.served_turns = [390.0, 440, 400, 445, 395, 420]
    a.resources.cpu_s_per_1000_texts, b.resources.cpu_s_per_1000_texts = 3.0, 2.0
    alike = select(make.document(fp32, a, b), Objective())
    assert alike.selected == "b", "the least CPU time of two that are not shown to differ"
    assert "not shown to differ in speed from b" in alike.reasons["a"]
    b.served_turns = []
    assert select(make.document(fp32, a, b), Objective()).selected is not None


def test_few_requests_show_nothing_even_if_none_is_late(make) -> None:
    least = select(make.document(loaded(make, open_level(50, 20, n=LEAST))), Objective(p99_ms=20))
    assert least.selected == "fp32"
    fewer = select(make.document(loaded(make, open_level(50, 20, n=LEAST - 1))), Objective(p99_ms=20))
    assert fewer.selected is None
    assert "only 367 independent requests, and at least 368 are needed" in fewer.reasons["fp32"]
    above = loaded(make, open_level(5, 20, n=LEAST - 1), open_level(50, 20))
    assert (
        "fastest that qualifies, 50 requests"
        in select(make.document(above), Objective(p99_ms=20)).reasons["fp32"]
    )


def test_rates_that_are_not_shown_to_differ_are_said_to_be_and_cpu_time_decides(make) -> None:
    a = loaded(make, open_level(100, 20), open_level(200, 90), name="a")
    b = loaded(make, open_level(110, 20), open_level(220, 90), name="b")
    slow = loaded(make, open_level(30, 20), open_level(80, 90), name="slow")
    for variant, cpu_s in ((a, 2.0), (b, 3.0), (slow, 1.0)):
        variant.resources.cpu_s_per_1000_texts = cpu_s
    chosen = select(make.document(make.variant("fp32"), a, b, slow), Objective(p99_ms=50))
    assert chosen.selected == "a"
    assert "not shown to differ in speed from b, and of these it takes the least CPU" in chosen.reasons["a"]
    assert "not shown to differ in speed from a" in chosen.reasons["b"]
    assert "slower than a" in chosen.reasons["slow"]


def test_a_report_that_does_not_know_who_was_late_is_not_selected_from_by_latency(make) -> None:
    old = loaded(make, open_level(100, 20))
    old.open[0].lateness = None
    assert select(make.document(old), Objective()).selected == "fp32"
    with pytest.raises(UserError, match="does not say how many requests were late"):
        select(make.document(old), Objective(p99_ms=50))


def test_a_level_that_lost_requests_does_not_count_in_an_open_loop(make) -> None:
    found = make.document(loaded(make, open_level(100, 10, lost=120)))
    assert select(found, Objective(rps=50)).selected is None
    assert "not answered 3.0 %" in select(found, Objective(rps=50)).reasons["fp32"]


def test_a_drop_within_the_margin_may_be_luck_where_many_were_tried(make) -> None:
    crowd = [make.variant(f"v{n}", speed=2 + n / 10) for n in range(20)]
    for variant in crowd:
        variant.parity["gate"].cells = [800, 20, 12, 200, 200, 12, 24, 732]
    found = make.document(make.variant("fp32"), *crowd)
    alone = make.document(make.variant("fp32"), crowd[0])
    margin = select_margin(alone)
    assert select(alone, Objective(max_f1_drop=margin)).selected == "v0"
    chosen = select(found, Objective(max_f1_drop=margin))
    assert chosen.selected == "fp32"
    crowd[0].parity["gate"].macro_f1_drop.high = margin
    reason = select(found, Objective(max_f1_drop=margin)).reasons["v0"]
    assert "0.00094 needed, first look on this machine" in reason, "a twentieth of what a run may spend"


def select_margin(document: Report) -> float:
    """What a first run rules out of the one variant, and a little more."""
    draws = drop_of(document.variants[1].parity["gate"].cells, 2).most
    return float(np.quantile(draws, 1 - share_of(1))) + 1e-4


def test_labels_that_may_flip_are_counted_by_what_is_proven(make) -> None:
    found = make.document(make.variant("fp32"), make.variant("a", speed=2))
    rate = Rate(10, 0.005, 0.0024, 0.0092)
    found.variants[1].parity["gate"].flip_rates = {"any": rate}
    assert select(found, Objective(max_flip=0.01)).selected == "a"
    strict = select(found, Objective(max_flip=0.006))
    assert strict.selected == "fp32"
    assert "up to 0.9% of labels may differ from fp32's (10 of 2,000 gate texts do)" in strict.reasons["a"]


def test_a_variant_that_was_not_served_cannot_beat_those_that_were(make) -> None:
    found = make.document(make.variant("fp32", levels=(make.level(32, 60, 700),)), make.variant("a", speed=9))
    chosen = select(found, Objective())
    assert chosen.selected == "fp32"
    assert "not measured as served" in chosen.reasons["a"]


def test_random_weights_are_judged_by_the_check_alone(make) -> None:
    found = make.document(make.variant("fp32", drop=None), make.variant("a", speed=2, drop=None))
    chosen = select(found, Objective())
    assert chosen.selected == "a"
    assert "quality cannot be judged" in chosen.reasons["a"]


def test_a_margin_that_was_changed_after_the_first_look_is_said(make, tmp_path: Path) -> None:
    variant = make.variant("a", speed=2)
    variant.judged.cells = [1000, 4, 0, 120, 120, 0, 5, 751]
    judge_run(tmp_path / "ledger.json", ["a text"], [variant], 0.01, 2)
    found = make.document(make.variant("fp32"), variant)
    assert "WARNING" not in select(found, Objective()).reasons["a"]
    changed = select(found, Objective(max_f1_drop=0.02))
    assert changed.selected == "a"
    assert "the margin was 0.01 at the first look at this gate and has been" in changed.reasons["a"]


def test_the_fastest_equal_ones_are_served_and_those_with_a_proven_drop_first(make) -> None:
    candidates = [
        make.variant("fp32"),
        make.variant("slow", speed=2),
        make.variant("quick", speed=4),
        make.variant("unsettled", speed=8, drop=(-0.004, 0.013)),
        make.variant("unlike", speed=9, equal=False),
    ]
    for candidate in candidates[1:]:
        candidate.judged.noninferiority = make.tested(candidate.judged.macro_f1_drop)
    assert choose_served(candidates, 1).names == ["fp32", "quick"]
    assert choose_served(candidates, 2).names == ["fp32", "quick", "slow"]
    assert choose_served(candidates, 3).names == ["fp32", "quick", "slow", "unsettled"]
    assert choose_served(candidates, 9).names == ["fp32", "quick", "slow", "unsettled"]
    assert choose_served(candidates, None).names == [candidate.name for candidate in candidates]
    assert "the 3 fastest on real texts in process" in choose_served(candidates, 3).rule
    assert choose_served([], 3).names == []


def test_a_variant_that_had_an_archive_but_was_not_worth_a_server_names_the_way_to_one(make) -> None:
    found = make.document(make.variant("fp32", levels=(make.level(32, 60, 700),)), make.variant("a", speed=9))
    assert "name it: make benchmark VARIANTS=a" in select(found, Objective()).reasons["a"]
    found.variants[1].resources.archive_mb = None
    assert "(no archive)" in select(found, Objective()).reasons["a"]


def test_the_command_writes_the_choice_and_exits_with_1_when_none_qualifies(field, tmp_path, capsys) -> None:
    (tmp_path / "side-by-side.json").write_text(json.dumps(plain(field)))
    assert main(["select", "--results", str(tmp_path)]) == 0
    written = json.loads((tmp_path / "selection.json").read_text())
    assert written["selected"] == "bulky"
    assert written == json.loads(capsys.readouterr().out)

    assert main(["select", "--results", str(tmp_path), "--p99-ms", "1"]) == 1
    written = json.loads((tmp_path / "selection.json").read_text())
    assert written["selected"] is None
    assert written["artifact_sha256"] is None
    assert "no variant qualifies" in capsys.readouterr().err


def test_selecting_before_measuring_names_the_remedy(tmp_path) -> None:
    with pytest.raises(UserError, match="make benchmark"):
        main(["select", "--results", str(tmp_path)])


def test_a_verdict_on_independent_labels_is_given_anew_at_another_margin(make) -> None:
    whole = make.document(make.variant("fp32"), make.variant("same"), make.variant("harmed"))
    for one, kinds in zip(
        whole.variants[1:],
        ({"70": 900, "07": 900, "00": 900}, {"70": 750, "60": 150, "07": 900}),
        strict=True,
    ):
        one.judged.kinds = kinds
    at = {margin: verdicts_at(whole.variants, margin, 2) for margin in (0.01, 0.1)}
    assert [at[0.01][name].verdict for name in ("same", "harmed")] == ["pass", "fail"]
    assert [at[0.1][name].verdict for name in ("same", "harmed")] == ["pass", "pass"]


def test_a_choice_on_the_demos_texts_is_called_a_rehearsal(field) -> None:
    assert all(
        why.endswith("(a rehearsal on synthetic text)") for why in select(field, Objective()).reasons.values()
    )
    field.data.spec = "csv:mine.csv"
    assert not any("rehearsal" in why for why in select(field, Objective()).reasons.values())


@pytest.mark.parametrize("labelled", [True, False])
def test_texts_that_the_model_may_have_seen_prove_nothing(make, labelled: bool) -> None:
    drop = (-0.001, 0.001) if labelled else None
    document = make.document(make.variant("fp32"), make.variant("int8", drop=drop))
    int8 = document.variants[1]
    if labelled:
        int8.judged.cells = [1000, 0, 0, 0, 0, 0, 0, 1000]
    int8.judged.may_have_seen = True
    if labelled:
        judge_run(None, ["texts"], document.variants, 0.01, 2)
        assert int8.judged.noninferiority.verdict == "not proven"
        assert int8.judged.noninferiority.p < 0.001
    for margin in (0.01, 0.05):
        assert verdicts_at(document.variants, margin, 2)["int8"].verdict == "not proven"
    found = select(document, Objective())
    assert found.selected == "fp32"
    assert "not proven: the model may have seen these texts; adopt it again" in found.reasons["int8"]
    assert verdict(int8, 0.01) == "not proven"
    assert "the model may have seen these texts" in reason(int8, 0.01)


def test_recall_and_rates_are_objectives_of_their_own(make) -> None:
    """Nothing is lost in macro-F1 where one kind of error is traded for the other; each label may ask."""
    variant = make.variant("a", speed=2)
    parity = variant.parity["gate"]
    parity.cells = [1000, 0, 0, 200, 150, 0, 18, 632]  # 18 of 800 texts with the second label are lost
    found = make.document(make.variant("fp32"), variant)
    wide = Objective(max_f1_drop=0.05)
    assert select(found, wide).selected == "a"
    assert select(found, replace(wide, max_recall_drop=0.06, max_rate_shift=0.03)).selected == "a"
    lost = select(found, replace(wide, max_recall_drop=0.03))
    assert lost.selected == "fp32"
    assert "the recall of hate lies from 0.012 below to 0.035 below fp32's" in lost.reasons["a"]
    assert "recall of not-hate" not in lost.reasons["a"]
    assert "the share of texts called hate" in select(found, replace(wide, max_rate_shift=0.01)).reasons["a"]


def test_recall_without_labels_cannot_be_judged(make) -> None:
    found = make.document(make.variant("fp32", drop=None), make.variant("a", speed=2, drop=None))
    chosen = select(found, Objective(max_recall_drop=0.1))
    assert chosen.selected == "fp32"
    assert "recall and rates cannot be judged" in chosen.reasons["a"]


def test_a_drop_in_auroc_is_an_objective_that_only_its_interval_can_meet(make) -> None:
    variant = make.variant("a", speed=2)
    variant.judged.cells = [1000, 0, 0, 5, 5, 0, 0, 990]
    found = make.document(make.variant("fp32"), variant)
    variant = found.variants[1]  # a document has copies
    asked = Objective(max_auroc_drop=0.01)
    unknown = select(found, asked)
    assert unknown.selected == "fp32"
    assert "AUROC cannot be judged" in unknown.reasons["a"], "of an earlier version"
    variant.judged.auroc_drop = Interval(drop=0.004, low=0.001, high=0.009)
    assert select(found, asked).selected == "a"
    assert select(found, replace(asked, max_auroc_drop=0.0085)).selected == "fp32"
    variant.judged.auroc_drop = Interval(drop=0.004, low=-0.003, high=0.011)
    lost = select(found, asked)
    assert lost.selected == "fp32"
    assert "its AUROC lies from 0.003 above to 0.011 below fp32's" in lost.reasons["a"]
    assert "a drop of at most 0.01 is allowed" in lost.reasons["a"]
    variant.judged.auroc_drop = Interval(drop=0.0, low=0.0, high=0.0)
    assert select(found, asked).selected == "a"
    judge_run(None, ["texts"], found.variants, 0.01, 2)
    variant.judged.noninferiority.share = 0.005  # what the ledger of a gate that was seen before leaves
    variant.judged.auroc_drop = Interval(drop=0.004, low=0.001, high=0.009)
    assert select(found, asked).selected == "fp32", "a gate that was seen before asks for more"


@pytest.mark.parametrize(
    ("rivals", "said"),
    [
        ({"openvino-int8": 2.0}, "2.00 times openvino-int8 in process (95 %: 1.92 to 2.08)"),
        ({"openvino-int8": 2.0, "onnx-int8": 3.2}, "1.25 times onnx-int8 in process"),
        ({"openvino-int8": 3.9}, "times openvino-int8 in process (95 %: 0.99 to 1.07), not resolved"),
        ({"openvino-bf16": 2.0}, ""),
    ],
)
def test_what_is_chosen_is_held_against_int8_alone(make, rivals: dict[str, float], said: str) -> None:
    others = [make.variant(name, speed=speed) for name, speed in rivals.items()]
    found = make.document(make.variant("fp32"), make.variant("cascade", speed=4), *others)
    why = select(found, Objective()).reasons["cascade"]
    assert said in why
    assert ("int8" in why.partition("times fp32")[2]) == bool(said)
    assert "times openvino-int8" not in select(found, Objective()).reasons.get("openvino-int8", "")
    for variant, pace in zip(found.variants[1:], (3.0, 2.0, 2.0), strict=False):
        variant.served_turns = [pace * 100, pace * 101, pace * 99]
    assert (", 1.50 to 1.50 times as served" in over_int8(found.variants[1], found)) == bool(said)


@pytest.mark.parametrize(("flips", "chosen"), [(3, "a"), (12, "fp32")])
def test_without_labels_flips_on_the_gate_prove_accuracy(make, flips: int, chosen: str) -> None:
    """2,000 texts: 3 flips rule out a loss of 0.01 at a run's level, 12 do not; macro-F1 stays unknown."""
    document = make.document(make.variant("fp32", drop=None), make.variant("a", speed=2, drop=None))
    parity = document.variants[1].judged
    parity.unlabelled_flips, parity.decisions = flips, "a" * 64
    parity.flip_rates = {"any": Rate(flips, flips / 2000, 0.0, 0.02)}
    judge_run(None, ["texts"], document.variants, 0.01, 2)
    assert parity.noninferiority.measure == "accuracy"
    found = select(document, Objective())
    assert found.selected == chosen
    said = reason(document.variants[1], 0.01)
    if chosen == "a":
        assert "an accuracy drop of 0.01 is ruled out" in found.reasons["a"]
        assert "Without labels, macro-F1 cannot be judged" in said
    else:
        assert "the label differs from fp32's on 12 of 2,000 gate texts" in found.reasons["a"]
        assert "texts would settle it, if the share of flips stays as measured" in found.reasons["a"]
        assert "An accuracy drop of 0.01 is not ruled out" in said
