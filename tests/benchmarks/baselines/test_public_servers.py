"""Servers that others would pick: those that are installed answer rightly, of others it is said why not."""

import json
from pathlib import Path

import pytest

from benchmarks.baselines.environments import Environment
from benchmarks.baselines.handlers import served_model
from benchmarks.baselines.handlers.served_model import CONSTANT, PIPELINE, PREDICTOR
from benchmarks.baselines.public_servers import (
    PUBLIC_SERVERS,
    ask,
    environment_of,
    serve_public,
    tree,
)
from benchmarks.baselines.servers import all_servers
from common.options import BUILD
from handler.errors import UserError
from handler.predictor import Predictor
from tests.conftest import ROOT

INSTALLED = ROOT / BUILD / "baselines"
TEXTS = ["I made soup for my new neighbours today", "they are all thieves", "what a day", "a soup"]


def test_each_is_known_by_its_documentation_and_is_a_row_of_every_run(tmp_path: Path) -> None:
    rows = all_servers(tmp_path)
    assert list(rows)[2:] == list(PUBLIC_SERVERS)
    assert len(PUBLIC_SERVERS) == 7
    for server in PUBLIC_SERVERS.values():
        assert server.documentation.startswith("https://")
        assert rows[server.name].lacks() == "not installed: make install-servers"


@pytest.mark.parametrize("name", PUBLIC_SERVERS)
def test_a_request_has_its_text_whatever_is_in_it(name: str) -> None:
    text = 'a "quoted"\n漢 text'
    (body,) = PUBLIC_SERVERS[name].bodies([text])
    assert text in strings(json.loads(body))


def strings(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [found for part in parts for found in strings(part)]


def test_an_answer_is_read_from_each_kind_of_response() -> None:
    row = {"label": "b", "score": 0.9}
    output = {"outputs": [{"data": [json.dumps(row)]}]}
    responses = {"bentoml": [row], "mlserver": output, "triton": output}
    responses["infinity"] = {"data": [[{"label": "a", "score": 0.1}, row]]}
    for name, server in PUBLIC_SERVERS.items():
        assert server.answer(responses.get(name, row)) == row


def test_a_server_that_ends_at_once_says_its_last_line(tmp_path: Path) -> None:
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text("#!/bin/sh\necho the port is taken\nexit 3\n")
    python.chmod(0o755)
    server = PUBLIC_SERVERS["litserve"]
    environment = Environment(tmp_path)
    started = serve_public(server, environment, CONSTANT, tmp_path)
    with pytest.raises(UserError, match="litserve did not start: the port is taken"), started:
        pass


@pytest.mark.server
@pytest.mark.slow
@pytest.mark.parametrize("model", [PIPELINE, PREDICTOR, CONSTANT])
@pytest.mark.parametrize("name", PUBLIC_SERVERS)
def test_a_server_gives_the_answers_of_its_model(
    name: str, model: str, build_once, checkpoint_folder
) -> None:
    """Real servers where `make install-servers` made their environments; elsewhere the reason."""
    server = PUBLIC_SERVERS[name]
    environment = environment_of(server, INSTALLED)
    if environment.lacks:
        assert len(environment.lacks) > 10
        return
    folder = checkpoint_folder if model == PIPELINE else build_once("onnx-int8").folder
    expected = served_model.model_of(model, folder)(TEXTS)
    with serve_public(server, environment, model, folder) as running:
        found = [server.answer(ask(running.predictions, body)) for body in server.bodies(TEXTS)]
        processes = tree(running.worker)
    assert [answer["label"] for answer in found] == [answer["label"] for answer in expected]
    assert [answer["score"] for answer in found] == pytest.approx(
        [answer["score"] for answer in expected], abs=0.02
    )
    assert not [process for process in processes if process.is_running()], "nothing is left behind"


def test_a_predictor_behind_another_server_answers_as_in_process(build_once) -> None:
    artifact = build_once("onnx-int8")
    predictor = Predictor.load(artifact.folder)
    expected = [predictor.answer(prediction) for prediction in predictor.predict(TEXTS)]
    assert served_model.model_of(PREDICTOR, artifact.folder)(TEXTS) == expected
