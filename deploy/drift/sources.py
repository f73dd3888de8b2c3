"""The sources of the counts that `drift` compares: a server's metrics, a Prometheus, the output of `predict`.

TorchServe's counters live in its Java process: they survive the death of a worker, and restart with the
server. If one counter has fallen, all are taken to have restarted.
"""

import json
import math
import time
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from itertools import pairwise, zip_longest
from typing import Any
from urllib.parse import urlencode

from prometheus_client.parser import text_string_to_metric_families
from tqdm import tqdm

from common.flips import Decision
from common.proxies import open_url
from deploy.drift.judge import GIVEN, LENGTHS, Counts
from deploy.drift.shares import FLIPS, count_flips
from handler.artifact import Artifact
from handler.errors import UserError
from handler.metrics import dimension, length_bin, score_bin
from scoring.plan import plan, read_part

TIMEOUT_S = 5
LOOK_S = 5  # between two looks at a server: a restart is seen by counters that have fallen since
MOST_BYTES = 256 << 20  # of an answer; a week of one server, looked at every 15 s, is 25 MB
PREDICTED = "Give the output of python -m handler predict with this artifact: .csv, .jsonl or .parquet"
STEPS = 240  # of a sliding window: its memory is bounded however often somebody looks
# Every server has counted the look itself, so that a histogram that begins later is seen to begin at nothing.
HEARTBEAT = "Requests2XX"
HISTOGRAMS = {"classifier_scores": "score", "classifier_lengths": LENGTHS}
LABELS, ASKED = "classifier_labels", "classifier_asked_again"
# The worker hands its sums over once a second, a line for each: a look may fall between two lines, where a
# label was counted and the texts without it were not. A tenth of a second later it would have gone on.
SETTLING_S = 0.1
TRIES = 10


def served(url: str, name: str) -> Counts:
    """What the server at `url` (its metrics) has counted for the model `name` since it started."""
    page = _read(url).decode("utf-8", errors="replace")
    remedy = "Give the metrics address of a TorchServe with metrics_config=deploy/metrics.yaml"
    counts = Counts()
    try:
        families = list(text_string_to_metric_families(page))
        for sample in (sample for family in families for sample in family.samples):
            _add(counts, sample.name.removesuffix("_total"), sample.labels, sample.value, name)
    except ValueError as error:
        raise UserError("these are not TorchServe's metrics", seen=url, remedy=remedy) from error
    if not {family.name for family in families} >= {*HISTOGRAMS, LABELS}:
        raise UserError("the metrics do not count scores, lengths and labels", seen=url, remedy=remedy)
    return counts


def settled(url: str, name: str) -> Counts | None:
    """As `served`, at a moment when nothing is being counted; None where that does not come soon."""
    before = served(url, name)
    for _ in range(TRIES):
        time.sleep(SETTLING_S)
        after = served(url, name)
        if {**before, (HEARTBEAT, ""): 0} == {**after, (HEARTBEAT, ""): 0}:
            return after
        before = after
    return None


def watched(url: str, name: str, window_s: float) -> Counts:
    """What the server counts in the `window_s` seconds from now."""
    window = Window(window_s)
    end = time.monotonic() + window_s
    with tqdm(total=round(window_s), unit=" s", disable=None) as progress:
        while True:
            if (counts := settled(url, name)) is not None:
                window.add(time.monotonic(), counts)
            left = end - time.monotonic()
            progress.update(round(window_s - max(left, 0)) - progress.n)
            if left <= 0:
                return window.total()
            time.sleep(min(left, LOOK_S))


def recorded(url: str, name: str, window_s: float) -> Counts:
    """What the servers that the Prometheus at `url` scrapes have counted in the last `window_s` seconds.

    From the samples as they were scraped: `increase()` would guess beyond them, and leave out what a counter
    held when it appeared.
    """
    series = "|".join((*HISTOGRAMS, LABELS, ASKED, HEARTBEAT))
    query = urlencode({"query": f'{{__name__=~"{series}"}}[{math.ceil(window_s)}s]'})
    try:
        found = json.loads(_read(f"{url.rstrip('/')}/api/v1/query?{query}"))["data"]["result"]
        looks: defaultdict[tuple[Any, ...], defaultdict[float, Counts]] = defaultdict(
            lambda: defaultdict(Counts)
        )
        for series in found:
            labels = series["metric"]
            for at_s, value in series["values"]:
                look = looks[labels.get("job"), labels.get("instance")][at_s]
                _add(look, labels["__name__"], labels, float(value), name)
    except (ValueError, KeyError, TypeError) as error:
        remedy = "Give the address of a Prometheus: --prometheus http://127.0.0.1:9090"
        raise UserError("this is not the API of a Prometheus", seen=url, remedy=remedy) from error
    return _sum(
        increase(before, after)
        for looks_of_one in looks.values()
        for (_, before), (_, after) in pairwise(sorted(looks_of_one.items()))
    )


def written(path: str, artifact: Artifact) -> Counts:
    """The answers in what `python -m handler predict` wrote, of `artifact`'s labels; errors are left out."""
    reference = artifact.meta.reference
    edges, up_to = reference.scores.edges, reference.lengths.up_to
    counts = Counts()
    with _read_as_predicted(path):
        for row in predicted(path):
            if row.get("error"):
                continue
            counts[LENGTHS, length_bin(int(row["tokens"]), up_to)] += 1
            for label in _labels(row, artifact):
                counts[f"label:{dimension(label)}", GIVEN] += 1
            for label, score in _scores(row, artifact):
                counts[f"score:{dimension(label)}", score_bin(score, edges)] += 1
    return counts


