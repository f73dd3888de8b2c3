"""The same variant as a client meets it: through TorchServe, from its archive, on this machine.

Covers a real server per variant (booted, loaded, stopped), closed-loop load with one real text per
request, and labelled texts once more through `/predictions`, in the very lists that were scored in process:
their scores must be the same, or the archive does not serve the artifact that was measured.
Leaves out tuning the server, arrivals that do not wait for answers, and the network: client and server
share the cores.
"""

import json
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.latency import LEAST_SAMPLES, percentile
from benchmarks.load import Load, closed_loop
from benchmarks.profiles import Profile
from benchmarks.progress import Step
from benchmarks.quality import Scores, in_lists, spread
from deploy.server import private_server
from handler.artifact import Artifact, archived_artifact
from handler.errors import UserError
from training.splits import Split

# Served scores have six decimals; two roundings of nearly the same number may be one unit apart.
ROUNDING = 1e-6 + 1e-9


def check_archive(archive: Path, artifact: Artifact) -> None:
    """Raises `UserError` unless `archive` holds exactly `artifact`."""
    if archived_artifact(archive).sha256 != artifact.sha256:
        raise UserError(
            f"the archive is stale: it does not hold what stands in {artifact.folder}",
            seen=archive,
            remedy="Build it again: make package; or measure in process alone: --no-serve",
        )


class Served:
    """What was measured of one variant behind the server; passes add up, `record` makes the report of it."""

    def __init__(self) -> None:
        self.loads: dict[int, list[Load]] = {}
        self.scores: Scores = {}
        self.ready_s: list[float] = []
        self.error: str | None = None

    def record(self) -> list[dict[str, Any]]:
        """The report's `served` list: one entry per concurrency, all passes together."""
        return [describe(loads) for _, loads in sorted(self.loads.items())]


def measure_served(
    archives: Mapping[str, Path],
    artifacts: Mapping[str, Artifact],
    texts: Sequence[str],
    splits: Mapping[str, Split],
    profile: Profile,
    step: Step,
) -> dict[str, Served]:
    """Every archive in turn, `profile.passes` times round robin. What fails is recorded, others go on."""
    bodies = [json.dumps({"text": text}).encode() for text in texts]
    measured = {name: Served() for name in archives}
    for turn in range(profile.passes):
        scored = splits if turn == 0 else {}
        for name, archive in archives.items():
            with step(f"serving {name}"):
                _one_pass(measured[name], archive, artifacts[name].labels, bodies, scored, profile)
    return measured


def _one_pass(
    served: Served,
    archive: Path,
    labels: Sequence[str],
    bodies: Sequence[bytes],
    splits: Mapping[str, Split],
    profile: Profile,
) -> None:
    """One server from start to stop; what goes wrong is noted on `served`, which is then left alone."""
    if served.error:
        return
    started, warm_s = time.perf_counter(), profile.served_s / 5
    try:
        with private_server(archive) as server:
            served.ready_s.append(time.perf_counter() - started)
            for concurrency in profile.concurrencies:
                load = closed_loop(
                    server.predictions, bodies, concurrency, profile.served_s, warm_s, least=LEAST_SAMPLES[99]
                )
                served.loads.setdefault(concurrency, []).append(load)
            for name, split in splits.items():
                lists = spread(in_lists(split.texts), profile.served_texts)
                served.scores[name] = score_served(server.predictions, split.texts, lists, labels)
    except (UserError, OSError, ValueError, KeyError) as error:
        served.error = f"{type(error).__name__}: {error}"


def describe(loads: Sequence[Load]) -> dict[str, Any]:
    """One level of load, its passes pooled; beside it the rates of the slowest and the fastest."""
    latencies = [latency for load in loads for latency in load.latencies_ms]
    errors = sum((load.errors for load in loads), Counter[str]())
    seconds = sum(load.seconds for load in loads)
    rates = [load.requests_per_second for load in loads]
    return {
        "concurrency": loads[0].concurrency,
        "passes": len(loads),
        "seconds": seconds,
        "requests": len(latencies) + sum(errors.values()),
        "requests_per_second": len(latencies) / seconds,
        "requests_per_second_range": [min(rates), max(rates)],
        **{
            f"p{percent}_ms": percentile(latencies, percent) if latencies else None
            for percent in LEAST_SAMPLES
        },
        "errors": dict(sorted(errors.items())),
        "load_generator_cores": sum(load.cpu_s for load in loads) / seconds,
    }


def score_served(url: str, texts: Sequence[str], lists: Sequence[range], labels: Sequence[str]) -> np.ndarray:
    """Scores float64 [texts in lists, labels] as `/predictions` answers them, NaN where it did not."""
    rows: list[list[float]] = []
    for part in lists:
        for answer in _predictions(url, texts[part.start : part.stop]):
            scores = answer.get("scores")
            rows.append([scores[label] for label in labels] if scores else [np.nan] * len(labels))
    return np.array(rows, dtype=np.float64).reshape(-1, len(labels))


def _predictions(url: str, texts: Sequence[str]) -> list[dict]:
    """One answer per text; empty ones where the request as a whole was refused."""
    body = json.dumps({"texts": list(texts)}).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=300) as response:
            answers = json.load(response)["predictions"]
    except urllib.error.HTTPError as error:
        error.close()
        return [{} for _ in texts]
    if len(answers) != len(texts):
        raise ValueError(f"{len(answers)} answers to {len(texts)} texts")
    return answers


def served_parity(artifact: Artifact, in_process: np.ndarray, served: np.ndarray) -> dict[str, Any]:
    """How far the served scores are from those in process, and whether batch mates explain it."""
    answered = ~np.isnan(served).any(axis=1)
    difference = np.abs(in_process[answered] - served[answered])
    largest = float(difference.max()) if difference.size else 0.0
    bound = artifact.meta["check"].get("batch_mate_diff", 0.0) + ROUNDING
    return {
        "n": len(served),
        "unanswered": int((~answered).sum()),
        "max_prob_diff": largest,
        "bound": bound,
        "within_bound": bool(answered.all() and largest <= bound),
    }
