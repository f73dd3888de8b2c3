"""A real app with a real shadow: counts are right, an alarm is raised, and no answer depends on it."""

import argparse
import json
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import psutil
import pytest

from deploy.app.command import app_arguments
from deploy.app.counters import Counters
from deploy.app.keys import Keys
from deploy.app.model import Model
from deploy.app.shadow import MOST_CHARACTERS, MOST_TEXTS, Offered, Shadow
from deploy.app.shadow_worker import OF_DECISIONS, Comparison
from deploy.drift.judge import Rule
from deploy.torchserve import rollout_shadow
from deploy.torchserve.server import free_ports
from handler.artifact import Artifact
from handler.description import Bands
from handler.errors import UserError
from handler.predictor import Predictor
from handler.service import Service
from tests.asking import PREDICT, ask_json, counter, get, wait_until
from tests.conftest import ROOT, refused
from tests.deploy.app.test_application import App, running
from tests.deploy.test_monitoring import MONITORING
from training import data

OF_LABELS = "flips"
PATIENCE_S = 400  # a shadow has the lowest priority, and loads a runtime


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return list(data.load("demo").splits["validation"].texts)[:120]


@pytest.fixture(scope="module")
def model(build_once) -> Model:
    return Model(build_once("fp32"))


@pytest.fixture(scope="module")
def counted() -> Counters:
    return Counters()


@pytest.fixture(scope="module")
def service(model: Model, counted: Counters) -> Service:
    return model.load(counted, threads=1)


@contextmanager
def shadowed(
    model: Model, service: Service, counted: Counters, artifact: Artifact, share: float = 1.0
) -> Iterator[tuple[App, Shadow]]:
    """The app with this shadow, when both are loaded."""
    shadow = Shadow(model.artifact, artifact, share, max_flip=0.05)
    service.observe = shadow.offer
    try:
        with running(model, lambda: service, counted, shadow=shadow) as app:
            wait_until(lambda: app.batcher.is_ready and shadow.is_up, patience_s=PATIENCE_S)
            yield app, shadow
    finally:
        service.observe = None


def described(app: App) -> dict[str, Any]:
    return dict(json.loads(get(app.port, "/models/hate")[1])["shadow"])


def labels(artifact: Artifact, texts: list[str]) -> list[str]:
    predictor = Predictor(artifact, threads=1)
    return [predictor.answer(each)["label"] for each in predictor.predict(texts)]


def test_a_damaged_version_raises_the_alarm_and_is_counted_as_it_answers(
    model: Model, service: Service, counted: Counters, wrong: Artifact, texts: list[str]
) -> None:
    before, after = labels(model.artifact, texts), labels(wrong, texts)
    ways = Counter(zip(before, after, strict=True))
    flipped = sum(count for (one, other), count in ways.items() if one != other)
    assert flipped > 60, "the shadow says the opposite"
    predictor = service.predictor
    unshadowed = [predictor.answer(*predictor.predict([text])) for text in texts]
    with shadowed(model, service, counted, wrong) as (app, shadow):
        answered = [ask_json(app.port, PREDICT, {"text": text}) for text in texts]
        assert [status for status, _ in answered] == [200] * len(texts)
        assert [{k: v for k, v in each.items() if k != "model"} for _, each in answered] == unshadowed
        wait_until(lambda: shadow.report.compared == len(texts))
        found = described(app)
        assert found["kinds"].keys() == {OF_LABELS}, "without bands nothing is decided"
        kind = found["kinds"][OF_LABELS]
        assert (found["compared"], kind["flipped"], found["dropped"]) == (len(texts), flipped, 0)
        pairs = permutations(model.artifact.labels, 2)
        assert kind["ways"] == {f"{one} -> {other}": ways[one, other] for one, other in pairs}
        assert OF_LABELS in kind["alarms"]
        assert found["artifact_sha256"] == wrong.sha256
        page = get(app.port, "/metrics")[1].decode()
        assert 'classifier_drift_detected{ModelName="hate",distribution="flips"} 1.0' in page
        assert f'classifier_shadow_compared{{ModelName="hate"}} {len(texts)}.0' in page
        assert (
            counter(app.port, "classifier_shadow_flips")
            == counter(app.port, "classifier_shadow_flipped")
            == flipped
        )


def test_the_same_version_never_flips_whatever_is_asked_and_however(
    model: Model, service: Service, counted: Counters, texts: list[str]
) -> None:
    """A text without a label (too long, empty) is not compared."""
    with shadowed(model, service, counted, model.artifact) as (app, shadow):
        whole = {"text": " ".join(texts), "long": "chunks"}
        for path, body, rows in (
            (PREDICT, {"texts": [*texts, "", 3]}, len(texts)),
            (PREDICT, whole, 1),
            (PREDICT, whole | {"aggregate": "mean"}, 1),
            ("/explanations/hate", {"text": texts[0]}, 1),
            ("/v1/models/hate:predict", {"instances": texts[:9]}, 9),
            (PREDICT, {"text": "a lone \ud800 surrogate"}, 1),
        ):
            before = shadow.report.compared
            assert ask_json(app.port, path, body)[0] in (200, 207)
            wait_until(lambda before=before, rows=rows: shadow.report.compared == before + rows, body)
        kind = described(app)["kinds"][OF_LABELS]
        assert (kind["flipped"], kind["alarms"], shadow.dropped) == (0, [], 0)
        page = get(app.port, "/metrics")[1].decode()
        assert 'classifier_drift_detected{ModelName="hate",distribution="flips"} 0.0' in page
        assert_alerts_and_dashboard_read_what_is_there(page)


