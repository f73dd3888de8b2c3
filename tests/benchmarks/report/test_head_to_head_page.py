"""Head-to-heads: what is published is valid, shown in full, and measured on real servers."""

import json
from pathlib import Path

import msgspec
import pytest
from msgspec import structs

from benchmarks.__main__ import main
from benchmarks.names import APP, BARE, EXAMPLE, FASTAPI
from benchmarks.report import head_to_head_page
from benchmarks.report.files import read_head_to_head
from benchmarks.report.publishing import render
from benchmarks.served.head_to_head import (
    Costs,
    FirstAnswers,
    HeadToHead,
    LoadLevel,
    ManyTexts,
    Range,
    ServerLevel,
    Start,
)
from common.records import read
from export.archives.package import package

RANGE = Range(2.0, 1.5, 2.5)
NAMES = ("onnx-int8", APP, EXAMPLE, FASTAPI)


@pytest.fixture
def document(make) -> HeadToHead:
    level = structs.replace(make.level(32, 10.0, 10.0), p99_ms=None)
    servers = [ServerLevel(**structs.asdict(level), name=name, ours_by_theirs=RANGE) for name in NAMES]
    return HeadToHead(
        schema=1,
        ours="onnx-int8",
        machine=make.document(make.variant("fp32")).machine,
        commit="0123456789ab",
        load_average_before=0.1,
        rounds=3,
        seconds=2.0,
        loads=[LoadLevel(32, servers)],
        first=dict.fromkeys(NAMES, FirstAnswers(9.0, 8.0, 9.5, 9.0, 1.0)),
        many=ManyTexts({"in process": 90.0}, {"in process": RANGE}),
        cost=Costs(RANGE, RANGE, RANGE, RANGE),
        starts=dict.fromkeys((BARE, "onnx-int8"), Start(2.0, 1.0, 200.0)),
    )


def test_a_page_shows_every_server_and_says_where_samples_are_too_few(document: HeadToHead) -> None:
    page = head_to_head_page.page(document)
    for name in ("onnx-int8", APP, EXAMPLE, FASTAPI):
        assert page.count(f"| {name}") >= 2
        assert f"{name}: " in page
    assert "too few" in page
    assert "2.0x (1.5 to 2.5)" in page


def test_publishing_writes_the_table_of_the_readme(document: HeadToHead, tmp_path: Path) -> None:
    (tmp_path / "head-to-head.json").write_text(json.dumps(msgspec.to_builtins(document)))
    places = ("--results", str(tmp_path), "--published", str(tmp_path / "published"))
    assert main(["publish", "speed", "--served", *places]) == 0
    text = "<!-- table:speed:served -->\n<!-- /table -->\n"
    assert head_to_head_page.loads_table(document) in render(text, tmp_path / "published")


def test_what_is_no_head_to_head_is_refused(document: HeadToHead) -> None:
    plain = msgspec.to_builtins(document)
    assert read(plain, HeadToHead) == document
    del plain["cost"]
    with pytest.raises(msgspec.ValidationError):
        read(plain, HeadToHead)


@pytest.mark.slow
def test_real_servers_are_measured_next_to_each_other(build_once, checkpoint_folder, tmp_path: Path) -> None:
    """Seven servers start, so it is no part of `make test`; on the tiny model it is short."""
    for name in ("onnx-int8", "fp32"):
        package(build_once(name), tmp_path / "store")
    places = ["--checkpoint", str(checkpoint_folder), "--store", str(tmp_path / "store")]
    brief = ["--rounds", "1", "--seconds", "1", "--results", str(tmp_path)]
    assert main(["head-to-head", "onnx-int8", "fp32", *places, *brief]) == 0
    found = read_head_to_head(tmp_path / "head-to-head.json")
    assert all(not sum(server.errors.values()) for level in found.loads for server in level.servers)
    assert found.cost.http.median > found.cost.handler.median > 0
