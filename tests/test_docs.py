"""The README, the pages of docs/ and their site are held to the code: what they name exists, tables are
fresh, the example variant works, links and navigation are whole."""

import importlib.util
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from benchmarks.report.publishing import stale
from export.build import build
from export.registry import VARIANTS
from export.source import Source
from handler.predictor import Predictor
from tests.asking import held_to_schema
from tests.conftest import ROOT
from tests.house.lists import filled

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {path.name: path.read_text() for path in DOCUMENTS}
ALL = "\n".join(TEXTS.values())
MAKEFILE = (ROOT / "Makefile").read_text()
COMMAND = re.compile(r"python -m ([a-z_.]+)(?: ([a-z][a-z-]+))?((?: [^`\n#]*)?)")


def test_every_make_target_and_variable_that_is_named_is_one_of_the_makefile() -> None:
    targets = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
    commands = re.findall(r"(?:^|`)make ([a-z-]+)([^`\n#]*)", ALL, re.MULTILINE)
    assert {target for target, _ in commands} <= targets
    named = {name for _, rest in commands for name in re.findall(r"\b([A-Z][A-Z0-9_]*)=", rest)}
    assert [name for name in sorted(named) if f"$({name})" not in MAKEFILE] == []


def commands() -> Iterator[tuple[str, str | None, frozenset[str]]]:
    """Every `python -m MODULE [SUBCOMMAND] …` of the documents, with its long options."""
    for module, subcommand, rest in COMMAND.findall(ALL):
        yield module, subcommand or None, frozenset(re.findall(r"(?<=\s)--[a-z][a-z0-9-]+", rest))


@pytest.mark.parametrize(
    ("module", "subcommand"), sorted({(module, subcommand or "") for module, subcommand, _ in commands()})
)
def test_every_command_exists_and_has_the_options_that_are_shown(
    module: str, subcommand: str, capsys: pytest.CaptureFixture[str]
) -> None:
    package = Path(importlib.util.find_spec(module).origin).name == "__init__.py"  # type: ignore[union-attr,arg-type]
    main = import_module(f"{module}.__main__" if package else module).main
    with pytest.raises(SystemExit) as left:
        main([*([subcommand] if subcommand else []), "--help"])
    assert left.value.code == 0
    shown = {
        flag
        for found, sub, flags in commands()
        if (found, sub or "") == (module, subcommand)
        for flag in flags
    }
    known = set(re.findall(r"--[a-z][a-z0-9-]+", capsys.readouterr().out))
    assert shown - {"--help"} <= known


PROGRAMS = (
    "make|python -m|hate-speech-archive|curl|torchserve|torchrun|dvc|docker|kubectl|minisign|prometheus"
    "|promtool|pip|pipx|pytest|pre-commit|source|tensorboard"
)
DOCUMENTED = re.compile(rf"(?:[A-Z_]+=\S* )*((?:{PROGRAMS}) \S.*)")
LISTED = yaml.safe_load((ROOT / "tests" / "data" / "documented-commands.yaml").read_text())


def documented() -> Iterator[str]:
    """Every command line of code blocks, and of code within the text, but for tables that are generated."""
    for text in (*TEXTS.values(), (ROOT / "CONTRIBUTING.md").read_text()):
        written = re.sub(r"<!-- (table|list):.*?<!-- /\1 -->", "", text, flags=re.DOTALL)
        for number, part in enumerate(written.replace("\\\n", "").split("```")):
            inline = re.findall(r"`[^`]+`|^ {4}\S.*", part, re.MULTILINE)
            for line in part.splitlines() if number % 2 else inline:
                if found := DOCUMENTED.fullmatch(" ".join(line.strip("`").split())):
                    yield found[1]


