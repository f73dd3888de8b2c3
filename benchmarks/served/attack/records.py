"""What attacks and soaks found: `attack.json` and `soak.json`."""

from msgspec import field

from benchmarks.records import Machine
from common.records import Record


class Memory(Record):
    """Megabytes of a server."""

    start: float
    most: float
    end: float


class Outcome(Record):
    """What one attack did. Honest figures are of requests sent during the attack; `recovery_s` counts from
    its end to the last honest request that failed or took over a second, None where that never ended."""

    server: str
    attack: str
    seconds: float
    honest_requests: int
    honest_errors: dict[str, int]
    honest_p50_ms: float | None
    honest_p99_ms: float | None
    recovery_s: float | None
    memory_mb: Memory
    attacker_saw: dict[str, int]


class SoakMemory(Record):
    """Megabytes of a server over hours."""

    first_minute: float
    after_one_round: float
    last_minute: float
    most: float


class Soaked(Record):
    """A server under one attack after another."""

    server: str
    minutes: float
    rounds: int
    honest_requests: int
    honest_errors: dict[str, int]
    honest_p50_ms: float
    honest_p99_ms: float
    memory_mb: SoakMemory


class AttackReport(Record):
    """Either attacks or a soak."""

    machine: Machine
    commit: str | None
    recovery_limit_s: float
    attacks: list[Outcome] = field(default_factory=list)
    soak: list[Soaked] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.attacks and not self.soak:
            raise ValueError("nothing was attacked")
