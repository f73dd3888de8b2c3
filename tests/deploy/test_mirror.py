"""nginx as configured copies a share of requests to an app with a shadow; clients depend on neither."""

import http.client
import json
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from deploy.app.counters import Counters
from deploy.app.model import Model
from deploy.app.shadow import Shadow
from deploy.torchserve.server import free_ports
from handler.service import Service
from tests.asking import JSON, PREDICT, ask, wait_until
from tests.deploy.app.test_application import App, running
from tests.deploy.nginx import needs_nginx, nginx

pytestmark = [needs_nginx, pytest.mark.server]

ON = {"#mirror /mirror;": "mirror /mirror;"}
ALL = ON | {"10%     drawn": "100%    drawn"}
BODY = json.dumps({"texts": ["good day", "they hate"]}).encode()


@pytest.fixture(scope="module")
def model(build_once) -> Model:
    return Model(build_once("fp32"))


@pytest.fixture(scope="module")
def service(model: Model) -> Service:
    return model.load(Counters(), threads=1)


@pytest.fixture(scope="module")
def served(model: Model, service: Service) -> Iterator[App]:
    with running(model, lambda: service) as app:
        wait_until(lambda: app.batcher.is_ready)
        yield app


def mirrored_to(port: int, changes: dict[str, str]) -> dict[str, str]:
    return changes | {"127.0.0.1:8380": f"127.0.0.1:{port}"}


def test_requests_are_compared_but_not_explanations(
    served: App, model: Model, service: Service, wrong, tmp_path: Path
) -> None:
    direct = ask(served.port, PREDICT, BODY)
    shadow = Shadow(model.artifact, wrong, 1.0, 0.05)
    own = model.load(Counters(), threads=1)
    own.observe = shadow.offer
    with running(model, lambda: own, shadow=shadow) as app:
        wait_until(lambda: app.batcher.is_ready and shadow.is_up, patience_s=400)
        with nginx([served.port] * 3, tmp_path, mirrored_to(app.port, ALL)) as address:
            port = int(address.rpartition(":")[2])
            assert [ask(port, PREDICT, BODY) for _ in range(50)] == [direct] * 50
            wait_until(lambda: shadow.report.compared == 100)
            assert ask(port, "/explanations/hate", b'{"text": "good day"}')[0] == 200
            assert ask(port, "/v1/models/hate:predict", b'{"instances": ["good day"]}', JSON)[0] == 200
            wait_until(lambda: shadow.report.compared == 101)
            assert shadow.report.kinds["flips"].alarms
        with nginx([served.port] * 3, tmp_path, mirrored_to(app.port, ON)) as address:
            port = int(address.rpartition(":")[2])
            for _ in range(1000):
                assert ask(port, PREDICT, BODY) == direct
            time.sleep(1)
            assert 120 < shadow.report.compared + shadow.dropped - 101 < 290, "of 2,000 texts"


def test_a_mirror_that_is_gone_or_hangs_costs_no_answer_and_little_time(served: App, tmp_path: Path) -> None:
    direct = ask(served.port, PREDICT, BODY)
    (free,) = free_ports(1)
    with nginx([served.port] * 3, tmp_path, mirrored_to(free, ALL)) as address:
        assert [ask(int(address.rpartition(":")[2]), PREDICT, BODY) for _ in range(20)] == [direct] * 20
    with socket.create_server(("127.0.0.1", 0)) as hanging:  # takes connections and says nothing
        changes = mirrored_to(hanging.getsockname()[1], ALL)
        with nginx([served.port] * 3, tmp_path, changes) as address:
            port = int(address.rpartition(":")[2])
            with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
                begun = time.monotonic()
                for _ in range(20):
                    connection.request("POST", PREDICT, BODY, {"Content-Type": JSON})
                    assert connection.getresponse().read() == direct[1]
                assert time.monotonic() - begun < 20 * 0.5, "50 ms and the answer, for each"
