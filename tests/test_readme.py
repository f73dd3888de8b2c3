"""The README is held to the code: its commands exist, its tables are fresh, its example variant works."""

import importlib.util
import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest

import handler
from benchmarks.tables import stale
from export.build import build
from export.registry import VARIANTS
from export.source import Source
from handler.predictor import Predictor

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"^make ([a-z-]+)|`make ([a-z-]+)", README, re.MULTILINE))
    assert {first or second for first, second in named} <= targets


def test_every_variant_is_in_the_list_of_variants_and_no_other() -> None:
    listed = re.search(r"## The variants\n(.*?)\n## ", README, re.DOTALL)
    assert listed is not None
    rows = [line.split("|")[1] for line in listed.group(1).splitlines() if line.startswith("| `")]
    assert sorted(name for row in rows for name in re.findall(r"`([^`]+)`", row)) == sorted(VARIANTS)


def test_every_folder_and_file_of_the_tree_exists() -> None:
    (tree,) = re.findall(r"## The house\n\n```\n(.*?)```", README, re.DOTALL)
    names = {word for line in tree.splitlines() for word in line.split("  ")[:1]} | set(
        tree.splitlines()[-1].split()
    )
    assert [name for name in names if not (ROOT / name.strip()).exists() and "  " not in name and name] == []


def test_the_tables_are_those_of_the_published_reports() -> None:
    assert stale([ROOT / "README.md"], ROOT / "benchmarks" / "published") == []


def test_the_answer_that_is_shown_fits_the_schema() -> None:
    (shown,) = re.findall(r"```json\n(.*?)```", README, re.DOTALL)
    schema = json.loads(Path(handler.__file__).with_name("answer.schema.json").read_text())
    jsonschema.validate(json.loads(shown), schema)


def test_the_example_of_a_new_variant_works_as_it_stands(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    path = tmp_path / "bf16.py"
    path.write_text(example)
    spec = importlib.util.spec_from_file_location("export.variants.bf16", path)
    assert spec is not None
    assert spec.loader is not None
    monkeypatch.setitem(sys.modules, spec.name, importlib.util.module_from_spec(spec))
    before = dict(VARIANTS)
    try:
        spec.loader.exec_module(sys.modules[spec.name])
        own = replace(source, artifacts=tmp_path / "artifacts")
        build(VARIANTS["fp32"], own, print)
        artifact = build(VARIANTS["bf16"], own, print)
    finally:
        VARIANTS.clear()
        VARIANTS.update(before)
    assert artifact.meta["check"]["equal"]
    assert artifact.meta["proof"]["linear_dtypes"] == {"bfloat16": 14}
    assert Predictor.load(artifact.folder).predict(["a text"])[0].tokens == 4


@pytest.mark.parametrize("word", ["TODO", "FIXME"])
def test_no_promise_is_left_in_the_text(word: str) -> None:
    assert word not in README
