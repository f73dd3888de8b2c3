"""Pictures: the same bytes every time, valid XML, colours that a page may set, and none without data."""

from copy import deepcopy
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import pytest
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

import benchmarks
from benchmarks.names import runs_no_transformer
from benchmarks.records import Failed, Rate
from benchmarks.report import charts, markdown, pictures
from benchmarks.report.files import read_side_by_side
from benchmarks.report.verdicts import front, in_brief

SVG = "{http://www.w3.org/2000/svg}"
NAMES = [picture.name for picture in pictures.PICTURES]


@pytest.fixture
def complete(make):
    levels = (make.level(1, 60, 20), make.level(32, 100, 350))
    return make.document(
        make.variant("fp32", levels=levels),
        make.variant("int8", speed=4, drop=(-0.004, 0.005), levels=(make.level(32, 380, 90),)),
        make.variant("bf16", speed=2.5, drop=(-0.001, 0.002)),
        make.variant("pruned", speed=6, drop=(-0.004, 0.016)),
        make.variant("crashed", error="signal SIGSEGV"),
        complete=True,
        baselines=[make.baseline("hf-pipeline", speed=0.9)],
    )


def test_a_complete_report_has_every_picture_and_each_is_valid(complete) -> None:
    drawn = charts.draw(complete)
    assert list(drawn) == NAMES == list(charts.CHARTS)
    for name, text in drawn.items():
        root = ElementTree.fromstring(text)
        assert root.tag == f"{SVG}svg"
        assert root.findtext(f"{SVG}title"), name
        assert root.findtext(f"{SVG}desc"), name
        assert root.get("role") == "img"


def test_the_same_report_is_drawn_in_the_same_bytes(complete) -> None:
    assert charts.draw(complete) == charts.draw(deepcopy(complete))


def test_every_colour_is_a_variable_with_a_light_and_a_dark_value(complete) -> None:
    for name, text in charts.draw(complete).items():
        assert "#010a" not in text, name
        assert "#000000" not in text, name
        assert "prefers-color-scheme:dark" in text
        assert "<metadata" not in text
        assert "http" not in text.replace("http://www.w3.org/", ""), name


def test_letters_stay_letters_of_at_least_eleven_units(complete) -> None:
    for name, text in charts.draw(complete).items():
        root = ElementTree.fromstring(text)
        words = list(root.iter(f"{SVG}text"))
        assert words, name
        assert all("11px" in str(element.get("style")) for element in words), name


def test_variants_and_baselines_are_named_at_their_points(complete) -> None:
    text = charts.pareto(complete)
    for name in ("fp32", "int8", "bf16", "pruned", "hf-pipeline"):
        assert f">{name}</text>" in text
    assert "crashed" not in text


def test_labels_of_a_crowded_picture_do_not_cover_each_other(monkeypatch) -> None:
    document = read_side_by_side(
        Path(benchmarks.__file__).with_name("published") / "tweeteval-fine-tuned.json"
    )
    boxes = {}

    def look(figure: Figure, *words: str) -> str:
        figure.draw_without_rendering()
        (axes,) = figure.axes
        boxes.update({text.get_text(): text.get_window_extent() for text in axes.texts})
        return ""

    monkeypatch.setattr(charts, "svg", look)
    charts.pareto(document)
    assert boxes.keys() == {"margin 0.01", *(row.name for row in document.rows if row.latency)}
    assert [pair for pair in combinations(boxes, 2) if _covered(*map(boxes.get, pair)) > 1] == []


def test_a_student_without_a_transformer_does_not_set_the_scale_of_speed() -> None:
    document = read_side_by_side(Path(benchmarks.__file__).with_name("published") / "tweeteval.json")
    assert "static-openvino-fp32" in [row.name for row in document.rows if row.latency]
    shown = [row.name for row in in_brief(document)] + [point.name for point in pictures.in_process(document)]
    assert [name for name in shown if runs_no_transformer(name)] == []
    assert "openvino-int8-cascade" in shown


def _covered(a: Bbox, b: Bbox) -> float:
    """The area that both have."""
    both = Bbox.intersection(a, b)
    return both.width * both.height if both else 0.0


