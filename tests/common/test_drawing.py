"""The drawing kit: labels keep apart, and the same figure is the same bytes."""

from itertools import pairwise
from pathlib import Path

from common.drawing import BLUE, INK, Label, canvas, label_ends, svg, write_picture


def test_names_at_line_ends_keep_apart_and_stay_in_order() -> None:
    ends = [Label(1.0, height, f"line {height}", INK) for height in (0.0, 0.001, 0.002, 0.9)]
    with canvas(3.0) as (figure, (axes,)):
        for end in ends:
            axes.plot([0, 1], [0, end.y])
        label_ends(axes, ends)
        figure.draw_without_rendering()
        boxes = [text.get_window_extent() for text in axes.texts]
        for below, above in pairwise(boxes):
            assert below.y1 <= above.y0 + 1
        assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in boxes)


def test_the_same_figure_is_the_same_bytes(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        with canvas(2.0) as (figure, (axes,)):
            axes.plot([0, 1], [0, 1], "o-", color=BLUE)
            write_picture(tmp_path / folder, "line", figure)
            (tmp_path / folder / "page.svg").write_text(svg(figure, "line", "A line", "from 0 to 1"))
    for name in ("line.svg", "line.png", "page.svg"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert f"var(--chart-blue, {BLUE})" in (tmp_path / "a" / "page.svg").read_text()
