"""The workers of one run: which take part, which have dropped out, and why.

A variant that crashes must cost only its own row, so every request to a worker goes through `Pool.ask`, which
records the failure and drops the worker. Leaves out the requests themselves.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.in_process.worker import Worker, WorkerError, open_worker
from benchmarks.names import GEMM_BOUND, REFERENCES
from benchmarks.resume_log import ResumeLog
from common.programs import command
from handler.errors import UserError

DROPPED = "dropped: "  # before the name, in the resume log
AT_ONCE = 2  # processes that start side by side, where their start is not measured


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
    _held: dict[str, ExitStack] = field(default_factory=dict)
    _blocks: dict[str, int] = field(default_factory=dict)
    _loads: dict[str, tuple[str, dict[str, Any]]] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """Who is still taking part, the guests included."""
        return list(self.workers)

    @property
    def variants(self) -> list[str]:
        """The variants that are still taking part."""
        return [name for name in self.workers if name not in self.extras]

    @property
    def rows(self) -> list[str]:
        """The variants and the baselines that are still taking part."""
        return [*self.variants, *self.baselines]

    @property
    def baselines(self) -> list[str]:
        """The baselines that answer texts and are still taking part."""
        return [name for name in self.extras if name in self.workers and name != GEMM_BOUND]

    @property
    def processes(self) -> list[int]:
        """Process ids of the workers."""
        return [worker.process.pid for worker in self.workers.values()]

    def load(self, name: str, command: str, **arguments: Any) -> Any:
        """As `ask`, of the command that loads what the worker is for: `restart` gives it again."""
        self._loads[name] = command, arguments
        return self.ask(name, command, **arguments)

    def renew(self, block: int, names: Sequence[str], texts: Sequence[str]) -> None:
        """Start those processes again that took turns in another block: loaded and warmed as they were, and
        holding `texts`."""
        old = [name for name in names if self._blocks.setdefault(name, block) != block]
        with ThreadPoolExecutor(AT_ONCE) as executor:
            list(executor.map(self._restart, old, [list(texts)] * len(old)))
        self._blocks |= dict.fromkeys(old, block)

    def _restart(self, name: str, texts: list[str]) -> None:
        held = self._held[name]
        held.close()
        self.workers[name] = held.enter_context(open_worker(name, ours=name not in self.extras))
        command, arguments = self._loads[name]
        if self.ask(name, command, **arguments) is not None:
            self.ask(name, "hold", texts=texts)

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
        if name in REFERENCES:
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
    """A worker for each name and each guest, all ended on leaving; none for those that dropped out earlier in
    the run of `resume_log`."""
    resume_log = ResumeLog(None, {}) if resume_log is None else resume_log
    failures = {name: Failure(**found) for name, found in resume_log.under(DROPPED).items()}
    workers = {}
    held = {}
    with ExitStack() as stack:
        for name in (*names, *extras):
            if name not in failures:
                held[name] = stack.enter_context(ExitStack())
                workers[name] = held[name].enter_context(open_worker(name, ours=name not in extras))
        yield Pool(workers, tuple(extras), failures, resume_log=resume_log, _held=held)