@pytest.mark.parametrize("name", NAMES)
def test_where_the_data_is_missing_there_is_no_picture(make, name: str) -> None:
    alone = make.document(make.variant("fp32", error="no memory"), make.variant("int8", error="no memory"))
    assert charts.CHARTS[name](alone) == ""
    assert pictures.available(alone) == []


def test_an_older_report_has_the_pictures_of_what_it_holds(make) -> None:
    old = make.document(make.variant("fp32"), make.variant("int8", speed=4, drop=(-0.004, 0.005)))
    assert list(charts.draw(old)) == ["bars", "pareto", "batch", "flips"]
    unjudged = make.document(make.variant("fp32", drop=None), make.variant("int8", speed=4, drop=None))
    assert "labels that match fp32" in charts.pareto(unjudged)


def test_the_front_joins_what_may_be_shipped(make) -> None:
    document = make.document(
        make.variant("fp32"),
        make.variant("same", speed=1.5, drop=(0.0, 0.0)),
        make.variant("fast", speed=4, drop=(-0.004, 0.005)),
        make.variant("beaten", speed=3, drop=(-0.004, 0.006)),
        make.variant("unproven", speed=6, drop=(-0.004, 0.016)),
        make.variant("refused", speed=9, equal=False),
    )
    assert front(document) == ["same", "fast"]


def test_a_front_page_shows_eight_rows_the_fastest_that_passes_and_what_is_refused(make) -> None:
    passing = [make.variant(f"pass-{speed}", speed=speed, drop=(0.0, 0.0)) for speed in range(2, 9)]
    document = make.document(
        make.variant("fp32"),
        *passing,
        make.variant("refused", speed=9, equal=False),
        make.variant("refused-and-slower", speed=2.5, equal=False),
        baselines=[make.baseline("slow", speed=0.8), make.baseline("quick", speed=5)],
    )
    late = make.variant("failed-when-served", speed=20)
    late.error = Failed("serving", "no memory")
    document.variants.append(late)
    names = ["fp32", "pass-5", "quick", "pass-6", "pass-7", "pass-8", "refused"]
    assert {*names, "pass-4"} == {row.name for row in in_brief(document)}
    text = charts.bars(document)
    assert all(f">{name}</text>" in text for name in names)
    assert "9.0x" in text
    assert "not equal" in text
    rows = [line for line in markdown.brief(document).splitlines() if line.startswith("| ")]
    assert len(rows) == 1 + 8
    assert rows[0].count("|") <= 1 + 6


def test_a_front_page_shows_what_could_not_be_decided_where_nothing_passes(make) -> None:
    document = make.document(
        make.variant("fp32"),
        make.variant("unproven", speed=6, drop=(-0.004, 0.016)),
        make.variant("unproven-and-slower", speed=3, drop=(-0.004, 0.016)),
        make.variant("refused", speed=9, equal=False),
    )
    shown = [row.name for row in in_brief(document)]
    assert shown == ["fp32", "unproven-and-slower", "unproven", "refused"]
    document.variants.append(make.variant("proven", speed=2, drop=(-0.004, 0.005)))
    assert [row.name for row in in_brief(document)] == ["fp32", "proven", "refused"]


def test_a_page_refers_to_the_pictures_that_there_are(complete) -> None:
    page = markdown.side_by_side(complete, "speed")
    assert all(f"](speed/{name}.svg)" in page for name in NAMES)
    assert "![" not in markdown.side_by_side(complete)


def test_a_table_of_stages_has_flips_with_their_interval_and_what_was_asked_again(make) -> None:
    cascade = make.variant("cascade", speed=8, drop=(-0.005, 0.009))
    cascade.parity["gate"].flip_rates = {"any": Rate(27, 0.0154, 0.0102, 0.0224)}
    cascade.asked = {"gate": {"int8": 978, "exact": 100}}
    page = markdown.stages(make.document(make.variant("fp32"), cascade))
    (row,) = (line for line in page.splitlines() if line.startswith("| cascade "))
    cells = [cell.strip() for cell in row.split("|")[3:5]]
    assert cells == ["1.54% (1.02% to 2.24%)", "int8 48.9%, exact 5.0%"]
    assert row.count("8.00x") == 1
    (reference,) = (line for line in page.splitlines() if line.startswith("| fp32 "))
    assert "%" not in reference
