"""Draws docs/architecture.svg: `python -m tests.house.picture`. Boxes and arrows are read from the code."""

import ast
from pathlib import Path
from textwrap import wrap

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

ROOT = Path(__file__).parents[2]
TARGET = ROOT / "docs" / "architecture.svg"
# Left edge, row from below, width and height in rows of each package's box; a package imports only what is
# below it.
PLACES = {
    "handler": (0.2, 0, 9.6, 1),
    "common": (0.2, 1, 9.6, 1),
    "scoring": (0.2, 2, 4.6, 1),
    "deploy": (0.2, 3, 4.6, 1),
    "training": (5.2, 2, 4.6, 2),
    "export": (0.2, 4, 4.6, 1),
    "benchmarks": (5.2, 4, 4.6, 1),
}
GROUND = {"handler", "common"}  # used by all above: said, not drawn
WORDS = {
    "handler": "what ships in every archive",
    "common": "what all tools share",
    "scoring": "files of texts",
    "training": "data, fit, measures",
    "deploy": "running servers",
    "export": "variants, proof, archives",
    "benchmarks": "speed, sameness, selection",
}
COMMAND = ROOT / "handler" / "__main__.py"  # does not ship, and calls scoring
WIDTH, HEIGHT = 10.0, 8.7
ROW = 1.25  # room for five lines of modules
GAP = 0.4
CHARACTERS = 14.2  # in a unit of width
BLUE, GREY = "#1f3357", "#444444"


def draw(target: Path = TARGET) -> None:
    with pyplot.rc_context({"svg.fonttype": "none", "svg.hashsalt": "house", "font.family": "sans-serif"}):
        figure, axes = pyplot.subplots(figsize=(WIDTH, HEIGHT))
        axes.set_xlim(0, WIDTH)
        axes.set_ylim(-0.4, HEIGHT)
        axes.axis("off")
        for package in PLACES:
            _box(axes, package)
            for other in sorted(imports(package) - GROUND):
                _arrow(axes, package, other)
        note = "An arrow: imports. Everything uses common/ and handler/; handler/ uses nothing else."
        axes.text(0.2, -0.25, note, fontsize=9, color=GREY)
        figure.savefig(target, metadata={"Date": None}, bbox_inches="tight")
        pyplot.close(figure)


def rooms(package: str) -> list[str]:
    """The folders of a package, then its modules."""
    folders = [f"{path.parent.name}/" for path in (ROOT / package).glob("*/__init__.py")]
    modules = [path.stem for path in (ROOT / package).glob("*.py") if not path.stem.startswith("__")]
    return sorted(folders) + sorted(modules)


def imports(package: str) -> set[str]:
    """The other packages that any module of this one imports, within functions too."""
    found: set[str] = set()
    for path in set((ROOT / package).rglob("*.py")) - {COMMAND}:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.partition(".")[0])
    return found & PLACES.keys() - {package}


def _edges(package: str) -> tuple[float, float, float, float]:
    """Left, bottom, right and top of a package's box."""
    left, row, width, height = PLACES[package]
    bottom = row * (ROW + GAP)
    return left, bottom, left + width, bottom + height * (ROW + GAP) - GAP


def _box(axes: Axes, package: str) -> None:
    left, bottom, right, top = _edges(package)
    shape = FancyBboxPatch(
        (left, bottom),
        right - left,
        top - bottom,
        boxstyle="round,pad=0,rounding_size=0.08",
        facecolor="#eef3fb",
        edgecolor=BLUE,
    )
    axes.add_patch(shape)
    axes.text(left + 0.15, top - 0.27, f"{package}/", fontsize=12, weight="bold", color=BLUE)
    axes.text(right - 0.15, top - 0.27, WORDS[package], fontsize=9, ha="right", color=GREY)
    lines = wrap(" · ".join(rooms(package)), int(CHARACTERS * (right - left)), break_long_words=False)
    axes.text(left + 0.15, top - 0.42, "\n".join(lines), fontsize=7.5, va="top", color="#333333")


def _arrow(axes: Axes, package: str, other: str) -> None:
    """From the lower edge of a package to the upper edge of what it imports, or across to its neighbour."""
    left, bottom, right, top = _edges(package)
    other_left, _, other_right, other_top = _edges(other)
    start = end = (left + right) / 2
    if other_right < left:
        start, end = left + 0.6, other_right - 0.6
    elif right < other_left:
        start, end = right - 0.6, other_left + 0.6
    ends = (start, bottom), (end, other_top)
    if top == other_top:
        middle = (top + bottom) / 2
        ends = (left, middle), (other_right, middle)
    arrow = FancyArrowPatch(*ends, arrowstyle="-|>", mutation_scale=11, color=BLUE)
    axes.add_patch(arrow)


if __name__ == "__main__":
    draw()
