import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.report.publishing import KINDS, publish_kind
from benchmarks.sameness.self_checks import Loads, SelfChecks, Tried, excerpt, page
from benchmarks.studies import self_check
from benchmarks.studies.self_check import Answered, Change, changes
from common.records import read
from handler.self_check import Outcome


def document(*tried: Tried) -> SelfChecks:
    times = {"median_ms": 20.4, "most_ms": 99, "text_ms": 0.5}
    loads = Loads(variant=tried[-1].variant, threads=1, loads=3, alarms=1, move=2e-6, **times)
    machine = {"cpu": "A CPU", "system": "Linux", "cores": 2}
    return SelfChecks(
        data="demo",
        machine=machine,
        versions={"torch": "2"},
        texts=200,
        allowed=0.002,
        tried=[*tried],
        loads=[loads],
    )


def rows_of(text: str, word: str = "") -> list[list[str]]:
    """The cells of its tables' rows whose first cell holds the word."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    return [row for row in rows if row and word in row[0]]


def test_the_page_counts_what_was_seen_and_where_the_bound_held() -> None:
    same = {"variant": "fp32", "status": "same", "move": 0.0}
    whole = document(
        Tried(change="nothing", **same, changed=0, unlike_fp32=0),
        Tried(change="unseen", **same, changed=2, unlike_fp32=1),
        Tried(
            variant="fp32",
            change="kernels",
            status="mismatch",
            move=0.1,
            at_most=0.03,
            changed=5,
            unlike_fp32=5,
        ),
        Tried(
            change="flipped",
            **{**same, "status": "mismatch"},
            at_most=0.006,
            changed=2,
            unlike_fp32=2,
        ),
        Tried(variant="fp32", change="no kernels", refused="none"),
    )
    found = excerpt(whole)
    assert rows_of(found, "kernels") == [["kernels", "mismatch: 5 (6.0)"], ["no kernels", "does not load"]]
    assert ["fp32", "1", "3", "1", "2e-06", "20", "99", "0.50"] in rows_of(found)
    assert "In 4 cases the variant loads. Labels changed in 3 of them, and the self-check saw 2" in found
    assert "In 2 more changed than the bound says, in 1 beyond chance" in found
    assert "Of 3 loads of variants that nothing was done to, 1 raised an alarm" in found
    assert ["fp32", "kernels", "mismatch", "0.1", "3.00%", "5 (2.50%)", "5 (2.50%)"] in rows_of(page(whole))
    assert ["fp32", "no kernels", "does not load", "", "", "", ""] in rows_of(page(whole))


def test_each_runtime_has_its_own_changes(build_once, tmp_path: Path) -> None:
    (tmp_path / "openvino-2025.0.dist-info").mkdir()
    (tmp_path / "openvino-2025.0.dist-info" / "METADATA").write_text("Name: openvino\nVersion: 2025.0\n")
    names = {
        variant: [change.name for change in changes(build_once(variant), "qemu-x86_64", [tmp_path])]
        for variant in ("fp32", "openvino-int8")
    }
    assert {"nothing", "one thread", "100 weights flipped", "an emulated Haswell"} <= set.intersection(
        *map(set, names.values())
    )
    assert {"precision bf16", "kernels of AVX512_CORE", "openvino 2025.0"} <= set(names["openvino-int8"])
    assert "openvino 2025.0" not in names["fp32"]


def test_labels_are_held_against_the_unchanged_variants_and_fp32s(build_once, monkeypatch) -> None:
    answers = iter(
        [
            Answered(Outcome("same"), np.array([0, 0, 1]), 0.5),
            "it does not compile",
            Answered(Outcome("close", 64, 0.01, 0.001), np.array([0, 1, 1]), 0.5),
            Answered(Outcome("close", 64, 0.01, 0.05), np.array([1, 1]), 0.5),
        ]
    )
    monkeypatch.setattr(self_check, "answered", lambda *_: next(answers))
    given = [Change("nothing"), Change("a"), Change("b"), Change("slow", only=2)]
    usual, refused, changed, few = self_check.tried(
        build_once("fp32"), given, ["x", "y", "z"], np.array([1, 1, 1])
    )
    assert (usual.changed, usual.unlike_fp32) == (0, 2)
    assert (refused.refused, refused.changed) == ("it does not compile", None)
    assert (few.only, few.changed, few.unlike_fp32) == (2, 2, 0)
    assert excerpt(document(few)).splitlines()[2].split("|")[2].strip() == "close: 2 (0.1) of 2"
    assert (changed.status, changed.at_most, changed.changed, changed.unlike_fp32) == ("close", 0.001, 1, 1)


def test_rows_are_added_to_those_of_the_same_texts_and_replace_themselves(tmp_path: Path) -> None:
    file = tmp_path / "results" / "self-check.json"
    first = document(Tried(variant="fp32", change="a"), Tried(variant="int8", change="a"))
    self_check._with(file, first)
    mended = Tried(variant="int8", change="a", status="same")
    again = self_check._with(file, document(mended, Tried(variant="int8", change="b")))
    assert [(row.variant, row.change) for row in again.tried] == [("fp32", "a"), ("int8", "a"), ("int8", "b")]
    assert again.tried[1] == mended
    assert [row.variant for row in again.loads] == ["int8"]
    other = document(Tried(variant="int8", change="c"))
    other.texts = 7
    assert self_check._with(file, other).tried == other.tried


@pytest.mark.slow
def test_changes_are_tried_and_what_they_change_is_published(
    build_once, source, tmp_path: Path, capsys
) -> None:
    build_once("fp32")
    capsys.readouterr()
    given = ["--checkpoint", source.checkpoint.folder, "--artifacts", source.artifacts, "--results", tmp_path]
    given += ["--texts", 20, "--loads", 1, "fp32"]
    assert self_check.main(list(map(str, given))) == 0
    shown = capsys.readouterr()
    found = read(json.loads(shown.out), SelfChecks)
    assert excerpt(found) in shown.err
    by_change = {tried.change: tried for tried in found.tried}
    for change in ("nothing", "one thread"):
        assert (by_change[change].status, by_change[change].changed) == ("same", 0)
    assert by_change["10,000 weights flipped"].status == "mismatch"
    assert by_change["the tokenizer's case"].tokens_differ >= 1
    assert not any(tried.refused for tried in found.tried)
    assert [loads.alarms for loads in found.loads] == [0] * len(found.loads)
    path = publish_kind("self-check", "demo", tmp_path, tmp_path)
    assert path.with_suffix(".md").read_text() == KINDS["self-check"].page(found)
