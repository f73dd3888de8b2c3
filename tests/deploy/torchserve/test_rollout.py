"""A change of version on real servers: what is as good takes over, what is not goes back by itself."""

import json
import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests

from deploy.__main__ import main
from deploy.app.counters import Counters
from deploy.app.model import Model
from deploy.app.shadow import Shadow
from deploy.torchserve import rollout_shadow
from deploy.torchserve.rollout import Front, Limits, roll_out, table
from deploy.torchserve.rollout_texts import Asked, Sample
from deploy.torchserve.server import CONFIG, private_server
from deploy.tuning.load import Load, closed_loop
from export.archives.package import package
from handler.artifact import Artifact
from handler.errors import UserError
from handler.service import Service
from tests.asking import ask_json, wait_until
from tests.deploy.app.test_application import running
from tests.deploy.nginx import needs_nginx, nginx
from tests.handler.test_self_check import flipped
from training import data

LIMITS = Limits(max_flip=0.05, max_shift=0.05, max_slowdown=5.0, watch_s=0.5)


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return list(data.load("demo").splits["validation"].texts)[:120]


@pytest.fixture(scope="module")
def sample(texts: list[str]) -> Sample:
    return Sample([Asked(text) for text in texts[:100]], [Asked(text) for text in texts[100:]])


def put(artifact: Artifact, store: Path, version: str) -> str:
    """The archive's name in a server's store."""
    name = f"{artifact.name}-{version}.mar"
    package(artifact, store / "new", version=version).rename(store / name)
    return name


def test_the_better_version_takes_over_and_the_wrong_one_goes_back(
    open_server, build_once, wrong, artifact_copy, texts, sample, tmp_path, capsys
) -> None:
    server, store = open_server
    one = Front(server.access, "first")
    good, bad = put(build_once("openvino-int8"), store, "2.0"), put(wrong, store, "3.0")

    config = CONFIG.read_text()
    for place, port in (("inference", server.inference_port), ("management", server.management_port)):
        config = re.sub(rf"(?m)^{place}_address=.*", f"{place}_address=http://127.0.0.1:{port}", config)
    (tmp_path / "config.properties").write_text(config)
    (tmp_path / "texts.txt").write_text("\n".join(texts))
    options = ["--config", str(tmp_path / "config.properties"), "--texts", str(tmp_path / "texts.txt")]
    options += ["--name", "first", "--watch-s", "0.5", "--max-slowdown", "5"]
    capsys.readouterr()  # what building said
    assert main(["rollout", good, *options]) == 0
    said = capsys.readouterr()
    outcome = json.loads(said.out)
    assert outcome["done"]
    assert outcome["servers"][0]["flips_high"] <= 0.05
    assert "1.0 -> 2.0" in said.err
    assert "the scores of the export, to rounding" in outcome["servers"][0]["self_check"]
    assert outcome["servers"][0]["self_check"] in said.err
    assert one.default() == "2.0"
    assert one.versions().keys() == {"2.0"}, "nothing waits for the old one: it is gone"
    assert one.ask(texts[0])[0]["model"]["variant"] == "openvino-int8"

    assert main(["rollout", bad, *options]) == 1
    said = capsys.readouterr()
    assert "of labels differ" in said.err
    assert "the old version stays: version 3.0 is not served" in said.err
    assert one.versions().keys() == {"2.0"}
    assert one.ask(texts[0])[0]["model"]["variant"] == "openvino-int8"

    damaged = put(flipped(artifact_copy, "classifier.weight"), store, "3.5")
    assert main(["rollout", damaged, *options]) == 1
    assert "the old version stays: TorchServe refused" in capsys.readouterr().err
    assert one.versions().keys() == {"2.0"}, "its self-check did not let it load"

    with pytest.raises(UserError, match="TorchServe refused"):
        one.register("nonsense.mar", 1)
    outcome = roll_out([one], "nonsense.mar", sample, LIMITS, 1, keep_old=False)
    assert not outcome["done"]
    assert one.default() == "2.0"


def test_the_alarm_of_a_shadow_on_live_texts_ends_a_roll_out(
    open_server, build_once, wrong, texts, sample
) -> None:
    """Also one that the comparison would let pass: before the new version answers anybody."""
    server, store = open_server
    one = Front(server.access, "first")
    before = one.default()
    known = {each.sha256: each for each in map(build_once, ("fp32", "openvino-int8"))}
    old = known[one.identity(before)]
    (other,) = (each for each in known.values() if each is not old)
    lenient = replace(LIMITS, max_flip=1.0, max_shift=1.0, alpha=0.0)

    def rolled_out(new: Artifact, version: str, limits: Limits) -> dict[str, Any]:
        compared = Shadow(old, new, 1.0, 0.05)
        model = Model(old, name="first")

        def load() -> Service:
            service = model.load(Counters(), threads=1)
            service.observe = compared.offer
            return service

        with running(model, load, shadow=compared) as app:
            wait_until(lambda: app.batcher.is_ready and compared.is_up, patience_s=400)
            ask_json(app.port, "/predictions/first", {"texts": texts})
            wait_until(lambda: compared.report.compared == len(texts))
            asked = rollout_shadow.Shadow(f"http://127.0.0.1:{app.port}", "first", 1)
            return roll_out([one], put(new, store, version), sample, limits, 1, keep_old=False, shadow=asked)

    outcome = rolled_out(wrong, "7.0", lenient)
    assert not outcome["done"]
    assert outcome["why"].startswith("live texts get other labels")
    assert one.default() == before
    assert one.versions().keys() == {before}

    outcome = rolled_out(other, "8.0", replace(LIMITS, max_flip=0.06))
    assert outcome["done"], outcome["why"]
    assert outcome["shadow"]["texts"] == len(texts)
    assert one.versions().keys() == {"8.0"}


