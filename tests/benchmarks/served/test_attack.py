"""The attacks do what they say, and what an honest client notices is counted from its own answers."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest

from benchmarks.served.attack.attacks import ADDRESS, BODY_BYTES, Target, flood, half_sent, hold, request
from benchmarks.served.attack.clients import Honest
from benchmarks.served.attack.fronts import NGINX, nginx_config
from benchmarks.served.attack.measure import recovered
from benchmarks.served.attack.page import excerpt
from benchmarks.served.attack.records import AttackReport, Outcome
from benchmarks.served.attack.records import Memory as AttackMemory
from benchmarks.served.overload import Memory
from deploy.torchserve.server import free_ports

Reply = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def against(reply: Reply, attack: Callable[[Target, float], Awaitable[Counter[str]]], seconds: float = 1.0):
    """What an attack sees of a server that treats each connection as `reply` does."""

    async def run() -> Counter[str]:
        (port,) = free_ports(1)
        server = await asyncio.start_server(reply, "127.0.0.1", port)
        try:
            return await attack(Target(port), time.monotonic() + seconds)
        finally:
            server.close()  # not wait_closed(): since Python 3.12 it waits for open connections too

    return asyncio.run(run())


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    assert writer.get_extra_info("peername")[0] == ADDRESS
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 429 Too Many Requests\r\nConnection: close\r\n\r\n")
    writer.close()


async def ignore(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(10)


async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


def test_a_flood_counts_the_statuses_that_it_gets() -> None:
    saw = against(answer, lambda target, until: flood(target, until, 2, request("/", b"{}")))
    assert set(saw) == {"429"}
    assert saw["429"] > 2


def test_held_connections_are_counted_by_how_they_ended() -> None:
    held = against(ignore, lambda target, until: hold(target, until, 5, b"POST"))
    assert held["held to the end"] == 5
    refused = against(hang_up, lambda target, until: hold(target, until, 5, b"", drip=b"a"))
    assert set(refused) == {"closed by the server"}
    assert refused["closed by the server"] >= 5


def test_a_flood_that_gets_no_answer_says_so() -> None:
    saw = against(ignore, lambda target, until: flood(target, until, 3, request("/", b"{}")))
    assert saw == {"no answer": 3}


def test_a_half_sent_request_announces_more_than_it_sends() -> None:
    sent = half_sent("/predict", 100)
    head, _, body = sent.partition(b"\r\n\r\n")
    assert f"Content-Length: {BODY_BYTES}".encode() in head
    assert body == b"a" * 100


def test_nginx_stands_before_the_one_server_that_is_attacked() -> None:
    config = nginx_config(NGINX.read_text(), 4001, 4002)
    assert config.count("server 127.0.0.1:") == 1
    assert "server 127.0.0.1:4001" in config
    assert "listen 127.0.0.1:4002" in config


class Told:
    """Answers as an honest client would have seen them."""

    def __init__(self, *answers: Honest) -> None:
        self._answers = list(answers)

    def all(self) -> list[Honest]:
        return self._answers


def test_recovery_counts_to_the_last_honest_request_that_went_wrong() -> None:
    end = time.monotonic()
    well = [Honest(end + second, "200", 5.0) for second in range(20)]
    assert recovered(Told(*well), end) == 0.0
    slow, failed = Honest(end + 2, "200", 1500.0), Honest(end + 7, "503", 1.0)
    assert recovered(Told(*well, slow, failed), end) == pytest.approx(7.0)


def test_memory_is_taken_from_a_moment_on() -> None:
    assert Memory([1.0, 2.0, 3.0], [10.0, 20.0, 30.0], begun_s=100.0).since(102.0) == [20.0, 30.0]


def test_the_table_shows_who_got_no_answer_and_what_never_recovered(make) -> None:
    entry = Outcome(
        server="app",
        attack="forms",
        seconds=15.0,
        honest_requests=300,
        honest_errors={"TimeoutError": 299, "503": 1},
        honest_p50_ms=None,
        honest_p99_ms=None,
        recovery_s=None,
        memory_mb=AttackMemory(300.0, 1200.0, 1100.0),
        attacker_saw={},
    )
    machine = make.document(make.variant("fp32")).machine
    shown = excerpt(AttackReport(machine, "abc", 300.0, [entry]))
    assert "no answer" in shown
    assert "300 of 300" in shown
    assert "not within 300" in shown
    assert "300 / 1200" in shown
