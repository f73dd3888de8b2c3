"""`python -m benchmarks attack`: what an honest client notices while another one attacks.

The honest client sends 20 requests a second, from 5 s before an attack until 5 s after the server has
recovered. Client, attacker and server share the cores, so a server alone does better than these figures.
"""

import argparse
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from msgspec import to_builtins

from benchmarks.environment import fingerprint
from benchmarks.names import ATTACK, SOAK
from benchmarks.served.attack.attacks import ATTACKS
from benchmarks.served.attack.clients import Answers, attacked, honest_client
from benchmarks.served.attack.fronts import FRONTS, Front
from benchmarks.served.attack.page import soak_table, table
from benchmarks.served.attack.records import AttackReport, Memory, Outcome, Soaked, SoakMemory
from benchmarks.served.overload import MEMORY_EVERY_S, watched
from benchmarks.served.overload import Memory as MemoryWatch
from benchmarks.served.run import as_bodies
from common.atomic import write_json
from common.commands import emit, say
from common.environment import commit
from deploy.tuning.sample import sample
from handler.errors import UnsupportedError

QUIET_S = 5.0
RECOVERY_S = 300.0  # how long recovery is waited for


def main(arguments: argparse.Namespace) -> int:
    """Measure, write `attack.json` and print its table."""
    bodies = as_bodies(sample(arguments.archive, None))
    soaked: list[Soaked] = []
    outcomes: list[Outcome] = []
    if arguments.soak_minutes:
        soaked = soak(arguments.archive, bodies, arguments.servers, 60 * arguments.soak_minutes)
    else:
        outcomes = measure(arguments.archive, bodies, arguments.servers, arguments.attacks, arguments.seconds)
    found = AttackReport(
        machine=fingerprint(), commit=commit(), recovery_limit_s=RECOVERY_S, attacks=outcomes, soak=soaked
    )
    say(soak_table(found) if soaked else table(found))
    document = to_builtins(found)
    write_json(arguments.results / f"{SOAK if soaked else ATTACK}.json", document)
    emit(document)
    return 0


def measure(
    archive: Path, bodies: Sequence[bytes], servers: Sequence[str], attacks: Sequence[str], seconds: float
) -> list[Outcome]:
    """Every attack on every server; a server that does not recover is restarted for the next attack."""
    outcomes = []
    for server in servers:
        left = list(attacks)
        while left:
            try:
                with FRONTS[server](archive) as front:
                    recovered = True
                    while left and recovered:
                        attack = left.pop(0)
                        say(f"{server}: {attack}")
                        outcomes.append(one_attack(front, bodies, server, attack, seconds))
                        recovered = outcomes[-1].recovery_s is not None
            except UnsupportedError as error:
                say(f"{server}: {error}")
                break
    return outcomes


def one_attack(front: Front, bodies: Sequence[bytes], server: str, attack: str, seconds: float) -> Outcome:
    with honest_client(front.predictions, bodies) as answers, watched(front) as memory:
        time.sleep(QUIET_S)
        begin, end, saw = attacked(attack, front.target, seconds)
        recovery_s = recovered(answers, end)
    during = [answer for answer in answers.all() if begin <= answer.sent_s < end]
    took = [answer.took_ms for answer in during if answer.outcome == "200"]
    errors = Counter(answer.outcome for answer in during if answer.outcome != "200")
    return Outcome(
        server=server,
        attack=attack,
        seconds=end - begin,
        honest_requests=len(during),
        honest_errors=dict(errors),
        honest_p50_ms=float(np.percentile(took, 50)) if took else None,
        honest_p99_ms=float(np.percentile(took, 99)) if took else None,
        recovery_s=recovery_s,
        memory_mb=Memory(start=memory.mb[0], most=max(memory.since(begin)), end=memory.mb[-1]),
        attacker_saw=dict(saw),
    )


def recovered(answers: Answers, end_s: float) -> float | None:
    """Seconds from the attack's end to the last honest request that went wrong; None if that goes on."""
    while time.monotonic() < end_s + RECOVERY_S:
        time.sleep(0.5)
        ill = [answer.sent_s for answer in answers.all() if not answer.is_well]
        well_since = max([end_s, *ill])
        last = max(answer.sent_s for answer in answers.all())
        if last > well_since + QUIET_S:
            return max([0.0, *(sent_s - end_s for sent_s in ill)])
    return None


def soak(archive: Path, bodies: Sequence[bytes], servers: Sequence[str], seconds: float) -> list[Soaked]:
    """All servers at once, each with an honest client, under one attack after another with pauses between."""
    with ExitStack() as stack:
        at_work = []
        for server in servers:
            front = stack.enter_context(FRONTS[server](archive))
            answers = stack.enter_context(honest_client(front.predictions, bodies))
            at_work.append((server, front, answers, stack.enter_context(watched(front))))
        end = time.monotonic() + seconds
        time.sleep(60)
        rounds = 0
        while time.monotonic() < end - 60:
            for attack in ATTACKS:
                threads = [
                    threading.Thread(target=attacked, args=(attack, front.target, 10.0))
                    for _, front, _, _ in at_work
                ]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                time.sleep(QUIET_S)
            rounds += 1
        time.sleep(60)
        return [_soaked(server, answers, memory, rounds) for server, _, answers, memory in at_work]


def _soaked(server: str, answers: Answers, memory: MemoryWatch, rounds: int) -> Soaked:
    seen = answers.all()
    took = [answer.took_ms for answer in seen if answer.outcome == "200"]
    errors = Counter(answer.outcome for answer in seen if answer.outcome != "200")
    minute = round(60 / MEMORY_EVERY_S)
    after_one_round = memory.since(memory.begun_s + 60 + len(ATTACKS) * (10 + QUIET_S))
    return Soaked(
        server=server,
        minutes=(memory.times_s[-1] - memory.times_s[0]) / 60,
        rounds=rounds,
        honest_requests=len(seen),
        honest_errors=dict(errors),
        honest_p50_ms=float(np.percentile(took, 50)),
        honest_p99_ms=float(np.percentile(took, 99)),
        memory_mb=SoakMemory(
            first_minute=float(np.median(memory.mb[:minute])),
            after_one_round=float(np.median(after_one_round[:minute])),
            last_minute=float(np.median(memory.mb[-minute:])),
            most=max(memory.mb),
        ),
    )
