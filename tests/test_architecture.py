"""Imports flow one way, and what ships in an archive imports nothing of the toolkit."""

import ast
import re
from pathlib import Path

import pytest

from export.archives.package import SHIPPED
from tests.house.counts import count, import_cycles, working_tree
from tests.house.picture import TARGET, draw

ROOT = Path(__file__).parents[1]
ALLOWED = {
    "handler": {"handler"},
    "common": {"common", "handler"},
    "scoring": {"scoring", "common", "handler"},
    "deploy": {"deploy", "scoring", "common", "handler"},
    "training": {"training", "common", "handler"},
    "export": {"export", "training", "deploy", "common", "handler"},
    "benchmarks": {"benchmarks", "training", "deploy", "common", "handler"},
}
COMMAND = ROOT / "handler" / "__main__.py"  # the one file there that does not ship
# Rooms of training that benchmarks use. What trains is none of them.
OF_TRAINING = {"training.checkpoint", "training.data", "training.measures"}
STUDIES = ROOT / "benchmarks" / "studies"  # evidence, not tools: they may look at all
MODELS = ("pooled_classifier", "encoder")  # torch modules, shipped for the torch loader
LIGHT = sorted({*SHIPPED, "classifier_handler.py"} - {f"{name}.py" for name in MODELS})


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names if node.module in ALLOWED}
    return names


def modules(stage: str) -> list[Path]:
    return sorted((ROOT / stage).rglob("*.py"))


@pytest.mark.parametrize("stage", ALLOWED)
def test_a_stage_imports_only_what_stands_below_it(stage: str) -> None:
    for path in set(modules(stage)) - {COMMAND}:
        stages = {name.split(".")[0] for name in imported(path)} & ALLOWED.keys()
        assert STUDIES in path.parents or stages <= ALLOWED[stage], path


def test_benchmarks_know_the_checkpoint_data_and_measures_of_training_and_no_more() -> None:
    for path in modules("benchmarks"):
        if STUDIES in path.parents:
            continue
        used = {name for name in imported(path) if name.startswith("training.")}
        assert {".".join(name.split(".")[:2]) for name in used} <= OF_TRAINING, path


def test_measuring_never_imports_presenting() -> None:
    measuring = ("baselines", "capacity", "ceilings", "compression", "in_process", "sameness", "served")
    for path in (path for room in measuring for path in modules(f"benchmarks/{room}")):
        assert not [name for name in imported(path) if name.startswith("benchmarks.report")], path


def test_no_module_imports_itself_by_way_of_others() -> None:
    """Imports within functions and those for types alone are counted too."""
    assert import_cycles(working_tree()) == []


def test_a_module_says_what_it_is_for_in_three_sentences_at_most() -> None:
    for path, text in working_tree().items():
        if path.endswith(".py"):
            words = ast.get_docstring(ast.parse(text)) or ""
            words = re.sub(r"`[^`]*`", "code", words)
            assert len(re.findall(r"[.!?](?=\s|$)", words)) <= 3, path


def test_no_function_of_the_tools_has_more_than_60_lines() -> None:
    counted = count(working_tree())
    assert counted["source"].over_60_lines == 0, "python -m tests.house.counts"


def test_the_picture_shows_the_rooms_and_imports_of_today(tmp_path: Path) -> None:
    draw(tmp_path / "drawn.svg")
    assert (tmp_path / "drawn.svg").read_text() == TARGET.read_text(), "python -m tests.house.picture"


def test_what_we_use_does_not_tell_its_makers() -> None:
    tools = pytest.importorskip("openvino.tools.ovc.telemetry_utils")
    assert tools.tm.__name__.endswith("telemetry_stub")


def test_the_handler_knows_runtimes_and_never_variants() -> None:
    from export.registry import VARIANTS

    for path in modules("handler"):
        code = path.read_text().split('"""', 2)[-1]
        assert not [name for name in VARIANTS if name != "fp32" and f'"{name}"' in code], path


def test_what_needs_torch_is_imported_by_the_loader_of_torch_alone() -> None:
    """Of types alone it does not matter."""
    for name in LIGHT:
        tree = ast.parse((ROOT / "handler" / name).read_text())
        typed = {
            inner
            for node in ast.walk(tree)
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
            for inner in ast.walk(node)
        }
        importing = {
            ast.unparse(node)
            for node in set(ast.walk(tree)) - typed
            if isinstance(node, (ast.Import, ast.ImportFrom))
            and any(own in ast.unparse(node) for own in MODELS)
        }
        assert (importing == set()) == (name != "runtimes.py"), (name, importing)
    loaders = (ROOT / "handler" / "runtimes.py").read_text().split("\ndef ")
    assert [loader.partition("(")[0] for loader in loaders if "from handler.pooled" in loader] == [
        "_load_torch"
    ]
    assert [loader.partition("(")[0] for loader in loaders if "handler.encoder" in loader] == ["read_encoder"]


@pytest.mark.parametrize("name", LIGHT)
def test_shipped_code_needs_only_numpy_tokenizers_and_what_its_loader_imports(name: str) -> None:
    tree = ast.parse((ROOT / "handler" / name).read_text())
    top_level = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    names = {
        (node.module if isinstance(node, ast.ImportFrom) else node.names[0].name).split(".")[0]
        for node in top_level
    }
    import sys

    foreign = names - set(sys.stdlib_module_names)
    assert foreign <= {"numpy", "tokenizers", "handler"}
