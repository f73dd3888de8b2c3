"""The workers of one run: who takes part, who has dropped out and why.

A variant that crashes must cost its own row and nothing else, so every question to a worker goes
through `Pool.ask`, which records the failure and drops the worker. Leaves out what is asked.
"""

import random
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.in_process.worker import Worker, WorkerError, open_worker
from benchmarks.names import CONTROLS, GEMM_BOUND
from benchmarks.resume_log import ResumeLog
from common.programs import command
from handler.errors import UserError

DROPPED = "dropped: "  # before the name, in the resume log


@dataclass(frozen=True)
class Failure:
    """At which stage a variant dropped out, and what was said."""

    stage: str
    message: str


@dataclass
class Pool:
    """Workers by variant name; `extras` (baselines and the GEMM bound) are no variants but take turns all the
    same; `stage` names what is being measured, for failures; `on_cuda` are those that compute on a GPU."""

    workers: dict[str, Worker]
    extras: tuple[str, ...] = ()
    failures: dict[str, Failure] = field(default_factory=dict)
    stage: str = "start"
    resume_log: ResumeLog = field(default_factory=lambda: ResumeLog(None, {}))
    on_cuda: frozenset[str] = frozenset()

    @property
    def names(self) -> list[str]:
        """Who is still taking part, the control and the guests included."""
        return list(self.workers)

    @property
    def variants(self) -> list[str]:
        """The variants that are still taking part, without the control."""
        return [name for name in self.workers if name not in (*CONTROLS.values(), *self.extras)]

    @property
    def baselines(self) -> list[str]:
        """The baselines that answer texts and are still taking part."""
        return [name for name in self.extras if name in self.workers and name != GEMM_BOUND]

    @property
    def processes(self) -> list[int]:
        """Process ids of the workers."""
        return [worker.process.pid for worker in self.workers.values()]

    def shuffled(self, turn: int) -> list[str]:
        """`names` in an order of this turn's own: none always follows the same neighbour."""
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
        if name in CONTROLS:
            raise UserError(
                f"the reference {name} failed during {self.stage}",
                seen=message,
                remedy="Without it nothing can be compared. Build it again: "
                + command(f"export build {name}", f"export VARIANTS={name}"),
            )
        self.failures[name] = Failure(self.stage, message)
        self.resume_log.put(DROPPED + name, asdict(self.failures[name]))
        del self.workers[name]


@contextmanager
def open_pool(
    names: Sequence[str], extras: Sequence[str] = (), resume_log: ResumeLog | None = None
) -> Iterator[Pool]:
    """A worker for each name, each reference's control and each guest, all ended on leaving; none for those
    that dropped out earlier in the run of `resume_log`."""
    resume_log = ResumeLog(None, {}) if resume_log is None else resume_log
    failures = {name: Failure(**found) for name, found in resume_log.under(DROPPED).items()}
    with ExitStack() as stack:
        workers = {
            name: stack.enter_context(open_worker(name, ours=name not in extras))
            for name in (*names, *(CONTROLS[name] for name in names if name in CONTROLS), *extras)
            if name not in failures
        }
        yield Pool(workers, tuple(extras), failures, resume_log=resume_log)