def assert_alerts_and_dashboard_read_what_is_there(page: str) -> None:
    shown = (MONITORING / "alerts.yml").read_text() + (MONITORING / "dashboard.json").read_text()
    read = set(re.findall(r"classifier_shadow_\w+", shown))
    assert {"classifier_shadow_up", "classifier_shadow_flips"} <= read
    assert not [name for name in read if f"# TYPE {name} " not in page]


def test_a_shadow_that_dies_is_reported_and_nothing_else_happens(
    model: Model, service: Service, counted: Counters, texts: list[str]
) -> None:
    with shadowed(model, service, counted, model.artifact) as (app, shadow):
        (worker,) = (
            each for each in psutil.Process().children() if "deploy.app.shadow_worker" in each.cmdline()
        )
        assert Path(f"/proc/{worker.pid}/oom_score_adj").read_text().strip() == "1000"
        worker.send_signal(signal.SIGSTOP)  # it hangs: what it cannot take is dropped
        for _ in range(4):
            assert ask_json(app.port, PREDICT, {"texts": texts})[0] == 200
        assert shadow.dropped > 0
        assert counter(app.port, "classifier_shadow_dropped") == shadow.dropped
        worker.kill()
        wait_until(lambda: not shadow.is_up)
        assert ask_json(app.port, PREDICT, {"texts": texts})[0] == 200
        assert counter(app.port, "classifier_shadow_up") == 0
        assert not described(app)["is_up"]
        assert get(app.port, "/ready")[0] == 200


def test_its_process_leaves_the_cpus_to_others() -> None:
    code = "import os; from deploy.app.shadow_worker import step_back; step_back(); print(os.nice(0))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout == "19\n"


