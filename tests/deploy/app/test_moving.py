"""docs/moving.md: what it says of TorchServe and of the app is asked of both."""

import argparse
import http.client
import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest

from common.torchserve import read_config
from deploy.app.command import app_arguments
from deploy.app.connections import HEAD_S, Bounds
from deploy.app.counters import Counters
from deploy.app.model import Model
from deploy.torchserve.server import Server
from handler.artifact import Artifact
from handler.service import Service
from tests.asking import GOOD, JSON, PREDICT, ask, get, wait_until
from tests.conftest import ROOT
from tests.deploy.app.test_application import App, running

PAGE = (ROOT / "docs" / "moving.md").read_text()
Check = Callable[[Server, App], None]
ASKED: dict[str, Check] = {}
# Differences that other tests show, of TorchServe and of the app.
ELSEWHERE = {
    "default-version": (
        "deploy/torchserve/test_rollout.py::test_the_better_version_takes_over_and_the_wrong_one_goes_back",
        "deploy/app/test_models.py::"
        "test_a_model_is_found_by_its_name_and_version_and_without_one_in_its_latest",
    ),
    "rollout": (
        "deploy/torchserve/test_rollout.py::test_the_alarm_of_a_shadow_on_live_texts_ends_a_roll_out",
        "deploy/app/test_reload.py::test_the_command_serves_several_and_reloads_on_sighup",
    ),
    "forms": (
        "deploy/app/test_application.py::test_where_torchserve_decides_the_app_keeps_to_the_schema_of_errors",
    ),
    "retry": (
        "deploy/app/test_application.py::"
        "test_what_the_queue_cannot_hold_is_refused_at_once_and_the_accepted_are_answered",
    ),
    "tokens": (
        "deploy/torchserve/test_production.py::test_requests_over_tls_are_answered_with_the_token_alone",
        "deploy/app/test_keys.py::test_anything_else_opens_none",
        "deploy/app/test_keys.py::test_load_balancers_need_no_key",
    ),
    "tls": (
        "deploy/torchserve/test_production.py::test_no_old_cipher_suite_is_left_and_clear_text_is_refused",
        "deploy/app/test_tls.py::test_tls_1_2_and_later_is_spoken",
    ),
    "grpc": (
        "deploy/torchserve/test_protocols.py::test_grpc_takes_the_same_json",
        "deploy/app/test_rpc.py::test_what_cannot_be_answered_has_a_status",
    ),
    "stopping": ("deploy/app/test_application.py::test_a_server_that_stops_answers_what_it_accepted",),
    "mismatch": (
        "deploy/app/test_application.py::"
        "test_a_model_whose_scores_are_others_is_refused_or_served_with_a_warning",
    ),
}


def difference(name: str) -> Callable[[Check], Check]:
    def keep(check: Check) -> Check:
        ASKED[name] = check
        return check

    return keep


@pytest.fixture(scope="module")
def app(model: Model, service: Service, counted: Counters) -> Iterator[App]:
    with running(model, lambda: service, counted) as found:
        wait_until(lambda: found.batcher.is_ready)
        yield found


def get_json(port: int, path: str) -> Any:
    status, content = get(port, path)
    assert status == 200, content
    return json.loads(content)


def parsed() -> argparse.ArgumentParser:
    """What reads the app's command line."""
    parser = argparse.ArgumentParser()
    app_arguments(parser)
    return parser


def rows() -> list[str]:
    """The names of differences on the page."""
    return re.findall(r"^\| `([a-z0-9-]+)` \|", PAGE, re.MULTILINE)


def test_the_page_names_every_difference_that_is_asked_for_and_no_other() -> None:
    assert len(set(rows())) == len(rows())
    assert set(rows()) == ASKED.keys() | ELSEWHERE.keys()
    assert not ASKED.keys() & ELSEWHERE.keys()


def test_the_tests_elsewhere_are_there() -> None:
    for test in [test for tests in ELSEWHERE.values() for test in tests]:
        file, name = test.split("::")
        assert f"def {name}(" in (ROOT / "tests" / file).read_text(), test


def test_settings_and_flags_of_the_page_are_there() -> None:
    flags = set(re.findall(r"--[a-z][a-z0-9-]+", PAGE))
    assert flags <= parsed()._option_string_actions.keys()
    named = re.findall(r"^\| ((?:`[a-z_]+`(?:, )?)+) \| (?:`--|2 MiB)", PAGE, re.MULTILINE)
    keys = {key for row in named for key in re.findall("[a-z_]+", row)}
    known = read_config(ROOT / "deploy" / "production.properties").values.keys()
    # TorchServe's own, which need not be set.
    assert keys - known == {"grpc_inference_port", "default_workers_per_model", "load_models"}


@difference("ports")
def _(theirs: Server, ours: App) -> None:
    assert get(theirs.inference_port, "/metrics")[0] == get(theirs.inference_port, "/models")[0] == 404
    assert get(theirs.metrics_port, "/metrics")[0] == get(theirs.management_port, "/models")[0] == 200
    assert get(ours.port, "/metrics")[0] == get(ours.port, "/models")[0] == 200


@difference("health")
def _(theirs: Server, ours: App) -> None:
    healthy = {"status": "Healthy"}
    assert get_json(theirs.inference_port, "/ping") == get_json(ours.port, "/ping") == healthy
    assert get(theirs.inference_port, "/ready")[0] == 404
    assert get(ours.port, "/ready")[0] == 200


