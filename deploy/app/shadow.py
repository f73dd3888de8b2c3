"""A second artifact that a share of the texts goes to as well, to count labels that differ from those served.

It runs in a process of its own (`shadow_worker`), at the lowest priority, behind a bounded queue: no answer
waits for it, and whatever happens to it the server goes on. Texts are in memory and in the pipe between the
two alone.
"""

import asyncio
import json
import random
import sys
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from common.commands import say
from common.flips import ARROW
from deploy.app.counters import gauge, metric
from handler.artifact import Artifact
from handler.errors import UserError
from handler.metrics import dimension
from handler.records import Count, plain, read

WORKER = (sys.executable, "-m", "deploy.app.shadow_worker")
MOST_TEXTS = 256  # that wait
MOST_CHARACTERS = 4_000_000  # of all that wait
BATCH = 8
LOOK_S = 0.05  # between two looks at an empty queue
MOST_REPORT = 1 << 20  # bytes of a report


@dataclass(frozen=True)
class Kind:
    """Of labels or of decisions: texts that `flipped`, how many went each way (served -> shadow), how near
    the alarm is (1 where it is raised), and the shares that raise it."""

    flipped: Count
    ways: dict[str, Count]
    evidence: float
    alarms: list[str]


@dataclass(frozen=True)
class Report:
    """What the shadow has found since it began, by kind: `flips`, and `flips:decision` where both have
    bands."""

    compared: Count
    kinds: dict[str, Kind]


@dataclass(frozen=True)
class Offered:
    """A text, how its windows are combined, and the label (or labels) and decision that were served."""

    text: str
    aggregate: str | None
    served: Any
    decision: str | None


class Shadow:
    """`artifact`, which is asked `share` of the texts; `work` runs from the server's start to its end."""

    def __init__(self, served: Artifact, artifact: Artifact, share: float, max_flip: float) -> None:
        if (artifact.labels, artifact.multi_label) != (served.labels, served.multi_label):
            seen = f"{', '.join(artifact.labels)}; served: {', '.join(served.labels)}"
            raise UserError("the shadow has other labels", seen=seen, remedy="Choose another --shadow")
        self.artifact = artifact
        self.share = share
        self.max_flip = max_flip
        self.report = Report(0, {})
        self.is_up = False
        self.dropped = 0
        self._decides = bool(served.meta.bands and artifact.meta.bands)
        self._waiting: deque[Offered] = deque()
        self._characters = 0
        self._lock = threading.Lock()  # the model's thread offers what the server's loop takes

    def offer(self, text: str, aggregate: str | None, answer: Mapping[str, Any]) -> None:
        """As `Service.observe`: takes it by chance, and leaves it where too many wait."""
        if random.random() >= self.share:
            return
        with self._lock:
            if len(self._waiting) >= MOST_TEXTS or self._characters + len(text) > MOST_CHARACTERS:
                self.dropped += 1
                return
            served = answer["labels"] if "labels" in answer else answer["label"]
            self._waiting.append(Offered(text, aggregate, served, answer.get("decision")))
            self._characters += len(text)

    async def work(self) -> None:
        """Until it is cancelled, or the worker ends."""
        try:
            await self._compare()
        except (OSError, ValueError) as error:
            say(f"the shadow cannot be asked: {type(error).__name__}")
        say("the shadow has ended: nothing is compared until the server is started again")

    async def _compare(self) -> None:
        options = [str(self.artifact.folder), str(self.max_flip), *["decisions"][: self._decides]]
        pipe = asyncio.subprocess.PIPE
        worker = await asyncio.create_subprocess_exec(
            *WORKER, *options, stdin=pipe, stdout=pipe, limit=MOST_REPORT, start_new_session=True
        )
        assert worker.stdin is not None
        assert worker.stdout is not None
        try:
            while line := await worker.stdout.readline():
                self.report, self.is_up = read(Report, json.loads(line)), True
                asked = json.dumps([asdict(each) for each in await self._batch()])
                worker.stdin.write(f"{asked}\n".encode())
                await worker.stdin.drain()
        finally:
            self.is_up = False
            if worker.returncode is None:
                worker.kill()
            await worker.wait()

    async def _batch(self) -> list[Offered]:
        """What waits, one text at least."""
        while not self._waiting:
            await asyncio.sleep(LOOK_S)
        with self._lock:
            batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
            self._characters -= sum(len(each.text) for each in batch)
        return batch

    def describe(self) -> dict[str, Any]:
        """What is compared, and what was found."""
        return {
            "variant": self.artifact.name,
            "artifact_sha256": self.artifact.sha256,
            "share": self.share,
            "max_flip": self.max_flip,
            "is_up": self.is_up,
            "dropped": self.dropped,
            **plain(self.report),
        }

    def metrics(self, model: str) -> str:
        """The same for Prometheus; the evidence and the alarm are named as those of drift."""
        kinds = self.report.kinds
        flipped = [({"kind": name}, kind.flipped) for name, kind in kinds.items()]
        flips = [
            ({"kind": name, "from": dimension(before), "to": dimension(after)}, count)
            for name, kind in kinds.items()
            for (before, after), count in ((way.split(ARROW), count) for way, count in kind.ways.items())
        ]
        evidence = [({"distribution": name}, kind.evidence) for name, kind in kinds.items()]
        alarms = [({"distribution": name}, bool(kind.alarms)) for name, kind in kinds.items()]
        return "".join(
            (
                gauge("classifier_shadow_up", model, self.is_up),
                metric("classifier_shadow_compared", "counter", model, [({}, self.report.compared)]),
                metric("classifier_shadow_dropped", "counter", model, [({}, self.dropped)]),
                metric("classifier_shadow_flipped", "counter", model, flipped),
                metric("classifier_shadow_flips", "counter", model, flips),
                metric("classifier_drift_evidence", "gauge", model, evidence),
                metric("classifier_drift_detected", "gauge", model, alarms),
            )
        )
