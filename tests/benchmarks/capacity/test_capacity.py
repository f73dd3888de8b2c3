"""Plans: a queue that is found again from what was measured of it, the arithmetic after it, and refusals."""

import json
from pathlib import Path

import numpy as np
import pytest
from msgspec import structs

from benchmarks.capacity import plan as planning
from benchmarks.capacity import replica
from benchmarks.capacity.plan import Demand, Plan, Prices, choose, most_rps, plan
from benchmarks.capacity.queueing import Batching, Replica, closed_latencies, draw, open_latencies
from benchmarks.capacity.replica import Measured, Timed, fit, measured, padding, quantiles
from benchmarks.records import Lengths, Report, flat
from benchmarks.report.files import read_selection, read_side_by_side
from benchmarks.selection import Objective, Selection
from common.records import read
from deploy.torchserve.server import CONFIG
from handler.errors import UserError
from tests.benchmarks.reports import document, variant
from tests.benchmarks.reports import level as served_level
from tests.conftest import ROOT, ran

REPORT = ROOT / "benchmarks/published/tweeteval-fine-tuned.json"
TOKENS = Lengths(30.0, 28.0, 52.0, 70.0)
LENGTHS = quantiles(TOKENS, 128)
FULL = LENGTHS.mean() * 32


@pytest.fixture(scope="module")
def published() -> Report:
    return read_side_by_side(REPORT)


