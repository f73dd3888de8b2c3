"""The one test of `make test` that starts a server: from training to an answer of TorchServe."""

from pathlib import Path

import pytest
import requests

from deploy.torchserve.server import private_server
from export.archives.package import package
from handler.predictor import Predictor


def test_what_was_trained_exported_and_packaged_is_served(build_once, tmp_path: Path) -> None:
    artifact = build_once("openvino-int8")
    with private_server(package(artifact, tmp_path)) as server:
        answer = requests.post(server.predictions, json={"text": "good day"}, timeout=60).json()
    predictor = Predictor(artifact)
    expected = predictor.answer(predictor.predict(["good day"])[0])
    assert answer["label"] == expected["label"]
    assert answer["scores"]["hate"] == pytest.approx(expected["scores"]["hate"], abs=2e-6)
