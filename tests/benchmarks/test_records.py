"""Reports: what the schema refuses, what is never written, how they look."""

import json
from pathlib import Path

import jsonschema
import msgspec
import pytest
from msgspec import structs

from benchmarks import records
from benchmarks.records import Serving, as_report, flat, json_schema, plain, tidied, tidy
from benchmarks.report import markdown
from benchmarks.report.files import read_report, read_side_by_side, write_reports

SCHEMA = Path(records.__file__).with_name("report.schema.json")


def test_written_reports_are_read_back(make, tmp_path) -> None:
    report = write_reports(tmp_path, make.document(make.variant("fp32"), make.variant("int8", speed=3)))
    assert read_report(tmp_path, "int8") == report.of(report.variants[1])
    assert read_side_by_side(tmp_path / "side-by-side.json") == report
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        f"{name}.{end}" for name in ("fp32", "int8", "side-by-side") for end in ("json", "md", "html")
    }


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda one: one.pop("machine"), id="no machine"),
        pytest.param(lambda one: one.update(host="somewhere"), id="unknown field"),
        pytest.param(lambda one: one["parity"].pop("gate"), id="speed without accuracy"),
        pytest.param(lambda one: one["latency"][0].update(p50_ms=-1), id="negative time"),
        pytest.param(lambda one: one.update(status="failed"), id="failed without an error"),
    ],
)
def test_what_is_no_report_is_refused(make, spoil) -> None:
    one = flat(make.report(make.variant("fp32")))
    as_report(one)
    spoil(one)
    with pytest.raises(msgspec.ValidationError):
        as_report(one)


def test_the_public_schema_is_that_of_the_types() -> None:
    """Made by `python -m benchmarks.records > benchmarks/report.schema.json`."""
    assert SCHEMA.read_text(encoding="utf-8") == json_schema()


def test_what_is_written_keeps_the_public_schema(make) -> None:
    whole = make.document(make.variant("fp32"), make.variant("int8", speed=3), complete=True)
    jsonschema.validate(plain(whole), json.loads(SCHEMA.read_text(encoding="utf-8")))


def test_no_nan_and_no_false_precision_is_written() -> None:
    found = tidy(
        {"a": float("nan"), "b": [float("inf"), 1.23456789], "c": (1, True), "d": 123456.789, "e": 1e-7 / 3}
    )
    assert found == {"a": None, "b": [None, 1.2346], "c": [1, True], "d": 123460.0, "e": 3.3333e-8}
    json.dumps(found, allow_nan=False)


def test_a_crash_is_a_row_that_says_so(make) -> None:
    document = make.document(make.variant("fp32"), make.variant("broken", error="signal SIGSEGV"))
    assert "| broken    | FAILED" in markdown.table(document)
    assert "broken failed during latency: signal SIGSEGV" in markdown.side_by_side(document)
    assert "FAILED" in markdown.terminal_table(document)


def test_the_page_says_what_a_ratio_rests_on(make) -> None:
    page = markdown.side_by_side(make.document(make.variant("fp32"), make.variant("same", speed=1.01)))
    for part in (
        "A processor",
        "torch 2.13.0",
        "profile quick",
        "2 threads",
        "within this run only",
        "equal",
    ):
        assert part in page


def test_baselines_stand_below_the_variants_and_the_lower_bound_below_the_table(make) -> None:
    fast = make.variant("int8", speed=4)
    fast.latency[0].int8_bounds = 1.74
    fast.latency[0].vs_pipeline = fast.latency[0].speedup
    fast.latency[-1].vs_pipeline = structs.replace(fast.latency[-1].speedup, ratio=4.56)
    left_out = make.baseline("ort-int8", error="optimum not installed", left_out=True)
    crashed = make.baseline("plain-openvino-int8", error="signal SIGKILL")
    baselines = [make.baseline("hf-pipeline", speed=0.9), left_out, crashed]
    document = make.document(make.variant("fp32"), fast, baselines=baselines, bound=make.bound())
    lines = markdown.table(document).splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == [
        "fp32",
        "int8",
        "hf-pipeline",
        "ort-int8",
        "plain-openvino-int8",
    ]
    assert "1.7x" in lines[3]
    assert "4.56x" in lines[3]
    page = markdown.side_by_side(document)
    for part in (
        "ort-int8 was left out: optimum not installed",
        "plain-openvino-int8 failed during latency: signal SIGKILL",
        "int8 TOPS",
        "[the hf-pipeline](https://example.org/docs)",
        "optimum 2.1.0",
        "may go below it",
    ):
        assert part in page, part


def test_a_report_without_baselines_bound_and_builds_has_neither_sections_nor_columns_of_them(make) -> None:
    old = make.variant("fp32")
    old.artifact.build_seconds = msgspec.UNSET
    page = markdown.side_by_side(make.document(old))
    assert "bound:" not in page
    assert "hf-pipeline" not in page
    assert "## Proof" not in page


@pytest.mark.parametrize(
    ("proof", "words"),
    [
        pytest.param(
            {"summary": "38 of 38 products in int8", "more": 1}, "38 of 38 products in int8", id="own"
        ),
        pytest.param(
            {"executed": {"u8": 34, "i8": 4}, "integer_matmuls": 38, "amx": True, "names": ["a"]},
            "executed: u8 34, executed: i8 4, integer matmuls 38",
            id="first figures",
        ),
        pytest.param({}, "–", id="none"),
    ],
)
def test_a_proof_is_put_in_a_few_words(proof: dict, words: str) -> None:
    assert markdown.proof_words(proof) == words


