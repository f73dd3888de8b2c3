"""What a cache of answers would save: texts in the order of their arrival, through the cache that serves."""

import json
import random
import time
import tracemalloc
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
from tqdm import tqdm

from deploy.app.batcher import Batching
from handler.answers import Model
from handler.cache import Cache
from handler.metrics import Tally
from handler.predictor import Prediction, Predictor
from handler.replies import Arrival, reply
from handler.requests import Limits
from handler.service import Service

IN_FLIGHT = Batching().size  # texts
SAMPLE = 1024  # texts whose answers are timed
ROUNDS = 5
WEIGHED = 2000  # texts of a cache whose memory is measured
ANSWER = Prediction(np.zeros(2), 30, False, 1, np.zeros(2, np.float32))


@dataclass(frozen=True)
class Size:
    """A cache of `entries`: so many texts find an answer in it, and so much memory is taken in the end."""

    entries: int
    found: int
    bytes: int


@dataclass(frozen=True)
class Time:
    """Of one text: milliseconds of the model's thread, and of all CPUs together."""

    ms: float
    cpu_ms: float


@dataclass(frozen=True)
class Costs:
    """Of a text without a cache (`asked`), and with one: where it has no answer (`missed`), and where it
    `answered`. Reading a request and writing its answer are included."""

    asked: Time
    missed: Time
    answered: Time

    def of(self, share: float) -> Time:
        """A text's, on average, where the cache answers a share of them."""
        missed, answered = self.missed, self.answered
        return Time(
            missed.ms + share * (answered.ms - missed.ms),
            missed.cpu_ms + share * (answered.cpu_ms - missed.cpu_ms),
        )


@dataclass(frozen=True)
class Forecast:
    """Of so many `texts`, of which so many are `distinct`; the first of the `sizes` is of texts in flight
    together. `hash_us` is what a key takes, and its look-up."""

    texts: int
    distinct: int
    hash_us: float
    sizes: list[Size]
    costs: Costs | None = None

    @property
    def most(self) -> int:
        """Texts that came before: no cache answers more."""
        return self.texts - self.distinct


def forecast(texts: Sequence[str], entries: Sequence[int]) -> Forecast:
    """Every size up to the first that holds all texts."""
    distinct = len(set(texts))
    asked = sorted({IN_FLIGHT, *entries})
    holds_all = [size for size in asked if size >= distinct][:1]
    each = weight()
    begun = time.perf_counter()
    cache = Cache(IN_FLIGHT, "")
    for text in texts:
        cache.get(cache.key(text, None))
    hash_us = (time.perf_counter() - begun) * 1e6 / len(texts)
    sizes = []
    for size in tqdm([*[size for size in asked if size < distinct], *holds_all], unit=" sizes", disable=None):
        sizes.append(Size(size, replay(texts, size), round(min(size, distinct) * each)))
    return Forecast(len(texts), distinct, hash_us, sizes)


def replay(texts: Sequence[str], entries: int) -> int:
    """How many of them find an answer. Of those in flight together one alone is computed, as here."""
    cache = Cache(entries, "")
    found = 0
    for text in texts:
        key = cache.key(text, None)
        if cache.get(key) is None:
            cache.put(key, ANSWER)
        else:
            found += 1
    return found


def weight() -> float:
    """Bytes of an entry, of a classifier of two labels."""
    tracemalloc.start()
    try:
        cache = Cache(WEIGHED, "")
        before, _ = tracemalloc.get_traced_memory()
        for number in range(WEIGHED):
            cache.put(cache.key(str(number), None), ANSWER)
        return (tracemalloc.get_traced_memory()[0] - before) / WEIGHED
    finally:
        tracemalloc.stop()


def costs(artifact: Path, texts: Sequence[str], threads: int | None) -> Costs:
    """Measured on a sample, a text in each request and full batches; the medians of rounds in turns."""
    predictor = Predictor.load(artifact, threads)
    predictor.warm()
    distinct = sorted(set(texts))
    sample = random.Random(0).sample(distinct, min(SAMPLE, len(distinct)))
    arrivals = [Arrival({"body": json.dumps({"text": text}).encode()}, "application/json") for text in sample]
    batches = [arrivals[start : start + IN_FLIGHT] for start in range(0, len(arrivals), IN_FLIGHT)]
    timed = []
    for _ in range(ROUNDS):
        plain, cached = _service(predictor, 0), _service(predictor, len(sample))
        timed.append((_time(plain, batches), _time(cached, batches), _time(cached, batches)))
    asked, missed, answered = (
        Time(median(turn.ms for turn in each), median(turn.cpu_ms for turn in each))
        for each in zip(*timed, strict=True)
    )
    return Costs(asked, missed, answered)


def _service(predictor: Predictor, cached: int) -> Service:
    named = Model(name="cache", version="1.0", variant=predictor.artifact.name)
    return Service(predictor, Limits(max_cached=cached), named, Tally(None, "cache"))


def _time(service: Service, batches: Sequence[Sequence[Arrival]]) -> Time:
    wall, cpu = time.perf_counter(), time.process_time()
    for batch in batches:
        reply(service, batch)
    texts = sum(map(len, batches))
    return Time((time.perf_counter() - wall) * 1e3 / texts, (time.process_time() - cpu) * 1e3 / texts)
