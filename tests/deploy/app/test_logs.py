"""Logs for machines: every line of the app's output is an object, one for each request, without texts."""

import io
import json
import re
import signal
import subprocess
import sys
from contextlib import redirect_stderr

import pytest

from common.commands import say
from deploy.app.logs import JsonLines, logging_as
from deploy.app.model import Model
from deploy.app.timing import PHASES
from deploy.torchserve.server import free_ports
from handler.replies import report
from tests.asking import PREDICT, ask, get, wait_until
from tests.conftest import ROOT

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SECRET = "correct-horse-battery"


def objects(text: str) -> list[dict]:
    found = [json.loads(line) for line in text.splitlines()]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]{12}\+00:00", each["time"]) for each in found)
    return found


def test_whatever_is_printed_is_one_object() -> None:
    stream = io.StringIO()
    with redirect_stderr(stream), logging_as("json"):
        say("ready. Try it:\n  curl")
        try:
            raise ValueError(SECRET)
        except ValueError as error:
            report(error)
        print("in ", "parts", sep="", file=sys.stderr)
    said = [each["message"] for each in objects(stream.getvalue())]
    assert said[0] == "ready. Try it:\n  curl"
    assert said[1].startswith("the classifier failed: ValueError\n")
    assert said[2:] == ["in parts"]
    assert SECRET not in stream.getvalue()


def test_the_default_leaves_the_output_as_it_is() -> None:
    stream = io.StringIO()
    with redirect_stderr(stream), logging_as("text") as requests:
        say("ready")
        assert requests is None
        assert not isinstance(sys.stderr, JsonLines)
    assert stream.getvalue() == "ready\n"


@pytest.fixture(scope="module")
def lines(model: Model) -> list[dict]:
    """Of an app from its start to its end, which was asked a few things."""
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "deploy", "app", "--artifact", model.artifact.folder, "--port", port]
    command += ["--log-format", "json", "--threads", "1", "--batch-delay-ms", "0"]
    process = subprocess.Popen(list(map(str, command)), cwd=ROOT, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        read = [process.stderr.readline()]
        while "ready. Try it" not in read[-1]:
            read.append(process.stderr.readline())
            assert read[-1], read
        wait_until(lambda: get(port, "/ready")[0] == 200)
        headers = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01", "Authorization": f"Bearer {SECRET}"}
        ask(port, PREDICT + "?text=zebra", json.dumps({"texts": ["zebra", "a zebra"]}), **headers)
        ask(port, PREDICT, '{"zebra": 1}', **{"User-Agent": "zebra"})
        ask(port, "/zebra", "zebra")
        ask(port, "/predictions/zebra", "zebra")
    finally:
        process.send_signal(signal.SIGTERM)
        _, rest = process.communicate(timeout=60)
    return objects("".join(read) + rest)


def test_a_request_has_its_line(lines: list[dict]) -> None:
    asked, malformed, nowhere, unknown = [each for each in lines if each.get("method") == "POST"]
    assert asked["message"] == "request"
    assert (asked["path"], asked["status"], asked["texts"]) == ("/predictions/{name}", 200, 2)
    assert (asked["model"], asked["version"], asked["trace_id"]) == ("hate", "1.0", TRACE)
    assert list(asked["phases_ms"]) == list(PHASES)
    assert sum(asked["phases_ms"].values()) == pytest.approx(asked["ms"], abs=0.01)
    assert (malformed["status"], malformed["trace_id"]) == (422, None)
    assert (nowhere["path"], nowhere["status"], nowhere["model"]) == (None, 404, None)
    assert (unknown["path"], unknown["status"], unknown["model"]) == ("/predictions/{name}", 404, None)
    assert unknown["phases_ms"] == {}


def test_nothing_that_a_client_chose_is_logged(lines: list[dict]) -> None:
    written = json.dumps(lines)
    assert len(lines) >= 6
    assert "zebra" not in written
    assert SECRET not in written
