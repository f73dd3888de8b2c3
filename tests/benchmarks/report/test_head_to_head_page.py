"""Head-to-heads: what is published is valid, shown in full, and measured on real servers."""

import json
from pathlib import Path

import jsonschema
import pytest

from benchmarks.__main__ import main
from benchmarks.names import APP, BARE, EXAMPLE, FASTAPI
from benchmarks.report import head_to_head_page
from benchmarks.report.publishing import render
from benchmarks.served.head_to_head import validate
from export.archives.package import package

RANGE = {"median": 2.0, "least": 1.5, "most": 2.5}
LEVEL = {"requests_per_second": 10.0, "p50_ms": 5.0, "p99_ms": None, "errors": {}, "ours_by_theirs": RANGE}
FIRST = {
    "first_ms": 9.0,
    "later_p50_ms": 8.0,
    "new_length_worst_ms": 9.5,
    "known_length_worst_ms": 9.0,
    "new_by_known_p50": 1.0,
}
START = {"ready_s": 2.0, "archive_mb": 1.0, "worker_rss_mb": 200.0}


@pytest.fixture
def document() -> dict:
    names = ("onnx-int8", APP, EXAMPLE, FASTAPI)
    return {
        "schema": 1,
        "ours": "onnx-int8",
        "machine": {"cpu": "A processor", "cores": 2, "versions": {"python": "3.11.7"}},
        "commit": "0123456789ab",
        "load_average_before": 0.1,
        "rounds": 3,
        "seconds": 2.0,
        "loads": [{"concurrency": 32, "servers": [{"name": name, **LEVEL} for name in names]}],
        "first": dict.fromkeys(names, FIRST),
        "many": {"texts_per_second": {"in process": 90.0}, "share": {"in process": RANGE}},
        "cost": dict.fromkeys(("http", "handler", "predictor", "bare"), RANGE),
        "starts": dict.fromkeys((BARE, "onnx-int8"), START),
    }


def test_a_page_shows_every_server_and_says_where_samples_are_too_few(document: dict) -> None:
    page = head_to_head_page.page(document)
    for name in ("onnx-int8", APP, EXAMPLE, FASTAPI):
        assert page.count(f"| {name}") >= 2
        assert f"{name}: " in page
    assert "too few" in page
    assert "2.0x (1.5 to 2.5)" in page


def test_publishing_writes_the_table_of_the_readme(document: dict, tmp_path: Path) -> None:
    (tmp_path / "head-to-head.json").write_text(json.dumps(document))
    places = ("--results", str(tmp_path), "--published", str(tmp_path / "published"))
    assert main(["publish", "speed", "--served", *places]) == 0
    text = "<!-- table:speed:served -->\n<!-- /table -->\n"
    assert head_to_head_page.loads_table(document) in render(text, tmp_path / "published")


def test_what_is_no_head_to_head_is_refused(document: dict) -> None:
    validate(document)
    with pytest.raises(jsonschema.ValidationError):
        validate({key: value for key, value in document.items() if key != "cost"})


@pytest.mark.slow
def test_real_servers_are_measured_beside_each_other(build_once, checkpoint_folder, tmp_path: Path) -> None:
    """Seven servers start, so it is no part of `make test`; on the tiny model it is short."""
    for name in ("onnx-int8", "fp32"):
        package(build_once(name), tmp_path / "store")
    places = ["--checkpoint", str(checkpoint_folder), "--store", str(tmp_path / "store")]
    brief = ["--rounds", "1", "--seconds", "1", "--results", str(tmp_path)]
    assert main(["head-to-head", "onnx-int8", "fp32", *places, *brief]) == 0
    found = json.loads((tmp_path / "head-to-head.json").read_text())
    validate(found)
    assert all(not sum(server["errors"].values()) for level in found["loads"] for server in level["servers"])
    assert found["cost"]["http"]["median"] > found["cost"]["handler"]["median"] > 0