def flipped(path: str, fp32_path: str, artifact: Artifact) -> Counts:
    """How many rows of `path` and `fp32_path`, which predict wrote of the same texts, were compared, how many
    have another label, and how many went each of `common.flips.ways`."""
    counts = Counts()
    with _read_as_predicted(f"{path}, {fp32_path}"):
        for ours, theirs in zip_longest(predicted(path), predicted(fp32_path)):
            if ours is None or theirs is None:
                raise _other_rows(f"{path} and {fp32_path} have not as many rows")
            if ours.get("error") or theirs.get("error"):
                continue
            if int(ours["tokens"]) != int(theirs["tokens"]):
                raise _other_rows(f"texts of {ours['tokens']} and {theirs['tokens']} tokens")
            before, after = (_decision(row, artifact) for row in (theirs, ours))
            count_flips(counts, FLIPS, before, after)
    return counts


def _other_rows(seen: str) -> UserError:
    remedy = "Classify the same file with fp32: python -m handler predict --artifact build/artifacts/fp32"
    return UserError("fp32's predictions are for other texts", seen=seen, remedy=remedy)


def predicted(path: str) -> Iterator[dict[str, Any]]:
    """The rows that `python -m handler predict` wrote, with its columns."""
    try:
        parts = plan(path, "tokens", 10_000, None)
    except UserError as error:
        raise UserError(error.what, seen=error.seen, remedy=PREDICTED) from error
    for part in parts.parts:
        yield from read_part(part, "tokens")


@contextmanager
def _read_as_predicted(seen: str) -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, ValueError) as error:
        raise UserError("this is not the output of predict", seen=seen, remedy=PREDICTED) from error


def _decision(row: dict[str, Any], artifact: Artifact) -> Decision:
    labels = _labels(row, artifact)
    return labels if artifact.multi_label else labels[0]


def _labels(row: dict[str, Any], artifact: Artifact) -> list[str]:
    """The labels that a written row was given."""
    if artifact.multi_label:  # their names may hold the sign that parts them
        scores = json.loads(row["score"])
        thresholds = artifact.meta.thresholds
        return [label for label in artifact.labels if float(scores[label]) >= thresholds[label]]
    if row["label"] not in artifact.labels:
        raise ValueError(row["label"])
    return [row["label"]]


def _scores(row: dict[str, Any], artifact: Artifact) -> list[tuple[str, float]]:
    """The scores of a written row that have a reference; that of the positive one of two labels follows from
    either's."""
    labels = artifact.labels
    if artifact.multi_label:
        return [(label, float(json.loads(row["score"])[label])) for label in labels]
    if len(labels) > 2:
        raise UserError(
            "with three or more labels, predict writes only the score of the chosen one",
            seen=", ".join(labels),
            remedy="Use the server's counts: --metrics or --prometheus",
        )
    score = float(row["score"])
    positive = str(artifact.positive_label)
    return [(positive, score if row["label"] == positive else round(1 - score, 6))]


class Window:
    """What was counted in the last `seconds`, put together from looks at counters."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._steps: deque[tuple[float, Counts]] = deque()
        self._last: Counts | None = None

    def add(self, at_s: float, counts: Counts) -> Counts:
        """A look at the counters, at a time that does not run backwards: what they have counted since the
        last."""
        more = Counts()
        if self._last is not None:
            more = increase(self._last, counts)
            if self._steps and at_s - self._steps[-1][0] < self.seconds / STEPS:
                self._steps[-1][1].update(more)
            else:
                self._steps.append((at_s, more))
        self._last = counts
        while self._steps and self._steps[0][0] < at_s - self.seconds:
            self._steps.popleft()
        return more

    def total(self) -> Counts:
        return _sum(step for _, step in self._steps)


def increase(before: Counts, after: Counts) -> Counts:
    """What was counted between two looks; all of `after` where a counter has fallen, since it began anew."""
    restarted = any(after[key] < value for key, value in before.items())
    return Counts(after) if restarted else Counts({key: after[key] - before[key] for key in after})


def _sum(each: Iterable[Counts]) -> Counts:
    total = Counts()
    for counts in each:
        total.update(counts)
    return total


def _add(counts: Counts, metric: str, labels: dict[str, str], value: float, name: str) -> None:
    """Add a sample where it is the heartbeat, or a label, a stage or of a histogram of the model `name`."""
    if metric == HEARTBEAT:
        counts[HEARTBEAT, ""] += int(value)
    elif metric == LABELS and labels.get("ModelName") == dimension(name):
        counts[f"label:{labels['label']}", GIVEN] += int(value)
    elif metric == ASKED and labels.get("ModelName") == dimension(name):
        counts[f"asked:{labels['stage']}", GIVEN] += int(value)
    elif metric in HISTOGRAMS and labels.get("ModelName") == dimension(name):
        label = labels.get("label")
        distribution = f"{HISTOGRAMS[metric]}:{label}" if label else HISTOGRAMS[metric]
        counts[distribution, labels["up_to"]] += int(value)


def _read(url: str) -> bytes:
    """The answer at an address of http or https, at most `MOST_BYTES` of it."""
    remedy = "Is it running there? Check the address"
    if not url.startswith(("http://", "https://")):
        raise UserError("the address must begin with http:// or https://", seen=url, remedy=remedy)
    try:
        with open_url(url, TIMEOUT_S) as response:
            content = response.read(MOST_BYTES + 1)
    except (OSError, HTTPException, ValueError) as error:
        raise UserError("nothing answers", seen=f"{url} ({error})", remedy=remedy) from error
    if len(content) > MOST_BYTES:
        raise UserError(
            f"the answer is larger than {MOST_BYTES >> 20} MiB", seen=url, remedy="Use a shorter --window"
        )
    return content
