"""The worker's counters for Prometheus: sums over a second, so that a request costs no log line.

TorchServe reads metrics from the worker's output, one line for each, and a line for each request would cost
more than tokenizing it. Sums since the last line give Prometheus the same information.
"""

import re
import sys
import threading
import time
import weakref
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from handler.latency import NAME, Histogram, Promise, edges_with

# Every metric is declared in `deploy/metrics.yaml`, and is a counter, but for what is promised; averages and
# shares are quotients of two of them. No value and no label ever comes from a text.

INTERVAL_S = 1.0
Sums = defaultdict[tuple[str, ...], float]
"""By a counter's name and the values of its labels; made as `Sums(int)`, so that counts stay whole."""
# Name of each counter, and the labels that it has besides the model's name.
COUNTERS = {
    "classifier_requests": (),
    "classifier_batches": (),
    "classifier_texts": (),
    "classifier_rejected": ("code", "field"),
    "classifier_explained": ("method",),
    "classifier_labels": ("label",),
    "classifier_decisions": ("decision",),
    "classifier_scores": ("label", "up_to"),
    "classifier_lengths": ("up_to",),
    "classifier_truncated": (),
    "classifier_windows": (),
    "classifier_tokens": (),
    "classifier_padded_tokens": (),
    "classifier_asked_again": ("stage",),
    "classifier_cached": (),
    "classifier_self_check": ("status",),
    "classifier_tokenise_seconds": (),
    "classifier_model_seconds": (),
    "classifier_explain_seconds": (),
    "classifier_handler_seconds": (),
}
# TorchServe's histograms have fixed edges, and cost a line for each value: these are counters to it.
LATENCY = {f"{NAME}_bucket": ("phase", "le"), f"{NAME}_sum": ("phase",), f"{NAME}_count": ("phase",)}
PHASES = ("tokenise", "model", "reply", "handler")  # what a worker sees; the last is all of it
PROMISED = ("classifier_promised_p99_seconds", "classifier_promised_rps")


class Tally:
    """Sums by counter and labels; a thread of its own gives them to TorchServe every `INTERVAL_S`. The
    promised limit is an edge of the latencies."""

    def __init__(self, metrics: Any, model: str, promise: Promise | None = None) -> None:
        self._metrics = metrics
        self._model = model
        self._edges = edges_with([promise])
        self._sums = Sums(int)
        self._lock = threading.Lock()
        self._is_new = True
        known = (*COUNTERS, *LATENCY)
        self.declared = frozenset(name for name in known if _counter(metrics, name) is not None)
        self._phases = self._histograms()
        if self.declared:
            of = weakref.ref(self)
            threading.Thread(target=_emit_for_ever, args=(of,), name="metrics", daemon=True).start()

    def add(self, sums: Mapping[tuple[str, ...], float]) -> None:
        """Add to counters; the keys are a counter's name and the values of the labels in `COUNTERS`."""
        with self._lock:
            for key, value in sums.items():
                if key[0] in self.declared:
                    self._sums[key] += value

    def took(self, requests: int, **seconds: float) -> None:
        """What the `PHASES` of a batch took, for each of its requests."""
        if self._phases and requests:
            with self._lock:
                for phase, value in seconds.items():
                    self._phases[phase].add(value, requests)

    def emit(self) -> None:
        """Write what has been added since the last time."""
        with self._lock:
            sums, self._sums = self._sums, Sums(int)
            phases, self._phases = self._phases, self._histograms()
        for (name, *labels), value in sorted(sums.items()):
            if value:
                self._write(name, value, *labels)
        for phase, histogram in phases.items():
            self._emit_phase(phase, histogram)
        self._is_new = False

    def _histograms(self) -> dict[str, Histogram]:
        is_declared = self.declared.issuperset(LATENCY)
        return {phase: Histogram(self._edges) for phase in PHASES} if is_declared else {}

    def _emit_phase(self, phase: str, histogram: Histogram) -> None:
        """At first zeros, too, since `rate` does not see what a counter starts with."""
        buckets = histogram.cumulative()
        count = buckets[-1][1]
        if count or self._is_new:
            for edge, up_to in buckets:
                if up_to or self._is_new:
                    self._write(f"{NAME}_bucket", up_to, phase, edge)
            self._write(f"{NAME}_sum", histogram.sum, phase)
            self._write(f"{NAME}_count", count, phase)

    def _write(self, name: str, value: float, *labels: str) -> None:
        dimensions = [dimension(label) for label in (self._model, *labels)]
        try:
            _counter(self._metrics, name).add_or_update(value, dimensions)
        except Exception as error:  # one counter must not end the others
            print(f"could not count {name}: {type(error).__name__}", file=sys.stderr, flush=True)


def _emit_for_ever(of: "weakref.ref[Tally]") -> None:
    """As long as there is a tally."""
    while (tally := of()) is not None:
        tally.emit()
        del tally
        time.sleep(INTERVAL_S)


def dimension(value: str) -> str:
    """A label's name as the metrics have it: commas, bars and colons part the fields of TorchServe's line."""
    return re.sub(r"[^\w.+-]", "_", value)


def _counter(metrics: Any, name: str) -> Any:
    """The declared counter, or None: another server's `metrics_config` need not know ours."""
    try:
        return metrics.get_metric(name)
    except Exception:  # TorchServe's own error class, which this module does not import
        return None


def score_bin(score: float, edges: Sequence[float]) -> str:
    """The upper edge of the score's bin, as in the artifact's `reference`: [low, high), the last closed."""
    return f"{edges[min(bisect_right(edges, score), len(edges) - 1)]:g}"


def length_bin(tokens: int, up_to: Sequence[int]) -> str:
    """The shortest length of the artifact's `reference` that holds `tokens`; `inf` beyond the last."""
    place = bisect_left(up_to, tokens)
    return str(up_to[place]) if place < len(up_to) else "inf"


def counted_scores(
    labels: Sequence[str], positive_label: str | None, scores: np.ndarray
) -> list[tuple[str, float]]:
    """The scores worth a histogram: that of the positive one of two labels, else every one."""
    pairs = list(zip(labels, scores.tolist(), strict=True))
    if positive_label is None or len(pairs) > 2:
        return pairs
    return [pair for pair in pairs if pair[0] == positive_label]
