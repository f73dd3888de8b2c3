"""The workers of one run: who takes part, who has dropped out and why.

A variant that crashes must cost its own row and nothing else, so every question to a worker goes
through `Team.ask`, which records the failure and drops the worker. Leaves out what is asked.
"""

import random
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.journal import Journal
from benchmarks.worker import Worker, WorkerError, open_worker
from handler.errors import UserError

REFERENCE = "fp32"
CUDA_REFERENCE = "cuda-fp32"  # the same for what computes on a GPU: no ratio crosses from one to the other
# The matrix products alone, timed in a process of their own beside the variants.
FLOOR = "floor"
# fp32 once more, in another process: what it differs by from itself is the noise of the run.
TWIN = "fp32 again"
TWINS = {REFERENCE: TWIN, CUDA_REFERENCE: "cuda-fp32 again"}
DROPPED = "dropped: "  # before the name, in the journal


@dataclass(frozen=True)
class Failure:
    """At which stage a variant dropped out, and what was said."""

    stage: str
    message: str


@dataclass
class Team:
    """Workers by variant name; `guests` (peers and the floor) are no variants of ours but take turns all the
    same; `stage` names what is being measured, for failures; `on_cuda` are those that compute on a GPU."""

    workers: dict[str, Worker]
    guests: tuple[str, ...] = ()
    failures: dict[str, Failure] = field(default_factory=dict)
    stage: str = "start"
    journal: Journal = field(default_factory=lambda: Journal(None, {}))
    on_cuda: frozenset[str] = frozenset()

    @property
    def names(self) -> list[str]:
        """Who is still taking part, the twins and the guests included."""
        return list(self.workers)

    @property
    def variants(self) -> list[str]:
        """The variants that are still taking part, without the twins."""
        return [name for name in self.workers if name not in (*TWINS.values(), *self.guests)]

    @property
    def peers(self) -> list[str]:
        """The guests that answer texts and are still taking part."""
        return [name for name in self.guests if name in self.workers and name != FLOOR]

    @property
    def processes(self) -> list[int]:
        """Process ids of the workers."""
        return [worker.process.pid for worker in self.workers.values()]

    def shuffled(self, turn: int) -> list[str]:
        """`names` in an order of this turn's own: nobody always follows the same neighbour."""
        return random.Random(turn).sample(self.names, len(self.workers))

    def ask(self, name: str, command: str, **arguments: Any) -> Any:
        """The worker's answer, or None when the variant fails, which drops it.

        Raises `UserError` when it is a reference: without it nothing can be compared.
        """
        try:
            return self.workers[name].ask(command, **arguments)
        except WorkerError as error:
            self.drop(name, str(error))
            return None

    def drop(self, name: str, message: str) -> None:
        """Take a variant out of the run. Raises `UserError` when it is a reference."""
        if name in TWINS:
            raise UserError(
                f"the reference {name} failed during {self.stage}",
                seen=message,
                remedy=f"Without it nothing can be compared: build it again, make export VARIANTS={name}",
            )
        self.failures[name] = Failure(self.stage, message)
        self.journal.put(DROPPED + name, asdict(self.failures[name]))
        del self.workers[name]


@contextmanager
def open_team(
    names: Sequence[str], guests: Sequence[str] = (), journal: Journal | None = None
) -> Iterator[Team]:
    """A worker for each name, each reference's twin and each guest, all ended on leaving; none for those that
    dropped out earlier in the run of `journal`."""
    journal = Journal(None, {}) if journal is None else journal
    failures = {name: Failure(**found) for name, found in journal.under(DROPPED).items()}
    with ExitStack() as stack:
        workers = {
            name: stack.enter_context(open_worker(name, ours=name not in guests))
            for name in (*names, *(TWINS[name] for name in names if name in TWINS), *guests)
            if name not in failures
        }
        yield Team(workers, tuple(guests), failures, journal=journal)