@pytest.fixture
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests to which no figure matters."""
    monkeypatch.setattr(planning, "REQUESTS", 4000)
    monkeypatch.setattr(replica, "FIT_REQUESTS", 500)


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, str, Path]:
    """The plan from a published report, as the command line gives it: its JSON, its table, its folder."""
    folder = tmp_path_factory.mktemp("plan")
    asked = ("--rps", 50000, "--p99-ms", 50, "--price-core-hour", 0.04, "--price-gb-hour", 0.005)
    done = ran("benchmarks", "plan", *asked, "--report", REPORT, "--results", folder)
    return read(json.loads(done.stdout), Plan), done.stderr, folder


def test_lengths_keep_the_mean_and_the_percentiles_that_were_measured() -> None:
    assert LENGTHS.mean() == pytest.approx(30)
    assert np.percentile(LENGTHS, (50, 90, 99)) == pytest.approx((28, 52, 70), rel=0.06)


def test_a_text_in_a_batch_costs_less_padding_than_alone() -> None:
    found = padding(LENGTHS, 128)
    each = [found[texts] / texts for texts in (1, 4, 32)]
    assert found[0] == 0
    assert each[0] > each[1] > each[2] > 0


def test_the_queue_behind_measured_loads_is_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replica, "FIT_REQUESTS", 3000)
    truth = Replica(3.0, 0.4, 0.03, padding(LENGTHS, 128), 1.5, 0.15, 0.2)
    draws = draw(LENGTHS, 8000, seed=7)
    closed = []
    for clients in (1, 8, 32):
        latencies = closed_latencies(truth, clients, draws)
        level = served_level(clients, 1000 * clients / latencies.mean(), float(np.percentile(latencies, 99)))
        level.p90_ms = float(np.percentile(latencies, 90))
        level.load_generator_cores = 0.15e-3 * level.requests_per_second
        closed.append(level)
    # In process a batch takes 1 ms and its tokens: the other 2 ms, and 0.4 of each text, are the server's.
    extra, calls = truth.padding or (), ((1, 20), (1, 60), (32, FULL))
    timed = [Timed(texts, tokens, 1 + 0.03 * (tokens + extra[texts])) for texts, tokens in calls]
    found = fit(Measured(timed, closed, [], LENGTHS, 128, 1.5), Batching())
    assert found.token_ms == pytest.approx(0.03, rel=0.01)
    assert found.saturation_rps(30) == pytest.approx(truth.saturation_rps(30), rel=0.05)
    for rps in (100, 200):
        ours, theirs = (
            np.percentile(open_latencies(capacity, rps, draws), 99) for capacity in (found, truth)
        )
        assert ours == pytest.approx(theirs, rel=0.1)


def test_the_rate_is_the_highest_that_keeps_the_objective() -> None:
    assert most_rps(lambda rps: rps, 60, 100) == pytest.approx(60, abs=0.2)
    assert most_rps(lambda rps: rps, 1000, 100) == 95
    assert most_rps(lambda _: 70, 60, 100) is None


def test_replicas_bear_the_load_and_its_head_room_and_none_is_spare(planned) -> None:
    found, _, _ = planned
    assert found.variant == "openvino-int8"
    assert found.replica.p99_ms <= 50
    each, replicas = found.replica.rps, found.replicas
    assert replicas * each >= 1.25 * 50_000 > (replicas - 1) * each
    assert found.cores == 2 * replicas
    hour = 0.04 * found.cores + 0.005 * found.memory_gb
    assert found.cost.per_hour == pytest.approx(hour, rel=1e-3)
    assert found.cost.per_million_texts == pytest.approx(hour / 180, rel=1e-3)


def test_p99_in_the_curve_grows_with_the_rate_and_meets_the_objective_there(planned) -> None:
    found, _, _ = planned
    rates = [point.rps for point in found.curve]
    tails = [point.p99_ms for point in found.curve]
    low = [tail for tail in tails if tail <= 75]
    assert len(low) > 5
    assert low == sorted(low)
    assert np.interp(50, tails, rates) == pytest.approx(found.replica.rps, rel=0.05)


def test_the_model_is_shown_with_every_load_that_the_server_kept_up_with(planned, published) -> None:
    found, table, _ = planned
    row = next(variant for variant in published.variants if variant.name == "openvino-int8")
    assert [level.clients for level in found.fitted] == [level.concurrency for level in row.served]
    borne = [level.offered_rps for level in row.open if not level.saturated]
    assert len(borne) > 2
    assert [point.rps for point in found.compared] == borne
    for level in found.fitted:
        assert level.modelled.rps == pytest.approx(level.measured.rps, rel=0.25)
    assert "fitted" in table
    assert "predicted" in table


def test_the_table_says_what_is_assumed_and_the_picture_is_drawn(planned) -> None:
    _, table, folder = planned
    for words in ("maxBatchDelay 1 ms", "32 tokens", "load generator", "Headroom is 1.25", "Java"):
        assert words in table
    assert (folder / "plan.svg").read_text(encoding="utf-8").startswith("<svg")


def test_the_selected_variant_is_planned_for_where_the_selection_is_of_the_same_run(published) -> None:
    selection = Selection(1, "fp32", None, Objective(), published.run.id, [], {})
    assert choose(published, selection, None).name == "fp32"
    assert choose(published, selection, "onnx-int8").name == "onnx-int8"
    assert choose(published, structs.replace(selection, run="another"), None).name == "openvino-int8"
    with pytest.raises(UserError, match="bf17 was not measured"):
        choose(published, None, "bf17")


def test_a_loose_objective_does_not_fill_the_queue_and_without_prices_there_is_no_cost(
    published, few_draws
) -> None:
    found = plan(published, choose(published, None, "openvino-int8"), Demand(1000, 60_000, 1), Prices())
    waiting = found.replica.rps * found.replica.p99_ms / 1000
    assert waiting < 256
    assert found.cost is None
    assert "job_queue_size=256" in CONFIG.read_text()


def test_one_variants_report_and_a_damaged_one(published, tmp_path: Path) -> None:
    row = choose(published, None, "onnx-int8")
    (tmp_path / "one.json").write_text(json.dumps(flat(published.of(row))))
    assert [variant.name for variant in read_side_by_side(tmp_path / "one.json").variants] == ["onnx-int8"]
    (tmp_path / "one.json").write_text("3")
    with pytest.raises(UserError, match="damaged"):
        read_side_by_side(tmp_path / "one.json")
    assert read_selection(tmp_path) is None
    (tmp_path / "selection.json").write_text("{}")
    with pytest.raises(UserError, match="damaged"):
        read_selection(tmp_path)


def test_what_was_not_served_or_not_split_is_refused(published) -> None:
    with pytest.raises(UserError, match="not measured as served"):
        measured(choose(published, None, "pruned"), TOKENS)
    old = document(variant("fp32", levels=(served_level(1, 50, 20), served_level(32, 100, 400))))
    with pytest.raises(UserError, match="where a request to fp32 spends its time"):
        measured(old.variants[0], TOKENS)
    once = choose(published, None, "openvino-int8")
    with pytest.raises(UserError, match="one number of clients only"):
        measured(structs.replace(once, served=once.served[:1]), TOKENS)


@pytest.mark.parametrize(
    ("demand", "words"),
    [
        pytest.param(Demand(1000, 5, 1.25), "no rate keeps a p99 of 5 ms", id="below the lone request"),
        pytest.param(Demand(1000, 50, 1.25, mean_tokens=70), "these lengths were not measured", id="longer"),
        pytest.param(Demand(1000, 50, 1.25, mean_tokens=10), "these lengths were not measured", id="shorter"),
    ],
)
def test_what_the_measurements_cannot_support_is_refused(
    published, few_draws, demand: Demand, words: str
) -> None:
    with pytest.raises(UserError, match=words):
        plan(published, choose(published, None, "openvino-int8"), demand, Prices())
