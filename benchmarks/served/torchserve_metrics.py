"""TorchServe's own counters, as Prometheus reads them, and where a request's time went according to them.

From the source of TorchServe 0.12 and a live server: `ts_inference_latency` runs from the parsed request to
its answer and *includes* `ts_queue_latency`, which ends when the worker takes the batch (and so includes
`maxBatchDelay`); both count what the worker answered, refusals of the handler (4xx) too, but no 503, which
`ts_inference_requests_total` counts.
"""

import time
from collections import defaultdict
from collections.abc import Mapping

from common.proxies import open_url

REQUESTS, FAILED = "ts_inference_requests_total", "Requests5XX"
QUEUE, INFERENCE = "ts_queue_latency_microseconds", "ts_inference_latency_microseconds"
SETTLE_S = 0.1  # TorchServe sends an answer first and counts it then


def read_counters(metrics: str) -> dict[str, float]:
    """What the address `metrics` shows, by name, each summed over its labels."""
    time.sleep(SETTLE_S)
    with open_url(metrics, 10) as response:
        lines = response.read().decode().splitlines()
    sums: defaultdict[str, float] = defaultdict(float)
    for line in lines:
        if line and not line.startswith("#"):
            sums[line.split("{")[0].split()[0]] += float(line.split()[-1])
    return dict(sums)


def spent(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """What was added between two readings to the counters that `split` takes; one not yet there is 0."""
    return {
        name: after.get(name, 0.0) - before.get(name, 0.0) for name in (REQUESTS, FAILED, QUEUE, INFERENCE)
    }


def split(counted: Mapping[str, float], mean_ms: float) -> dict[str, float] | None:
    """Means of an answered request, in ms: `queue` until the worker takes it, `handler` from there to the
    answer (its batch mates' time too, and the way to the worker and back), `http` the rest of the `mean_ms`
    that the client saw: the two HTTP stacks, the generator's own lateness, and whatever waited for a core.

    None where the server answered nothing, or has no such counters.
    """
    answered = counted[REQUESTS] - counted[FAILED]
    if answered <= 0 or counted[INFERENCE] <= 0:
        return None
    queue, inside = (counted[name] / 1000 / answered for name in (QUEUE, INFERENCE))
    return {"queue": queue, "handler": inside - queue, "http": mean_ms - inside}
