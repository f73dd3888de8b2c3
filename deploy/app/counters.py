"""The classifier's counters without TorchServe: a `Tally`'s sums in Prometheus' text format.

Names and labels are those of `deploy/metrics.yaml`, so that dashboards work for both servers:
prometheus_client would call every counter `…_total`.
"""

import threading
from collections.abc import Iterable, Mapping
from functools import partial
from types import SimpleNamespace

from handler.metrics import COUNTERS, Sums

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
Samples = Iterable[tuple[Mapping[str, str], float]]


class Counters:
    """Stands where TorchServe's metrics cache does: sums by name and the values of labels."""

    def __init__(self) -> None:
        self._sums = Sums(int)
        self._lock = threading.Lock()

    def get_metric(self, name: str) -> SimpleNamespace:
        if name not in COUNTERS:  # latencies and promises are the app's own: `latency`
            raise KeyError(name)
        return SimpleNamespace(add_or_update=partial(self.add, name))

    def add(self, name: str, value: float, labels: list[str]) -> None:
        with self._lock:
            self._sums[name, *labels] += value

    def text(self) -> str:
        """All counters; those of which nothing was counted yet have no line."""
        with self._lock:
            sums = sorted(self._sums.items())
        lines = []
        for counter, labels in COUNTERS.items():
            lines.append(f"# TYPE {counter} counter")
            for (name, *values), value in sums:
                if name == counter:
                    named = zip(("ModelName", *labels), values, strict=True)
                    lines.append(_line(name, dict(named), value))
        return "\n".join(lines) + "\n"


def gauge(name: str, model: str, value: float) -> str:
    """The lines of a metric that is a single number now."""
    return gauges(name, {model: value})


def gauges(name: str, values: Mapping[str, float]) -> str:
    """The lines of a metric that is a number for each model now."""
    return family(name, "gauge", [({"ModelName": model}, value) for model, value in values.items()])


def metric(name: str, kind: str, model: str, samples: Samples) -> str:
    """The lines of one metric of one model: each sample is labels besides the model's name, and a value."""
    return family(name, kind, [({"ModelName": model, **labels}, value) for labels, value in samples])


def family(name: str, kind: str, samples: Samples) -> str:
    """The lines of one metric."""
    return "\n".join([f"# TYPE {name} {kind}", *(_line(name, *sample) for sample in samples), ""])


def _line(name: str, labels: Mapping[str, str], value: float) -> str:
    # A Tally leaves letters, digits, _, ., + and - in values: nothing needs escaping.
    inside = ",".join(f'{label}="{value}"' for label, value in labels.items())
    return f"{name}{{{inside}}} {float(value)!r}"
