"""Drift as metrics: with each scrape by Prometheus, this exporter reads TorchServe's counts.

The alarm comes from the detectors, for which every text counts once. The distances describe a sliding window
of scrapes, and are absent until it has enough texts.
"""

import threading
import time
from collections.abc import Iterator, Sequence

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from common.commands import say
from deploy.drift.judge import Distribution, Verdict, assess
from deploy.drift.sources import Window, settled
from deploy.drift.watch import Watch
from handler.errors import UserError


class DriftCollector(Collector):
    """The metrics `classifier_drift_*` of what the server at `url` answers, with distances of the last
    `window_s`."""

    def __init__(
        self, url: str, name: str, reference: Sequence[Distribution], watch: Watch, window_s: float
    ) -> None:
        self.url = url
        self.name = name
        self.reference = reference
        self.watch = watch
        self._window = Window(window_s)
        self._lock = threading.Lock()  # two may scrape at once
        self._failure = ""

    def collect(self) -> Iterator[Metric]:
        with self._lock:
            verdicts = self._look()
        up = "1 if the server's counts could be read and are from this artifact"
        yield GaugeMetricFamily("classifier_drift_up", up, value=float(verdicts is not None))
        yield from _gauges(verdicts or [])
        if verdicts is not None:
            yield from _alarms(self.watch)

    def _look(self) -> list[Verdict] | None:
        """Verdicts on the window as it is now; None, and a word to the operator, where there are none."""
        try:
            counts = settled(self.url, self.name)
            if counts is not None:  # else the next look has these texts, too
                self.watch.add(self._window.add(time.monotonic(), counts))
            verdicts = assess(self.reference, self._window.total(), self.watch.rule)
        except UserError as error:
            if str(error) != self._failure:  # not once for each scrape
                say(f"error: {error}")
            self._failure = str(error)
            return None
        self._failure = ""
        return verdicts


def _gauges(verdicts: Sequence[Verdict]) -> Iterator[Metric]:
    labels = ["distribution"]
    texts = GaugeMetricFamily("classifier_drift_texts", "texts in the window", labels=labels)
    psi = GaugeMetricFamily("classifier_drift_psi", "population stability index", labels=labels)
    ks = GaugeMetricFamily("classifier_drift_ks", "Kolmogorov-Smirnov distance over the bins", labels=labels)
    for verdict in verdicts:
        of = [verdict.distribution]
        texts.add_metric(of, verdict.texts)
        if verdict.verdict != "too few texts":
            psi.add_metric(of, verdict.psi)
            ks.add_metric(of, verdict.ks)
    yield from (texts, psi, ks)


def _alarms(watch: Watch) -> Iterator[Metric]:
    """Of each distribution the share that is nearest to an alarm."""
    labels = ["distribution"]
    told = "log evidence for drift, as a share of the evidence that raises the alarm"
    evidence = GaugeMetricFamily("classifier_drift_evidence", told, labels=labels)
    drift = GaugeMetricFamily("classifier_drift_detected", "1 if the distribution has drifted", labels=labels)
    for distribution in dict.fromkeys(share.distribution for share in watch.shares):
        of = watch.of(distribution)
        evidence.add_metric([distribution], max(detector.progress for detector in of))
        drift.add_metric([distribution], float(any(detector.is_alarmed for detector in of)))
    texts = GaugeMetricFamily("classifier_drift_watched_texts", "texts counted", value=watch.texts)
    yield from (evidence, drift, texts)


def listen(collector: DriftCollector, host: str, port: int) -> threading.Thread:
    """Answer Prometheus at `host:port`, from a thread; raises `UserError` where that cannot be had."""
    registry = CollectorRegistry()
    registry.register(collector)
    try:
        _, thread = start_http_server(port, host, registry)
    except OSError as error:
        seen = f"{host}:{port} ({error.strerror})"
        raise UserError(
            "the exporter cannot listen there", seen=seen, remedy="Choose another --listen"
        ) from error
    return thread
