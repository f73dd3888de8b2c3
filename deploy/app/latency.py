"""The latencies of the app's requests for Prometheus: of the whole request, and by phase.

Moments are noted request by request, and counted some hundred at once: prometheus_client's histograms take
0.9 us for each of six values, 2 us with a trace.
"""

import re
from collections.abc import Mapping
from functools import partial

import numpy as np

from deploy.app.counters import family, gauges
from deploy.app.models import Models
from deploy.app.timing import PHASES, Timing
from handler.latency import NAME, Histogram, Promise, edges_with, promise_of
from handler.metrics import PROMISED

WHOLE = "classifier_request_seconds"
RESPONSES = "classifier_responses"
KINDS = ("classify", "explain")
AT_ONCE = 500  # requests are counted
OPEN_METRICS = "application/openmetrics-text"
OPEN_METRICS_TYPE = f"{OPEN_METRICS}; version=1.0.0; charset=utf-8"


class Latencies:
    """Of requests that were answered with 200, by the model's name; and how many had which status. One
    thread's. `p99_s` is promised instead of what certificates promise; each limit that is promised at the
    start is an edge."""

    def __init__(self, models: Models, p99_s: float | None = None) -> None:
        self._models = models
        self._p99_s = p99_s
        self._new = partial(Histogram, edges_with(list(self._promises().values())))
        self._phases: dict[str, dict[str, Histogram]] = {}
        self._whole: dict[str, dict[str, Histogram]] = {}
        self._moments: dict[str, list[float]] = {}  # of requests that are not counted yet
        self._responses: dict[tuple[str, int], int] = {}
        for each in models:
            self._add(each.model.name)

    def begin(self, timing: Timing, headers: object) -> None:
        pass

    def end(self, timing: Timing, method: str, path: str | None) -> None:
        if not timing.name:
            return
        key = timing.name, timing.status
        self._responses[key] = self._responses.get(key, 0) + 1
        if timing.status != 200:
            return
        if timing.trace:
            self._show(timing)
        found = timing.moments()
        if not found:
            self._whole[timing.name][KINDS[timing.explain]].add(timing.seconds)
            return
        moments = self._moments[timing.name]
        moments += found
        if len(moments) >= (len(PHASES) + 1) * AT_ONCE:
            self._count(timing.name)

    def text(self, examples: bool) -> str:
        """The lines of the histograms, and of what is promised; OpenMetrics has a place for `examples`."""
        for name in self._moments:
            self._count(name)
        whole, phases = (
            _lines(name, label, found, examples)
            for name, label, found in ((WHOLE, "kind", self._whole), (NAME, "phase", self._phases))
        )
        statuses = [
            ({"ModelName": name, "code": str(code)}, count) for (name, code), count in self._responses.items()
        ]
        return whole + phases + family(RESPONSES, "counter", statuses) + _promised(self._promises())

    def _add(self, name: str) -> None:
        """From zero on: `rate` does not see what a counter starts with."""
        self._phases[name] = {phase: self._new() for phase in PHASES}
        self._whole[name] = {kind: self._new() for kind in KINDS}
        self._moments[name] = []
        self._responses |= {(name, 200): 0, (name, 503): 0}

    def _count(self, name: str) -> None:
        """What was noted since the last time."""
        moments = self._moments[name]
        table = np.array(moments).reshape(-1, len(PHASES) + 1)
        moments.clear()
        self._whole[name]["classify"].add_all(table[:, -1] - table[:, 0])
        for phase, seconds in zip(PHASES, np.diff(table).T, strict=True):
            self._phases[name][phase].add_all(seconds)

    def _show(self, timing: Timing) -> None:
        self._whole[timing.name][KINDS[timing.explain]].show(timing.trace, timing.seconds)
        for phase, seconds in timing.phases():
            self._phases[timing.name][phase].show(timing.trace, seconds)

    def _promises(self) -> dict[str, Promise]:
        """Of several versions of a name, the strictest."""
        found: dict[str, Promise] = {}
        for each in self._models:
            promise = Promise(self._p99_s) if self._p99_s else promise_of(each.model.certificate)
            name = each.model.name
            if promise and (name not in found or promise.p99_s < found[name].p99_s):
                found[name] = promise
        return found


def _lines(name: str, label: str, found: Mapping[str, Mapping[str, Histogram]], examples: bool) -> str:
    lines = [f"# TYPE {name} histogram"]
    for model, histograms in found.items():
        for value, histogram in histograms.items():
            of = f'ModelName="{model}",{label}="{value}"'
            for place, (edge, count) in enumerate(histogram.cumulative()):
                lines.append(f'{name}_bucket{{{of},le="{edge}"}} {count}')
                if examples and (example := histogram.examples.get(place)):
                    lines[-1] += f' # {{trace_id="{example.trace}"}} {example.seconds!r} {example.at:.3f}'
            lines += [f"{name}_sum{{{of}}} {histogram.sum!r}", f"{name}_count{{{of}}} {count}"]
    return "\n".join([*lines, ""])


def _promised(promises: Mapping[str, Promise]) -> str:
    """The lines of what is promised for each model; of its rate only where one is known."""
    limits = {name: promise.p99_s for name, promise in promises.items()}
    rates = {name: promise.rps for name, promise in promises.items() if promise.rps is not None}
    return "".join(gauges(metric, values) for metric, values in zip(PROMISED, (limits, rates), strict=True))


def as_open_metrics(page: str) -> str:
    """Its counters are called …_total; ours are not, and so are of no known type there."""
    return re.sub(r"^(# TYPE \S+) counter$", r"\1 unknown", page, flags=re.MULTILINE) + "# EOF\n"