def form(command: str) -> str:
    """Its program, verb (of curl the path), and sorted long options or names of make's variables."""
    words = shlex.split(command, comments=True)
    size = {"python": 3, "hate-speech-archive": 2}.get(words[0], 1)
    program, rest = words[:size], words[size:]
    verb = [re.sub(r"^localhost:\d+|\?.*", "", word).replace("/hate", "/NAME") for word in rest[:1]]
    verb = [word for word in verb if re.fullmatch(r"[a-z][a-z-]*|/.*", word)]
    found = [re.match(r"--[a-z][a-z0-9.-]*|[A-Z][A-Z0-9_]*(?==)", word) for word in rest]
    return " ".join([*program, *verb, *sorted({match[0] for match in found if match})])


def test_every_command_is_listed_with_the_test_that_runs_it_or_the_reason_why_none_does() -> None:
    forms = {form(command) for command in documented()}
    assert sorted(forms - LISTED.keys()) == [], "add them to tests/data/documented-commands.yaml"
    assert sorted(LISTED.keys() - forms) == [], "no document has these: remove them from the list"


@pytest.mark.parametrize("command", LISTED)
def test_what_the_list_names_is_a_test_that_exists_or_a_reason(command: str) -> None:
    ((kind, said),) = LISTED[command].items()
    assert kind in ("test", "tests", "not_run")
    if kind == "not_run":
        assert len(said.split()) >= 3
        return
    for test in [said] if kind == "test" else said:
        path, _, name = test.partition("::")
        assert f"def {name}(" in (ROOT / path).read_text(), test


def test_the_lists_of_variants_and_data_sets_are_those_of_the_code() -> None:
    for name in ("variants.md", "training.md"):
        assert filled(TEXTS[name]) == TEXTS[name], "python -m tests.house.lists"


def test_every_folder_and_file_of_the_tree_exists() -> None:
    (tree,) = re.findall(r"# Architecture\n\n```\n(.*?)```", TEXTS["architecture.md"], re.DOTALL)
    names = {word for line in tree.splitlines() for word in line.split("  ")[:1]} | set(
        tree.splitlines()[-1].split()
    )
    assert [name for name in names if name and not (ROOT / name.strip()).exists()] == []


def test_the_tables_are_those_of_the_published_reports() -> None:
    assert stale(DOCUMENTS, ROOT / "benchmarks" / "published") == []


def test_the_answer_that_is_shown_fits_the_schema() -> None:
    (shown,) = re.findall(r"```json\n(.*?)```", ALL, re.DOTALL)
    held_to_schema(json.loads(shown))


def test_the_example_of_a_new_variant_works_as_it_stands(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", ALL, re.DOTALL)
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
    assert artifact.meta.check.equal
    assert artifact.meta.proof["linear_dtypes"] == {"bfloat16": 14}
    assert Predictor.load(artifact.folder).predict(["a text"])[0].tokens == 4


@pytest.mark.parametrize("word", ["TODO", "FIXME"])
def test_no_promise_is_left_in_the_text(word: str) -> None:
    assert word not in ALL


def test_the_site_is_built_strictly_and_a_page_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    built = {path.relative_to(tmp_path).as_posix(): path.read_text() for path in tmp_path.rglob("*.html")}
    for path in DOCUMENTS[1:]:
        assert f"docs/{path.stem}/index.html" in built
    loaded = re.compile(r"<(?:script|img|iframe)[^>]* src=\"?(?:https?:)?//|<link[^>]*href=\"?(?:https?:)?//")
    assert [name for name, page in built.items() if loaded.search(page)] == []
    assert (tmp_path / "benchmarks" / "published" / "tweeteval" / "pareto.svg").is_file()
    assert (tmp_path / "deploy" / "Dockerfile").is_file(), "a file that a page links to"


def test_the_front_page_is_one_screen_and_a_half() -> None:
    page = TEXTS["README.md"]
    assert len([word for word in page.split() if word.strip("|-")]) <= 900
    (table,) = re.findall(r"<!-- table:\S+ -->\n(.*?)<!-- /table -->", page, re.DOTALL)
    heading, _, *rows = [line for line in table.splitlines() if line.startswith("|")]
    assert len(rows) <= 8
    assert heading.count("|") - 1 <= 6