@difference("list")
def _(theirs: Server, ours: App) -> None:
    (of_theirs,) = get_json(theirs.management_port, "/models")["models"]
    (of_ours,) = get_json(ours.port, "/models")["models"]
    assert of_theirs.keys() == {"modelName", "modelUrl"}
    assert of_ours.keys() - of_theirs.keys() == {"modelVersion", "variant", "status"}


@difference("describe")
def _(theirs: Server, ours: App) -> None:
    (plain,) = get_json(theirs.management_port, "/models/hate")
    (customized,) = get_json(theirs.management_port, "/models/hate?customized=true")
    assert "workers" in plain
    assert "artifact_sha256" not in json.dumps(plain)
    described = get_json(ours.port, "/models/hate")
    assert customized["customizedMetadata"]["artifact_sha256"] == described["artifact_sha256"]


@difference("manage")
def _(theirs: Server, ours: App) -> None:
    asked = ("/models/hate?min_worker=1&max_worker=1", None, "", "PUT")
    assert ask(theirs.management_port, *asked)[0] in (200, 202)
    for method in ("PUT", "POST", "DELETE"):
        assert ask(ours.port, "/models/hate", None, "", method)[0] == 405
    assert ask(ours.port, "/models?url=hate.mar", None, "", "POST")[0] == 405


@difference("metrics")
def _(theirs: Server, ours: App) -> None:
    for port in (theirs.inference_port, ours.port):
        assert ask(port)[0] == 200
    wait_until(lambda: b"classifier_texts{" in get(theirs.metrics_port, "/metrics")[1])
    there, here = (get(port, "/metrics")[1].decode() for port in (theirs.metrics_port, ours.port))
    assert "ts_queue_latency_microseconds{" in there
    assert not re.search(r"^ts_", here, re.MULTILINE)
    assert "classifier_waiting_requests{" in here
    assert "# TYPE classifier_reloads " in here
    assert "Requests2XX{" in there
    assert "Requests2XX" not in here
    for page in (there, here):
        assert re.search(r'^classifier_texts\{[^}]*ModelName="hate"', page, re.MULTILINE)


@difference("errors")
def _(theirs: Server, ours: App) -> None:
    there, here = (ask(port, "/predictions/nope") for port in (theirs.inference_port, ours.port))
    assert there[0] == here[0] == 404
    assert json.loads(there[1]).keys() == {"code", "type", "message"}
    assert json.loads(here[1])["error"].keys() >= {"code", "field", "message", "remedy"}


@difference("paths")
def _(theirs: Server, ours: App) -> None:
    assert ask(theirs.inference_port, PREDICT + "/")[0] == 200
    assert ask(ours.port, PREDICT + "/")[0] == 404


@difference("get")
def _(theirs: Server, ours: App) -> None:
    assert get(theirs.inference_port, PREDICT + "?text=good+day")[0] == 422
    assert get(ours.port, PREDICT + "?text=good+day")[0] == 405


@difference("openapi")
def _(theirs: Server, ours: App) -> None:
    status, content = ask(theirs.inference_port, "/", None, "", "OPTIONS")
    assert (status, "openapi" in json.loads(content)) == (200, True)
    assert ask(ours.port, "/", None, "", "OPTIONS")[0] == 405
    assert "openapi" in get_json(ours.port, "/openapi.json")


@difference("request-id")
def _(theirs: Server, ours: App) -> None:
    for port, has_one in ((theirs.inference_port, True), (ours.port, False)):
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
            connection.request("POST", PREDICT, GOOD, {"Content-Type": JSON})
            assert (connection.getresponse().getheader("x-request-id") is not None) == has_one


@difference("v2")
def _(theirs: Server, ours: App) -> None:
    there, here = (
        ask(port, "/v2/models/hate/infer", b'{"inputs": 3}') for port in (theirs.inference_port, ours.port)
    )
    assert there[0] == here[0]
    assert json.loads(there[1])["error"].keys() >= {"code", "field", "message"}
    assert isinstance(json.loads(here[1])["error"], str)


@difference("slow-clients")
def _(theirs: Server, ours: App) -> None:
    with ExitStack() as stack:
        there, here = (
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=HEAD_S + 20))
            for port in (theirs.inference_port, ours.port)
        )
        for client in (there, here):
            client.sendall(f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\n".encode())
        assert here.recv(100).startswith(b"HTTP/1.1 408 ")
        there.settimeout(1)
        with pytest.raises(TimeoutError):
            there.recv(100)


@difference("connections")
def _(theirs: Server, ours: App) -> None:
    bound = Bounds().per_client
    for port, most in ((theirs.inference_port, bound + 40), (ours.port, bound)):
        with ExitStack() as stack:
            held = [
                stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(bound + 40)
            ]
            time.sleep(1)
            assert sum(is_open(client) for client in held) == most


def is_open(client: socket.socket) -> bool:
    client.setblocking(False)
    try:
        return client.recv(1) != b""
    except BlockingIOError:
        return True
    except ConnectionError:
        return False


@difference("workers")
def _(theirs: Server, ours: App) -> None:
    assert len(theirs.workers()) == 1, "and the Java process that started it"
    assert theirs.workers()[0].pid != theirs.pid
    assert parsed().get_default("workers") == 1


@difference("logs")
def _(theirs: Server, ours: App) -> None:
    assert list((theirs.log.parent / "logs").glob("*.log"))
    assert not list(ROOT.glob("logs/app*"))


@pytest.mark.parametrize("name", ASKED)
def test_the_difference_is_there(served: tuple[Server, Artifact], app: App, name: str) -> None:
    ASKED[name](served[0], app)