def test_a_complete_report_has_a_table_for_everything(make) -> None:
    levels = (make.level(32, 100, 350),)
    document = make.document(
        make.variant("fp32", levels=levels),
        make.variant("int8", speed=4, drop=(-0.004, 0.005), levels=levels),
        make.variant("pruned", speed=6, drop=(-0.004, 0.016)),
        make.variant("shallow", speed=8, drop=(0.02, 0.04)),
        make.variant("refused", speed=9, equal=False),
        complete=True,
    )
    words = [line.split("|")[2].strip() for line in markdown.table(document).splitlines()[2:]]
    assert words == ["reference", "PASS", "INCONCLUSIVE", "FAIL", "NOT EQUAL"]
    assert "NOT EQUAL" in markdown.terminal_table(document)
    page = markdown.side_by_side(document)
    for part in (
        "## Verdicts",
        "A drop of 0.01 or more is ruled out",
        "A new gate of about 5,200 labelled texts would settle it",
        "## Open loop: random arrivals",
        "queue + handler + HTTP ms",
        "## Functional cases: HateCheck",
        "subgroup AUC, best minus worst group",
        "flips on gate",
        "CPU ms per text, batch of 32",
        "Other processes used 0.12 cores",
        "interrupted and resumed once",
    ):
        assert part in page, part
    assert "equal to fp32 |" not in markdown.table(document)


def test_a_complete_report_of_one_variant_starts_with_its_verdict(make) -> None:
    one = make.variant("int8", speed=4, drop=(-0.004, 0.005), levels=(make.level(32, 100, 350),))
    document = make.document(make.variant("fp32"), one, complete=True)
    page = markdown.report(document.of(document.variants[1]))
    assert page.splitlines()[2].startswith("**PASS.** A drop of 0.01 or more is ruled out")
    headings = [line.removeprefix("## ") for line in page.splitlines() if line.startswith("## ")]
    assert headings == [
        "In short",
        "Speed in process",
        "One text, by its length",
        "Against the roofline",
        "As served: closed loop",
        "As served: open loop",
        "As served: requests of many texts",
        "Is it still fp32?",
        "What it decides on gate",
        "Texts whose label changed",
        "By length in tokens",
        "Quality",
        "Quality through the server",
        "Served scores compared with those in process",
        "Calibration",
        "Functional cases: HateCheck",
        "Functional cases: templates",
        "Resources",
        "Proof",
        "How this was measured",
    ]
    assert "p99 times fp32, 95 %" in page
    assert "rate hate → not-hate, 95 %" in page


def test_a_baseline_that_was_only_served_has_a_row(make) -> None:
    server = make.served_baseline("fastapi-pipeline", make.level(32, 40, 800))
    levels = (make.level(32, 100, 350),)
    document = tidied(make.document(make.variant("fp32", levels=levels), baselines=[server]))
    row = markdown.table(document).splitlines()[-1]
    assert "fastapi-pipeline" in row
    ours = markdown.table(document).splitlines()[2]
    assert "100 (2.5x)" in ours, "against what a user runs today"


def test_failures_alone_are_a_page(make) -> None:
    document = make.document(make.variant("fp32", error="no memory"))
    assert "fp32 failed during latency: no memory" in markdown.side_by_side(document, "speed")
    assert "FAILED" in markdown.terminal_table(document)


def test_many_variants_fit_into_a_terminal_as_rows(make) -> None:
    names = ["fp32", *(f"variant-{number}" for number in range(14))]
    shown = markdown.terminal_table(make.document(*map(make.variant, names)))
    assert all(any(line.startswith(name) for line in shown.splitlines()) for name in names)
    assert max(map(len, shown.splitlines())) < 150


def test_the_page_says_which_were_served_and_why(make) -> None:
    document = make.document(make.variant("fp32", levels=(make.level(32, 60, 700),)), make.variant("a"))
    rule = "fp32 and the 0 fastest"
    document.run.serving = Serving(["fp32"], rule)
    assert f"Variants served: {rule}." in markdown.provenance(document)
    document.run.serving.names = ["fp32", "a"]
    assert rule not in markdown.provenance(document)


def test_a_noisy_run_is_said_to_be_one(make) -> None:
    noisy = make.variant("fp32")
    noisy.latency[0].speedup.noise = 1.6
    assert "WARNING" in markdown.provenance(make.document(noisy))
    assert "WARNING" not in markdown.provenance(make.document(make.variant("fp32")))
    wide = make.variant("int8", speed=3)
    for entry in wide.latency:
        entry.turns = ["20 21; 20 22"]
        entry.speedup.low = 2.0
    said = markdown.provenance(make.document(make.variant("fp32"), wide))
    assert "an interval is 53% wide at the median" in said
    assert "WARNING" in said


def test_random_weights_are_said_to_mean_nothing(make) -> None:
    document = make.document(make.variant("fp32", drop=None))
    document.data.labels_meaningful = False
    assert "labels mean nothing" in markdown.provenance(document)


def test_every_variant_has_a_page_of_its_own(make) -> None:
    page = markdown.report(
        make.report(make.variant("int8", speed=3, levels=(make.level(32, 100, 9, {"503": 2}),)))
    )
    for part in ("# int8", "## Speed in process", "2 x 503", "not-hate → hate", "artifact MB", "kernels"):
        assert part in page
