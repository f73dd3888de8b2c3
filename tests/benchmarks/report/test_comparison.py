"""Two reports side by side: ratios that mean something, and refusal of those that do not."""

import json

import pytest

from benchmarks.__main__ import main
from benchmarks.records import flat
from benchmarks.report.comparison import Comparison, Figure, compare, markdown
from handler.errors import UserError


def figure(comparison: Comparison, name: str) -> Figure:
    return next(figure for figure in comparison.figures if figure.figure == name)


def test_above_one_is_better_for_latency_throughput_and_size_alike(make) -> None:
    fp32 = make.report(make.variant("fp32", levels=(make.level(32, 60, 600),)))
    int8 = make.report(make.variant("int8", speed=4, mb=30, levels=(make.level(32, 240, 200),)))
    found = compare(fp32, int8)
    assert figure(found, "1x32, texts x tokens: time").ratio == pytest.approx(4)
    assert figure(found, "32 texts, text to answer: throughput").ratio == pytest.approx(4)
    assert figure(found, "served, 32 at once: throughput").ratio == pytest.approx(4)
    assert figure(found, "served, 32 at once: p99").ratio == pytest.approx(3)
    assert figure(found, "artifact").ratio == pytest.approx(3)
    assert figure(found, "macro-f1 on gate").ratio is None
    assert "int8 is better by" in markdown(found)


def test_what_the_intervals_do_not_tell_apart_is_not_resolved(make) -> None:
    found = compare(make.report(make.variant("a", speed=2.0)), make.report(make.variant("b", speed=2.04)))
    assert figure(found, "1x32, texts x tokens: time").note == "not resolved, 0.98 to 1.06"
    assert "not resolved" in markdown(found)


def test_turns_in_the_same_blocks_are_compared_with_each_other(make) -> None:
    """Both are twice as slow in the second block: their ratio to fp32 says less than theirs to each other."""
    reports = [make.report(make.variant(name)) for name in ("a", "b")]
    for report, times in zip(reports, (("20 20", "40 40"), ("10 10", "20.1 20.1")), strict=True):
        report.only.latency[0].turns = list(times)
    found = figure(compare(*reports), "1x32, texts x tokens: time")
    assert found.ratio == pytest.approx(2, rel=0.01)
    assert found.note.startswith("1.9")


@pytest.mark.parametrize(
    ("elsewhere", "what"),
    [
        pytest.param({"machine": {"id": "0" * 12, "cpu": "Another"}}, "different machines", id="machine"),
        pytest.param({"run": {"id": "another"}}, "different runs", id="run"),
    ],
)
def test_reports_of_different_machines_or_runs_are_refused(make, elsewhere: dict, what: str) -> None:
    with pytest.raises(UserError, match=what) as caught:
        compare(make.report(make.variant("fp32")), make.report(make.variant("a"), **elsewhere))
    assert 'make benchmark VARIANTS="fp32 a"' in caught.value.remedy


def test_a_failed_variant_is_refused_with_its_reason(make) -> None:
    with pytest.raises(UserError, match="out of memory"):
        compare(make.report(make.variant("fp32")), make.report(make.variant("a", error="out of memory")))


def test_a_missing_report_names_make_benchmark(make, tmp_path) -> None:
    (tmp_path / "fp32.json").write_text(json.dumps(flat(make.report(make.variant("fp32")))))
    with pytest.raises(UserError, match=r"no report of int8.*make benchmark"):
        main(["compare", "fp32", "int8", "--results", str(tmp_path)])


def test_a_damaged_report_is_refused(make, tmp_path) -> None:
    (tmp_path / "fp32.json").write_text('{"schema": 1}')
    with pytest.raises(UserError, match="damaged"):
        main(["compare", "fp32", "fp32", "--results", str(tmp_path)])


def test_the_command_prints_json_and_a_table(make, tmp_path, capsys) -> None:
    for name, speed in (("fp32", 1), ("int8", 4)):
        (tmp_path / f"{name}.json").write_text(json.dumps(flat(make.report(make.variant(name, speed=speed)))))
    assert main(["compare", "fp32", "int8", "--results", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["b"] == "int8"
    assert "4.00x" in printed.err
