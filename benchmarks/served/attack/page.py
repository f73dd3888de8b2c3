"""The tables of an attack and of a soak, for a terminal and for documents."""

from tabulate import tabulate

from benchmarks.served.attack.clients import RATE, SLOW_MS
from benchmarks.served.attack.records import AttackReport

MEMORY = {
    "first_minute": "MB in the first minute",
    "after_one_round": "after one round",
    "last_minute": "in the last minute",
    "most": "at most",
}


def table(found: AttackReport, form: str = "simple") -> str:
    """A row for each attack on each server."""
    rows = [
        (
            entry.attack,
            entry.server,
            _ms(entry.honest_p50_ms),
            _ms(entry.honest_p99_ms),
            f"{sum(entry.honest_errors.values())} of {entry.honest_requests}",
            f"not within {found.recovery_limit_s:.0f}"
            if entry.recovery_s is None
            else f"{entry.recovery_s:.0f}",
            f"{entry.memory_mb.start:.0f} / {entry.memory_mb.most:.0f}",
        )
        for entry in sorted(found.attacks, key=lambda entry: entry.attack)
    ]
    headers = ("attack", "server", "p50 ms", "p99 ms", "errors", "recovery s", "memory MB: start / most")
    return tabulate(rows, headers, tablefmt=form, disable_numparse=True)


def soak_table(found: AttackReport, form: str = "simple") -> str:
    """A row for each server."""
    rows = [
        (
            entry.server,
            f"{entry.minutes:.0f}",
            f"{entry.honest_requests:,}",
            f"{sum(entry.honest_errors.values()):,}",
            _ms(entry.honest_p50_ms),
            _ms(entry.honest_p99_ms),
            *(f"{getattr(entry.memory_mb, key):.0f}" for key in MEMORY),
        )
        for entry in found.soak
    ]
    headers = ("server", "minutes", "honest requests", "errors", "p50 ms", "p99 ms", *MEMORY.values())
    return tabulate(rows, headers, tablefmt=form, disable_numparse=True)


def note(found: AttackReport) -> str:
    """How to read the table."""
    machine = f"{found.machine.cpu}, {found.machine.cores} cores"
    if found.soak:
        what = "All servers ran at once; each attack of the other table lasted 10 s, with pauses of 5 s."
    else:
        seconds = min(entry.seconds for entry in found.attacks)
        what = (
            f"Each attack lasted {seconds:.0f} s. Recovery is the time from its end to the last honest "
            f"request that failed or took over {SLOW_MS / 1000:g} s."
        )
    return (
        f"{machine}, commit {found.commit}. An honest client sends {RATE:g} requests a second from its own "
        f"address. {what} Clients and servers share the cores: compare rows, not machines."
    )


def page(found: AttackReport) -> str:
    """All of it as a Markdown page."""
    return f"# What an honest client notices during attacks\n\n{excerpt(found)}\n"


def excerpt(found: AttackReport) -> str:
    """Table and note as Markdown."""
    return f"{(soak_table if found.soak else table)(found, 'github')}\n\n{note(found)}"


def _ms(value: float | None) -> str:
    return "no answer" if value is None else f"{value:,.0f}"
