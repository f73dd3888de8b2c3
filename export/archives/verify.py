"""Check on a real server that an archive serves the artifact that it holds.

The artifact inside is unpacked and its checksums are verified. A private TorchServe on free ports then
answers texts of many lengths; its scores must be those of the Predictor in process.
"""

import json
import tempfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common import signing
from common.proxies import open_url
from common.torchserve import model_config
from deploy.torchserve.server import private_server
from handler.artifact import archived_artifact, unpacked
from handler.errors import UserError
from handler.predictor import Predictor
from handler.self_check import Outcome, Tolerance

# Of every length up to beyond the usual maximum, with what tokenizers trip over.
TEXTS = [
    *("word " * count for count in (1, 2, 5, 9, 14, 22, 30, 45, 60, 90, 130, 600)),
    "Ünïcödé, 漢字 and العربية",
    "👩‍👩‍👧 e\u0301 \u200b \u202eright to left",
    "UPPER lower 12345 http://example.org @user #tag",
    "a\x00b",
]
# Both sides run the same shapes on one machine; what remains is the order of sums among threads.
BOUND = 1e-4


@dataclass(frozen=True)
class Verdict:
    """Largest difference of a score between server and process, and what the check allows; and what the
    artifact's self-check says of this machine."""

    variant: str
    texts: int
    max_diff: float
    bound: float
    self_check: Outcome

    @property
    def same(self) -> bool:
        return self.max_diff <= self.bound


def verify(archive: Path, trusted_key: Path | None = None) -> Verdict:
    """Boot a private server on `archive`, ask it, compare.

    Raises `UserError` when a `trusted_key` did not sign the archive, or when it is not ours, damaged, does
    not load, or gives other scores here than at its export.
    """
    signing.verify(archive, trusted_key)
    labels = archived_artifact(archive).labels
    with tempfile.TemporaryDirectory(prefix="verify-") as scratch:
        artifact = unpacked(archive, Path(scratch))
        predictor = Predictor(artifact, tolerance=Tolerance.of(model_config(archive).get("handler")))
        expected = np.array([prediction.scores for prediction in predictor.predict(TEXTS)])
    with private_server(archive) as server:
        answers = _ask(server.predictions, archive)
    served = np.array([[answer["scores"][label] for label in labels] for answer in answers])
    difference = float(np.abs(served - expected).max())
    return Verdict(artifact.name, len(TEXTS), difference, BOUND, predictor.self_check)


def _ask(url: str, archive: Path) -> list[dict[str, Any]]:
    """Answers to `TEXTS`, asked in one request: the same plan as in process, so the same scores."""
    body = json.dumps({"texts": TEXTS}).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    try:
        with open_url(request, 60) as response:
            answers: list[dict[str, Any]] = json.load(response)["predictions"]
        if any("scores" not in answer for answer in answers):
            raise KeyError("scores")
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            "the archive's answers are not in this project's format",
            seen=archive,
            remedy="Build it: python -m export package",
        ) from error
    return answers
