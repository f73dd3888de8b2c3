"""Servers compared with one model behind each: right answers first, then turns, CPU apart, ratios."""

import asyncio
import json
import subprocess
import sys
import time
from contextlib import contextmanager, nullcontext
from pathlib import Path

import msgspec
import psutil
import pytest
from aiohttp import web

from benchmarks.__main__ import main
from benchmarks.report import servers_page
from benchmarks.report.files import read_servers
from benchmarks.report.publishing import render
from benchmarks.served import servers
from benchmarks.served.entrants import Entry, entries, free_archive, serve_free_app
from benchmarks.served.run import Running, as_bodies, serve
from benchmarks.served.servers import Plan, Servers, expected, measure, right
from common.records import read
from export.archives.package import package

TEXTS = [f"text {number}" for number in range(70)]
BRIEF = Plan(clients=(2, 4), rounds=2, seconds=0.2)
SLOW_S = 0.02
CONSTANT_MODEL = ("constant", Path())


@contextmanager
def no_step(what: str):
    assert what.split()[0] in servers.steps(1, BRIEF)
    yield


@pytest.fixture
def entrant(loopback):
    """A stand-in that is up in this process, and answers the same label after a while."""

    def make(name: str, after_s: float = 0.0, label: str = "same") -> Entry:
        async def answer(request: web.Request) -> web.Response:
            await request.read()
            if after_s:
                await asyncio.sleep(after_s)
            return web.json_response({"label": label})

        running = Running(loopback(answer), 2.0, psutil.Process())
        return Entry(name, "a stand-in", CONSTANT_MODEL, lambda: nullcontext(running))

    return make


@pytest.fixture
def document(entrant) -> Servers:
    absent = Entry(
        "absent", "a stand-in", CONSTANT_MODEL, nullcontext, lacks="not installed: make install-servers"
    )
    several = [entrant("torchserve"), entrant("slow", SLOW_S), absent]
    found = measure("constant", Path("hate-onnx-int8.mar"), several, TEXTS, BRIEF, no_step)
    return Servers(schema=1, models=[found])


def test_each_is_measured_beside_ours_and_who_is_missing_says_why(document: Servers) -> None:
    (found,) = document.models
    ours, slow, absent = found.servers
    assert [level.concurrency for level in ours.closed] == [2, 4]
    assert ours.closed[0].by_ours.median == 1
    assert slow.closed[0].by_ours.most < 1
    assert slow.closed[0].p50_ms > 1000 * SLOW_S
    assert slow.closed[1].passes == 2
    assert ours.closed[0].cpu.server_ms > 0
    assert ours.closed[0].cpu.client_ms > 0
    assert slow.open.level.offered_rps == ours.open.level.offered_rps, "the same arrivals at all"
    slowest = min(server.closed[1].requests_per_second for server in (ours, slow))
    assert ours.open.level.offered_rps == pytest.approx(slowest / 2, rel=0.3)
    assert absent.error == "not installed: make install-servers"
    assert absent.closed == []
    page = servers_page.page(document)
    assert "- absent: not installed: make install-servers." in page
    assert page.count("| slow") == 3


def test_cpu_is_that_of_the_whole_tree(tmp_path: Path) -> None:
    burn = "import time\nend = time.process_time() + 0.5\nwhile time.process_time() < end: pass\ninput()"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}])"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as process:
        running = Running("", 1.0, psutil.Process(process.pid))
        deadline = time.monotonic() + 60
        while servers.cpu_s(running) < 0.5:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert sum(running.worker.cpu_times()[:2]) < 0.5, "the child took it"
        process.communicate(b"\n")


def test_of_the_pipeline_ours_answer_as_the_archive_does(tmp_path: Path) -> None:
    """Its labels need not be those of the pipeline: int8, with a threshold."""
    places = tmp_path / "a.mar", tmp_path / "artifact", tmp_path / "checkpoint", tmp_path
    ours, app, fastapi, mosec = entries("pipeline", *places, ["mosec"])
    assert ours.made_of == app.made_of == ("predictor", tmp_path / "artifact")
    assert fastapi.made_of == mosec.made_of == ("pipeline", tmp_path / "checkpoint")
    ours, mosec = entries("onnx-int8", *places, ["mosec"])[::2]
    assert ours.made_of == mosec.made_of == ("predictor", tmp_path / "artifact")


