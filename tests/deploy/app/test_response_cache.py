"""The app with a cache: equal texts in flight are computed once, and the metrics say what was saved."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from deploy.app.batcher import Batching
from deploy.app.counters import Counters
from deploy.app.model import Model
from deploy.torchserve.server import free_ports
from export.archives.package import package
from handler.service import Service
from tests.asking import PREDICT, ask, counter, get, wait_until
from tests.conftest import ROOT
from tests.deploy.app.test_application import running

TEXTS = [f"text number {number}" for number in range(5)]


@pytest.fixture(scope="module")
def cached(model: Model, counted: Counters) -> Service:
    return model.load(counted, cached=4)


def test_requests_in_flight_with_one_text_ask_the_model_once(
    model: Model, counted: Counters, cached: Service, service: Service
) -> None:
    with running(model, lambda: service) as app:
        status, plain = ask(app.port, PREDICT, json.dumps({"text": TEXTS[0]}))
    assert status == 200
    counters = ("texts", "cached", "windows", "requests")
    with running(model, lambda: cached, counted, Batching(delay_s=0.05)) as app:
        before = [app.counted(f"classifier_{name}") for name in counters]
        with ThreadPoolExecutor(16) as clients:
            answers = list(
                clients.map(lambda _: ask(app.port, PREDICT, json.dumps({"text": TEXTS[0]})), range(64))
            )
        assert set(answers) == {(200, plain)}, "byte for byte those without a cache"
        counts = [app.counted(f"classifier_{name}") - old for name, old in zip(counters, before, strict=True)]
        assert counts == [64, 63, 64, 64]
        for text in TEXTS:
            ask(app.port, PREDICT, json.dumps({"text": text}))
        assert app.counted("classifier_cached_texts") == 4, "which is the most"
        description = json.loads(get(app.port, "/models/hate")[1])
        assert description["limits"]["max_cached"] == 4
        page = get(app.port, "/metrics")[1].decode()
        assert "text number" not in page


def test_each_load_begins_with_an_empty_cache_of_its_own(model: Model, cached: Service) -> None:
    again = model.load(Counters(), cached=4)
    assert len(again.cached) == 0
    assert again.cached.cache.key("a", None) != cached.cached.cache.key("a", None)


def test_a_flag_goes_before_the_archives_setting_and_none_is_off(model: Model) -> None:
    archive = Model(model.artifact, settings={"handler": {"maxCached": 7}})
    assert archive.load(Counters()).limits.max_cached == 7
    assert archive.load(Counters(), cached=0).limits.max_cached == 0
    assert model.load(Counters()).cached.cache is None


def test_the_command_serves_an_archive_with_a_cache(model: Model, tmp_path: Path) -> None:
    (port,), log = free_ports(1), tmp_path / "app.log"
    archive = package(model.artifact, tmp_path)
    command = [
        sys.executable,
        "-m",
        "deploy",
        "app",
        "--archive",
        archive,
        "--cache",
        "9",
        "--port",
        str(port),
    ]
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)
    try:
        wait_until(lambda: process.poll() is not None or f"127.0.0.1:{port}/predict" in log.read_text())
        assert ask(port, PREDICT) == ask(port, PREDICT)
        assert counter(port, "classifier_cached") == 1
    finally:
        process.kill()
        process.wait()