@pytest.mark.slow
def test_whatever_goes_wrong_brings_the_old_version_back_on_those_that_were_changed(
    open_server, build_once, texts, sample, monkeypatch
) -> None:
    """A server that is gone when its turn comes, one that breaks while it is watched, and one that cannot be
    set back either."""
    server, store = open_server
    one = Front(server.access, "first")
    before = one.default()
    new = put(build_once("openvino-int8"), store, "4.0")
    failed = UserError("the management API does not answer", remedy="Start the server")

    gone = Front(server.access, "first")
    monkeypatch.setattr(gone, "register", raising(failed))
    outcome = roll_out([one, gone], new, sample, LIMITS, 1, keep_old=False)
    assert not outcome["done"]
    assert outcome["why"].startswith("the management API does not answer")
    assert [row["new"] for row in outcome["servers"]] == ["4.0"], "the first had it already"
    assert (outcome["not_rolled_back"], outcome["left"]) == ([], [])
    assert one.default() == before
    assert one.versions().keys() == {before}

    with monkeypatch.context() as patch:
        patch.setattr("deploy.torchserve.rollout.watch", raising(KeyboardInterrupt()))
        outcome = roll_out([one], new, sample, LIMITS, 1, keep_old=False)
        assert outcome["why"] == "interrupted"
        assert one.default() == before
        assert one.versions().keys() == {before}

        lost, set_default = Front(server.access, "first"), one.set_default
        patch.setattr(lost, "set_default", lambda version: failing(version, before, set_default, failed))
        outcome = roll_out([lost], new, sample, LIMITS, 1, keep_old=False)
    assert [failure["why"] for failure in outcome["not_rolled_back"]] == [str(failed)]
    assert "NOT ROLLED BACK" in table(outcome)
    one.set_default(before)
    one.remove("4.0")


def raising(error: BaseException):
    def stub(*arguments: object) -> None:
        raise error

    return stub


def failing(version: str, old: str, set_default: Callable[[str], None], error: UserError) -> None:
    """As a server that accepts the new version and never the old one again."""
    if version == old:
        raise error
    set_default(version)


def test_a_version_is_removed_when_what_it_was_asked_is_answered(open_server, build_once) -> None:
    """A request of many long texts is in the worker's hands, and in no queue, when its version goes."""
    server, store = open_server
    one = Front(server.access, "first")
    one.register(put(build_once("openvino-int8"), store, "5.0"), 1)
    body = {"texts": ["a long text " * 200] * 128}
    with ThreadPoolExecutor(1) as asking:
        place = f"{one.inference}/predictions/first/5.0"
        asked = asking.submit(requests.post, place, json=body, timeout=60)
        time.sleep(0.05)
        one.remove("5.0")
        assert asked.result().status_code == 200
    assert "5.0" not in one.versions()


def test_so_few_texts_that_they_prove_nothing_are_refused_before_anything_is_touched() -> None:
    with pytest.raises(UserError, match="there are too few texts"):
        roll_out([], "new.mar", Sample([Asked("one")] * 50), LIMITS, 1, keep_old=False)


@pytest.mark.slow
@needs_nginx
def test_three_servers_behind_nginx_change_version_under_load_without_a_failed_request(
    build_once, wrong, texts, sample, tmp_path
) -> None:
    store = tmp_path / "store"
    archive = package(build_once("fp32"), store)
    good, bad = put(build_once("openvino-int8"), store, "2.0"), put(wrong, store, "3.0")
    bodies = [json.dumps({"text": text}).encode() for text in texts]
    loads: list[Load] = []
    with ExitStack() as stack:
        open_api = {"enable_model_api": "true"}
        servers = [stack.enter_context(private_server(archive, settings=open_api)) for _ in range(3)]
        address = stack.enter_context(nginx([server.inference_port for server in servers], tmp_path))
        fronts = [Front(server.access, "hate") for server in servers]
        is_over = threading.Event()

        def ask() -> None:
            while not is_over.is_set():
                loads.append(closed_loop(f"{address}/predictions/hate", bodies, 8, 1.0, 0.0))

        asking = threading.Thread(target=ask)
        asking.start()
        try:
            limits = replace(LIMITS, max_slowdown=20.0, watch_s=2.0)  # under load on shared cores
            first = roll_out(fronts, good, sample, limits, 1, keep_old=False)
            second = roll_out(fronts, bad, sample, limits, 1, keep_old=False)
        finally:
            is_over.set()
            asking.join()
        assert first["done"], first["why"]
        assert not second["done"]
        assert [front.versions().keys() for front in fronts] == [{"2.0"}] * 3
    answered = sum(len(load.latencies_ms) for load in loads)
    errors = [load.errors for load in loads if load.errors]
    print(f"{answered} answers during both rollouts, errors: {errors}")
    assert answered > 100
    assert not errors
