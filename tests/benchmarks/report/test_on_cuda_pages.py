"""Pages, choices and tables of reports in which some rows ran on a GPU."""

import json

import pytest
from msgspec import structs

from benchmarks.capacity.plan import Demand, Prices, plan
from benchmarks.records import Report, plain, tidied
from benchmarks.report import html, markdown
from benchmarks.report.across_machines import compare_machines, table
from benchmarks.report.comparison import compare
from benchmarks.report.pictures import by_batch
from benchmarks.report.verdicts import fastest_passing
from benchmarks.selection import Objective, choose_served, select
from handler.errors import UserError
from tests.conftest import ran, run_stage


@pytest.fixture
def mixed(make) -> Report:
    """A CPU's fp32 and int8 and a GPU's fp32 and fp16: int8 has the larger ratio, fp16 the higher rate."""
    on_cpu = make.variant("fp32"), make.variant("int8", speed=5)
    on_gpu = make.on_cuda("cuda-fp32"), make.on_cuda("cuda-fp16", speed=3)
    return make.with_card(make.document(*on_cpu, *on_gpu))


@pytest.fixture
def on_cpu(make) -> Report:
    return make.document(make.variant("fp32"), make.variant("int8", speed=5))


def test_a_document_with_a_gpu_keeps_the_schema(mixed) -> None:
    assert tidied(mixed).on_cuda


def test_the_table_tells_devices_apart_and_what_only_a_gpu_has(mixed) -> None:
    page = markdown.side_by_side(mixed)
    header = page.splitlines()[2]
    for words in ("device", "1,024 real texts/s", "best texts/s", "GPU busy ms", "GPU J per 1,000 texts"):
        assert words in header
    row = next(line for line in page.splitlines() if line.startswith("| cuda-fp16"))
    best = mixed.variants[3].case("1024x32")
    assert f"{best.texts_per_second:,.0f} (1024x32)" in row
    assert "9% (6% of the data sheet's)" in row
    assert "| GPU " in row
    assert "NVIDIA H200 (capability 9.0, 141 GB)" in page
    assert "to cuda-fp32 and never to a row on the CPU" in page
    assert "700 TFLOP/s at 1024x32; the data sheet promises 989" in page
    assert "on a GPU to cuda-fp32" in markdown.summary(mixed)


def test_where_all_is_on_a_cpu_no_page_knows_of_gpus(on_cpu) -> None:
    for page in (markdown.side_by_side(on_cpu), markdown.summary(on_cpu), html.side_by_side(on_cpu)):
        assert "GPU" not in page
        assert "cuda" not in page
        assert "| device" not in page


def test_energy_that_is_not_told_has_its_reason_on_the_page(make) -> None:
    rows = [make.variant("fp32"), make.on_cuda("cuda-fp32", energy=False, bound=False)]
    page = markdown.side_by_side(make.with_card(make.document(*rows)))
    assert "Energy of the GPU is not known: nvidia-ml-py is not installed." in page
    assert "GPU J per" not in page.splitlines()[2]


def test_a_variant_on_a_gpu_has_a_page_of_its_own(mixed) -> None:
    page = markdown.report(mixed.of(mixed.variants[3]))
    assert "times cuda-fp32, 95 %" in page
    assert "times fp32" not in page
    assert "## Against the GPU's peak" in page
    assert "| peak GPU memory reserved MB" in page


def test_the_browsers_page_names_the_reference_of_the_gpu(mixed) -> None:
    page = html.side_by_side(mixed)
    assert "cuda-fp16: 3.0 times as fast as cuda-fp32" in page
    assert "1,024 real texts/s" in page


def test_the_browsers_page_shows_what_only_a_gpu_has(mixed) -> None:
    page = html.side_by_side(mixed)
    part = page[page.index('id="gpu"') :]
    part = part[: part.index("</section>")]
    best = mixed.variants[3].case("1024x32")
    cells = f"{best.texts_per_second:,.0f}", "40%", "9.0%", "6.4%", "420", "5.25"
    assert [words for words in cells if f">{words}<" not in part] == []
    assert "int8" not in part


