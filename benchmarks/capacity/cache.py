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
# What a process takes for each byte that is asked for: 631 bytes an entry, of 518, with 200,000 entries.
ALLOCATED = 1.2
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
    """Of a text that the model was `asked` of, without a cache, and of one that the cache `answered`. Reading
    a request and writing its answer are included."""

    asked: Time
    answered: Time


@dataclass(frozen=True)
class Forecast:
    """Of so many `texts`, of which so many are `distinct`; the first of the `sizes` is of texts in flight
    together. `key_us` is what a cache costs each text: its key, the look-up and the answer's place."""

    texts: int
    distinct: int
    key_us: float
    sizes: list[Size]
    costs: Costs | None = None

    @property
    def most(self) -> int:
        """Texts that came before: no cache answers more."""
        return self.texts - self.distinct

    def time(self, size: Size | None) -> Time | None:
        """A text's on average, with a cache or without; None where nothing was measured."""
        if self.costs is None or size is None:
            return None if self.costs is None else self.costs.asked
        share, key_ms = size.found / self.texts, self.key_us / 1000
        asked, answered = self.costs.asked, self.costs.answered
        # That of what is answered has the key in it.
        return Time(
            share * answered.ms + (1 - share) * (asked.ms + key_ms),
            share * answered.cpu_ms + (1 - share) * (asked.cpu_ms + key_ms),
        )


def forecast(texts: Sequence[str], entries: Sequence[int]) -> Forecast:
    """Every size up to the first that holds all texts."""
    distinct = len(set(texts))
    asked = sorted({IN_FLIGHT, *entries})
    holds_all = [size for size in asked if size >= distinct][:1]
    each = weight()
    begun = time.perf_counter()
    replay(texts, IN_FLIGHT)
    key_us = (time.perf_counter() - begun) * 1e6 / len(texts)
    sizes = []
    for size in tqdm([*[size for size in asked if size < distinct], *holds_all], unit=" sizes", disable=None):
        sizes.append(Size(size, replay(texts, size), round(min(size, distinct) * each)))
    return Forecast(len(texts), distinct, key_us, sizes)


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


def weight(answer: Prediction = ANSWER) -> float:
    """Bytes of an entry; by default of a classifier of two labels."""
    tracemalloc.start()
    try:
        cache = Cache(WEIGHED, "")
        before, _ = tracemalloc.get_traced_memory()
        for number in range(WEIGHED):
            cache.put(cache.key(str(number), None), answer)
        return ALLOCATED * (tracemalloc.get_traced_memory()[0] - before) / WEIGHED
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
        reply(cached, arrivals)
        timed.append((_time(plain, batches), _time(cached, batches)))
    asked, answered = (
        Time(median(turn.ms for turn in each), median(turn.cpu_ms for turn in each))
        for each in zip(*timed, strict=True)
    )
    return Costs(asked, answered)


def _service(predictor: Predictor, cached: int) -> Service:
    named = Model(name="cache", version="1.0", variant=predictor.artifact.name)
    return Service(predictor, Limits(max_cached=cached), named, Tally(None, "cache"))


def _time(service: Service, batches: Sequence[Sequence[Arrival]]) -> Time:
    wall, cpu = time.perf_counter(), time.process_time()
    for batch in batches:
        reply(service, batch)
    texts = sum(map(len, batches))
    return Time((time.perf_counter() - wall) * 1e3 / texts, (time.process_time() - cpu) * 1e3 / texts)
