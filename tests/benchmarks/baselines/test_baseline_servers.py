"""Baselines as rows of a run: served by the same loops, or left out with the reason."""

from contextlib import contextmanager, nullcontext
from dataclasses import replace

import numpy as np
import psutil
import pytest
from aiohttp import web

from benchmarks.baselines.servers import BASELINE_SERVERS, BaselineServer, serve_baselines
from benchmarks.profiles import PROFILES
from benchmarks.records import tidied
from benchmarks.resume_log import ResumeLog
from benchmarks.served.run import Running

TEXTS = ["a text", "another text that is somewhat longer than the first"]
BRIEF = replace(PROFILES["demo"], concurrencies=(1, 4), served_s=0.2, open_shares=(0.1,), open_s=0.4)


@contextmanager
def no_step(what: str):
    assert what.startswith("serving ")
    yield


def test_baseline_servers_are_served_like_variants_and_those_that_cannot_be_say_why(
    loopback,
) -> None:
    async def answer(request: web.Request) -> web.Response:
        await request.read()
        return web.json_response({"label": "hate"})

    def serve(checkpoint):
        return nullcontext(Running(loopback(answer), 2.0, psutil.Process()))

    def broken(checkpoint):
        return nullcontext(Running("http://127.0.0.1:9/", 2.0, psutil.Process()))

    stand_ins = [
        BaselineServer("quick", "a stand-in", "https://example.org", ("numpy",), serve),
        BaselineServer("absent", "a stand-in", "https://example.org", ("no-such-package",), serve),
        BaselineServer("broken", "a stand-in", "https://example.org", ("numpy",), broken),
    ]
    by_name = {baseline.name: baseline for baseline in stand_ins}
    quick, absent, dead = serve_baselines(by_name, None, TEXTS, BRIEF, no_step, ResumeLog(None, {}))  # type: ignore[arg-type]
    for entry in (quick, absent, dead):
        assert tidied(entry)
    assert quick.status == "measured"
    assert len(quick.served) == 2
    assert quick.open[0].split_ms is None, "it has no counters"
    assert quick.saturation.capacity_rps > 0
    assert quick.latency == []
    assert quick.versions == {"numpy": np.__version__}
    assert absent.status == "left out"
    assert "pip install no-such-package" in absent.error.message
    assert dead.served[0].errors, "a server that answers nothing is measured, and shows it"


def test_baseline_servers_of_a_checkpoint_are_known_by_name() -> None:
    assert list(BASELINE_SERVERS) == ["fastapi-pipeline", "example-handler"]
    assert all(baseline.documentation.startswith("https://") for baseline in BASELINE_SERVERS.values())


@pytest.mark.slow
def test_real_baseline_servers_answer_under_load(checkpoint_folder) -> None:
    for entry in serve_baselines(
        BASELINE_SERVERS, checkpoint_folder, TEXTS, BRIEF, no_step, ResumeLog(None, {})
    ):
        assert entry.status == "measured", entry.error
        assert not any(level.errors for level in entry.served)
        assert (entry.open[0].split_ms is None) == (entry.name == "fastapi-pipeline")