def test_a_server_that_stops_answering_keeps_what_was_measured(entrant) -> None:
    each = servers.Measured(entrant("dies"), loads={}, error=None)
    each.running = Running("http://127.0.0.1:9/", 1.0, psutil.Process())
    servers._closed(each, TEXTS, 2, 0.1)
    assert sum(each.loads[2][0].errors.values()) > 0
    servers._ask_in_turns([each], TEXTS, BRIEF, no_step)
    assert each.opens == [], "nothing is offered to a server that answers nothing"


def test_wrong_answers_are_seen_and_end_it(entrant) -> None:
    liar = entrant("liar", label="other")
    with liar.serve() as running:
        assert right(liar, running.predictions, ["a", "b"], ["other", "same"]) == 0.5
        assert right(liar, running.predictions, ["a", "b"], None) == 1
    each = servers.Measured(liar)
    with servers.ExitStack() as stack:
        servers._start(each, stack, TEXTS[:4], ["same"] * 4)
    assert each.error == "only 0% of its answers were right"


def test_another_model_is_added_to_the_record_and_the_same_replaced(document, monkeypatch, tmp_path) -> None:
    (found,) = document.models
    monkeypatch.setattr(servers, "unpacked", lambda archive, folder: type("A", (), {"folder": folder}))
    monkeypatch.setattr(servers, "entries", lambda *given: [])

    def again(model: str, *given: object) -> servers.WithModel:
        return msgspec.structs.replace(found, model=model, rounds=7)

    monkeypatch.setattr(servers, "measure", again)
    archives = {"onnx-int8": Path("a.mar")}
    both = servers.compare(document, "onnx-int8", archives, tmp_path, [], tmp_path, TEXTS, BRIEF)
    assert [each.model for each in both.models] == ["constant", "onnx-int8"]
    anew = servers.compare(both, "constant", archives, tmp_path, [], tmp_path, TEXTS, BRIEF)
    assert [(each.model, each.rounds) for each in anew.models] == [("onnx-int8", 7), ("constant", 7)]


def test_publishing_writes_the_tables(document: Servers, tmp_path: Path) -> None:
    (tmp_path / "servers.json").write_text(json.dumps(msgspec.to_builtins(document)))
    places = ("--results", str(tmp_path), "--published", str(tmp_path / "published"))
    assert main(["publish", "speed", "--servers", *places]) == 0
    text = "<!-- table:speed:servers -->\n<!-- /table -->\n"
    (found,) = document.models
    assert servers_page.table(found) in render(text, tmp_path / "published")
    plain = msgspec.to_builtins(document)
    del plain["models"][0]["servers"][0]["closed"]
    with pytest.raises(msgspec.ValidationError):
        read(plain, Servers)


def test_unknown_names_are_refused(checkpoint_folder, tmp_path: Path) -> None:
    (tmp_path / "hate-fp32.mar").write_bytes(b"")
    places = ["--checkpoint", str(checkpoint_folder), "--store", str(tmp_path)]
    for option in ("--servers", "--models"):
        with pytest.raises(servers.UserError, match=f"{option} has unknown names: nginx"):
            main(["servers", "fp32", option, "nginx", *places])


@pytest.mark.server
@pytest.mark.slow
def test_our_servers_with_a_model_that_costs_nothing_do_not_ask_it(build_once, tmp_path: Path) -> None:
    """Every text gets the label of even scores, which the model does not give them all."""
    artifact = build_once("onnx-int8")
    archive = package(artifact, tmp_path)
    texts = TEXTS[:8]
    with serve(free_archive(archive, tmp_path)) as running:
        answers = [servers.ask(running.predictions, body) for body in as_bodies(texts)]
    with serve_free_app(archive) as running:
        answers += [servers.ask(running.predictions, body) for body in as_bodies(texts)]
    even = 1 / len(artifact.labels)
    assert all(set(answer["scores"].values()) == {even} for answer in answers)


@pytest.mark.server
@pytest.mark.slow
def test_real_servers_of_ours_are_compared(build_once, checkpoint_folder, tmp_path: Path) -> None:
    package(build_once("onnx-int8"), tmp_path)
    places = ["--checkpoint", str(checkpoint_folder), "--store", str(tmp_path), "--results", str(tmp_path)]
    brief = ["--rounds", "1", "--seconds", "0.5", "--clients", "4", "--baselines-folder", str(tmp_path)]
    assert main(["servers", "onnx-int8", "--models", "onnx-int8", "constant", *brief, *places]) == 0
    found = read_servers(tmp_path / "servers.json")
    for model in found.models:
        ours, app, *others = model.servers
        assert ours.right == app.right == 1
        assert not any(sum(level.errors.values()) for level in (*ours.closed, *app.closed))
        assert all(other.error for other in others), "none is installed there"
    assert expected("constant", tmp_path, TEXTS) is None