def test_between_devices_the_rate_decides_and_no_ratio(mixed, make) -> None:
    best = fastest_passing(mixed)
    assert best is not None
    assert best.name == "cuda-fp16"
    chosen = select(mixed, Objective())
    assert chosen.selected == "cuda-fp16"
    assert "times cuda-fp32" in chosen.reasons["cuda-fp16"]
    assert choose_served(mixed.variants, 1).names == ["fp32", "cuda-fp16"]
    on_cpu = [variant for variant in mixed.variants if variant.device == "cpu"]
    assert choose_served(on_cpu, 1).names == ["fp32", "int8"]


def test_a_comparison_across_devices_is_refused(mixed) -> None:
    fp32, int8, of_gpu, fp16 = map(mixed.of, mixed.variants)
    with pytest.raises(UserError, match="their speeds have no ratio"):
        compare(int8, fp16)
    assert compare(of_gpu, fp16).figures
    assert compare(fp32, int8).figures


def test_a_plan_is_refused_for_a_variant_on_a_gpu(mixed) -> None:
    with pytest.raises(UserError, match="plans are only for replicas on CPUs"):
        plan(mixed, mixed.variants[3], Demand(100, 50, 1.25), Prices())


def test_larger_batches_are_points_of_the_picture_by_batch(mixed, on_cpu) -> None:
    assert max(by_batch(mixed)[-1].xs) == 1024
    assert max(by_batch(on_cpu)[-1].xs) == 32


def test_two_machines_stand_next_to_each_other_with_cost_and_their_own_ratios(mixed, on_cpu) -> None:
    mixed.machine.id, mixed.machine.cores = "abcdefabcdef", 16
    mixed.run = structs.replace(mixed.run, id="another-run")
    prices = Prices(core_hour=0.05, gb_hour=0.0, gpu_hour=3.6)
    found = compare_machines([on_cpu, mixed], prices)
    rows = {(row.run, row.name): row for row in found.rows}
    assert len(rows) == 6
    fp16 = rows["another-run", "cuda-fp16"]
    rate = mixed.variants[3].batch.texts_per_second
    assert (fp16.batch_texts, fp16.reference) == (1024, "cuda-fp32")
    assert fp16.texts_per_second == pytest.approx(rate, rel=1e-3)
    assert fp16.cost_per_million_texts == pytest.approx(3.6 / 3600 / rate * 1e6, rel=1e-3)
    for run, cores in ((on_cpu.run.id, 2), ("another-run", 16)):
        int8 = rows[run, "int8"]
        expected = cores * 0.05 / 3600 / int8.texts_per_second * 1e6
        assert int8.cost_per_million_texts == pytest.approx(expected, rel=1e-3)
    words = table(found)
    assert "3.00x cuda-fp32" in words
    assert "5.00x fp32" in words
    assert "16 cores, NVIDIA H200 (fingerprint abcdefabcdef)" in words


def test_without_prices_there_is_no_column_of_cost(mixed, on_cpu) -> None:
    assert "cost" not in table(compare_machines([on_cpu, mixed], Prices())).lower()


def test_runs_of_other_texts_are_not_put_next_to_each_other(on_cpu, mixed, tmp_path) -> None:
    mixed.data = structs.replace(mixed.data, timed_split="test")
    with pytest.raises(UserError, match="rates cannot be compared"):
        compare_machines([on_cpu, mixed], Prices())


def test_the_command_reads_reports_and_prints_table_and_json(on_cpu, mixed, tmp_path) -> None:
    paths = [tmp_path / "cpu.json", tmp_path / "gpu.json"]
    for path, document in zip(paths, (on_cpu, mixed), strict=True):
        path.write_text(json.dumps(plain(document)))
    done = ran("benchmarks", "beside", *paths, "--price-gpu-hour", 2)
    assert len(json.loads(done.stdout)["rows"]) == 6
    assert "cost per million texts" in done.stderr
    assert run_stage("benchmarks", "beside", tmp_path / "none.json").returncode == 2
