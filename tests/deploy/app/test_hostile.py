"""Whatever a well-formed request holds, nothing breaks: no 500, no 503, and every valid row is answered."""

import json
import re
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from deploy.torchserve.server import Server
from handler.artifact import Artifact
from handler.predictor import Predictor
from tests.asking import ask
from tests.deploy.hostile import REQUEST, Sent

AT_ONCE = 40
EXPECTED = {200, 400, 413, 415, 422}

LATE = re.compile(rb'"code": ?429')


def send_until_explained(server: Server, sent: Sent) -> tuple[int, bytes]:
    """Where others cannot wait for an explanation, its row is a 429, which is no matter of content."""
    while LATE.search((answered := ask(server.inference_port, sent.path, sent.body, sent.content_type))[1]):
        time.sleep(0.1)
    return answered


def hold(served: tuple[Server, Artifact], predictor: Predictor, requests: list[Sent]) -> None:
    """Send all at once, so that they share batches; hold every answer to its request."""
    server, artifact = served
    bound = artifact.meta.check.batch_mate_diff + 2e-6
    with ThreadPoolExecutor(AT_ONCE) as clients:
        answers = list(clients.map(lambda sent: send_until_explained(server, sent), requests))
    for sent, (status, content) in zip(requests, answers, strict=True):
        assert status in EXPECTED, (sent, status, content, server.log.read_text()[-3000:])
        answer = json.loads(content)
        if sent.texts is None:
            continue
        assert status == 200, (sent, content)
        rows = answer.get("predictions", answer) if isinstance(answer, dict) else answer
        rows = rows if isinstance(rows, list) else [rows]
        # In JSON a high and a low surrogate in a row are one character.
        texts = json.loads(json.dumps(sent.texts))
        for row, prediction in zip(rows, predictor.predict(texts), strict=True):
            assert row["scores"]["hate"] == pytest.approx(prediction.scores[1], abs=bound), sent


@pytest.fixture(scope="module")
def predictor(served: tuple[Server, Artifact]) -> Predictor:
    return Predictor(served[1])


def generated(count: int) -> list[Sent]:
    """`count` requests, the same in every run."""
    found: list[Sent] = []

    @settings(
        max_examples=count,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(REQUEST)
    def collect(request: Sent) -> None:
        found.append(request)

    collect()
    assert len(found) >= count
    return found


def test_no_content_breaks_the_server_or_another_request(
    served: tuple[Server, Artifact], predictor: Predictor
) -> None:
    hold(served, predictor, generated(400))


@pytest.mark.slow
def test_ten_thousand_requests_break_nothing(served: tuple[Server, Artifact], predictor: Predictor) -> None:
    hold(served, predictor, generated(10_000))