def test_what_waits_is_bounded_in_number_and_size_and_the_share_is_kept(model: Model) -> None:
    answer = {"label": "hate"}
    number, size = (Shadow(model.artifact, model.artifact, 1.0, 0.05) for _ in range(2))
    for _ in range(MOST_TEXTS + 44):
        number.offer("a", None, answer)
    assert number.dropped == 44
    for _ in range(6):
        size.offer("a" * (MOST_CHARACTERS // 4), None, answer)
    assert size.dropped == 2
    drawn = Shadow(model.artifact, model.artifact, 0.1, 0.05)
    drawn._waiting = number._waiting  # full: all that are drawn are dropped
    for _ in range(10_000):
        drawn.offer("a", None, answer)
    assert 850 < drawn.dropped < 1150
    none = Shadow(model.artifact, model.artifact, 0.0, 0.05)
    for _ in range(1000):
        none.offer("a", None, answer)
    assert none.dropped == len(none._waiting) == 0


def test_labels_and_decisions_are_told_apart(model: Model, texts: list[str]) -> None:
    """The shadow's bands let pass what the served one reviews: decisions flip, and labels do not."""
    predictor = Predictor(model.artifact, threads=1)
    pairs = zip(texts, labels(model.artifact, texts), strict=True)
    served = [Offered(text, None, label, "review") for text, label in pairs]
    bands = Bands(act=1.0, review=1.0, confidence=0.95, fitted_on="validation", texts=1, promises=[])
    predictor.artifact = replace(model.artifact, meta=replace(model.artifact.meta, bands=bands))
    comparison = Comparison(predictor, 0.05, decides=True)
    comparison.add(served)
    found = comparison.report()
    assert found.compared == len(texts)
    assert (found.kinds[OF_LABELS].flipped, found.kinds[OF_LABELS].alarms) == (0, [])
    decided = found.kinds[OF_DECISIONS]
    assert (decided.flipped, decided.ways["review -> pass"]) == (len(texts), len(texts))
    assert decided.alarms == [OF_DECISIONS, f"{OF_DECISIONS}: pass -> review"]


def test_flips_within_the_limit_raise_no_alarm_where_as_many_go_back(model: Model, texts: list[str]) -> None:
    """3 % flip: 60 of 1,980, both ways or one."""
    predictor = Predictor(model.artifact, threads=1)
    own = labels(model.artifact, texts)
    of_each = {label: texts[own.index(label)] for label in set(own)}
    one, other = of_each

    def alarms(flips: list[str]) -> list[str]:
        comparison = Comparison(predictor, 0.05, decides=False)
        kept = Offered(of_each[one], None, one, None)
        for flipped in flips:
            served = {one: other, other: one}[flipped]
            comparison.add([Offered(of_each[flipped], None, served, None), *[kept] * 32])
        return comparison.report().kinds[OF_LABELS].alarms

    assert alarms([one, other] * 30) == []
    (alarm,) = alarms([one] * 60)
    assert set(alarm.split(" -> ")) == {one, other}


def test_a_shadow_of_other_labels_is_refused(model: Model, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(model.artifact.folder, other)
    renamed = (other / "artifact.json").read_text().replace('"not-hate"', '"harmless"')
    (other / "artifact.json").write_text(renamed)
    said = refused("deploy", "app", "--artifact", model.artifact.folder, "--shadow", other)
    assert "the shadow has other labels" in said
    assert "there is no" in refused(
        "deploy", "app", "--artifact", model.artifact.folder, "--shadow", tmp_path
    )


def test_the_command_logs_no_text_and_its_shadow_ends_with_it_even_if_killed(
    model: Model, wrong: Artifact, tmp_path: Path
) -> None:
    (port,), log = free_ports(1), tmp_path / "app.log"
    command = [sys.executable, "-m", "deploy", "app", "--artifact", str(model.artifact.folder)]
    command += ["--port", str(port), "--shadow", str(wrong.folder), "--shadow-share", "1", "--threads", "1"]
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)
    try:
        wait_until(lambda: process.poll() is not None or "ready. Try it" in log.read_text())
        wait_until(lambda: counter(port, "classifier_shadow_up") == 1, patience_s=PATIENCE_S)
        assert ask_json(port, PREDICT, {"text": "a red xylophone"})[0] == 200
        wait_until(lambda: counter(port, "classifier_shadow_compared") == 1)
        (worker,) = psutil.Process(process.pid).children()
        assert "xylophone" not in " ".join(worker.cmdline())
        process.kill()
        process.wait()
        wait_until(lambda: not worker.is_running())
    finally:
        process.kill()
    assert "xylophone" not in log.read_text()
    assert "Traceback" not in log.read_text()


def test_a_roll_out_goes_on_only_with_enough_live_texts_of_these_versions_and_no_alarm(
    model: Model, service: Service, counted: Counters, wrong: Artifact, texts: list[str], monkeypatch
) -> None:
    monkeypatch.setattr(rollout_shadow, "LOOK_S", 0.05)
    own, bad = model.artifact.sha256, wrong.sha256
    with shadowed(model, service, counted, model.artifact) as (app, shadow):
        consulted = rollout_shadow.Shadow(f"http://127.0.0.1:{app.port}/", "hate", 0.2)
        with pytest.raises(UserError, match=f"compares other versions.*{own[:12]} and {own[:12]}, not"):
            consulted.consult(own, bad, 0.05)
        with pytest.raises(UserError, match=r"0 of 0 live labels differ \(up to 100.0%"):
            consulted.consult(own, own, 0.05)
        ask_json(app.port, PREDICT, {"texts": texts})
        wait_until(lambda: shadow.report.compared == len(texts))
        found = consulted.consult(own, own, 0.05)
        assert (found["texts"], found["flips"]) == (len(texts), 0)
        assert 0.01 < found["flips_high"] < 0.05
        with pytest.raises(UserError, match="does not show that labels stay"):
            consulted.consult(own, own, 0.01)
    with pytest.raises(UserError, match="the shadow does not answer"):
        consulted.consult(own, own, 0.05)
    with running(model, lambda: service, counted) as app:
        wait_until(lambda: app.batcher.is_ready)
        with pytest.raises(UserError, match="this app has no shadow"):
            rollout_shadow.Shadow(f"http://127.0.0.1:{app.port}", "hate", 0).consult(own, own, 0.05)
    with shadowed(model, service, counted, wrong) as (app, shadow):
        ask_json(app.port, PREDICT, {"texts": texts})
        wait_until(lambda: shadow.report.compared == len(texts))
        with pytest.raises(UserError, match=r"live texts get other labels.*alarm of: flips"):
            rollout_shadow.Shadow(f"http://127.0.0.1:{app.port}", "hate", 60).consult(own, bad, 0.05)


def test_the_usual_limit_is_that_of_drift() -> None:
    parser = argparse.ArgumentParser()
    app_arguments(parser)
    assert parser.parse_args(["--artifact", "any"]).shadow_max_flip == Rule.max_flip


def test_a_rollout_asks_a_shadow_with_its_key(
    model: Model, service: Service, counted: Counters, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    key.write_text("correct-horse-battery\nanother line\n")
    shadow = Shadow(model.artifact, model.artifact, 1.0, max_flip=0.05)
    keys = Keys.of(["correct-horse-battery"], "here")
    with running(model, lambda: service, counted, shadow=shadow, keys=keys) as app:
        wait_until(lambda: app.batcher.is_ready and shadow.is_up, patience_s=PATIENCE_S)
        url = f"http://127.0.0.1:{app.port}"
        rollout_shadow.Shadow(url, "hate", 0, rollout_shadow.read_key(key)).look()
        for given in (None, "another-key-than-that"):
            with pytest.raises(UserError, match=r"the shadow's app wants a key.*--shadow-key"):
                rollout_shadow.Shadow(url, "hate", 0, given).look()
    key.write_text("\ncorrect-horse-battery")
    with pytest.raises(UserError, match="the first line is no key"):
        rollout_shadow.read_key(key)
