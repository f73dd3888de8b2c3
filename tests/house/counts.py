"""How large and how tangled the code is: `make counts [AGAINST=commit]`, or `python -m tests.house.counts`.

Reads committed and uncommitted Python files with `ast` and `tokenize`; nothing is imported. With a commit,
its figures stand in the row before.
"""

import argparse
import ast
import io
import json
import subprocess
import sys
import tarfile
import tokenize
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path, PurePosixPath

from tabulate import tabulate

ROOT = Path(__file__).parents[2]
LONG_FUNCTION = 40  # lines
VERY_LONG_FUNCTION = 60
MANY_BRANCHES = 10
BRANCHES = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.IfExp, ast.ExceptHandler, ast.comprehension)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
NOT_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}
# Evidence that was measured once; not part of the tools.
OUTSIDE = ("benchmarks/studies/",)


@dataclass
class Counts:
    """The figures of one package."""

    files: int = 0
    lines: int = 0
    tokens: int = 0  # without comments, docstrings and layout
    string_subscripts: int = 0  # such as entry["latency"]
    functions: int = 0
    over_40_lines: int = 0
    over_60_lines: int = 0
    over_10_branches: int = 0
    characters: int = 0  # in lines that are not blank
    filled_lines: int = 0
    schema_lines: int = 0  # of JSON Schema

    @property
    def line_length(self) -> float:
        """Characters in a line that is not blank."""
        return self.characters / max(self.filled_lines, 1)


SHOWN = [name for name in Counts.__dataclass_fields__ if name not in ("characters", "filled_lines")]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.house.counts", description=__doc__)
    parser.add_argument("--against", metavar="COMMIT", help="count this commit too")
    options = parser.parse_args()
    trees = {}
    if options.against:
        trees[options.against] = committed(options.against)
    trees["now"] = working_tree()
    counted = {name: count(files) for name, files in trees.items()}
    cycles = {name: import_cycles(files) for name, files in trees.items()}
    print(table(counted), file=sys.stderr)
    for name, found in cycles.items():
        shown = "; ".join(" <-> ".join(sorted(cycle)) for cycle in found) or "none"
        print(f"import cycles, {name}: {shown}", file=sys.stderr)
    record = {
        name: {
            package: {**asdict(counts), "line_length": counts.line_length}
            for package, counts in packages.items()
        }
        for name, packages in counted.items()
    }
    print(json.dumps(record, indent=2))
    return 0


def working_tree() -> dict[str, str]:
    """Path -> text of every Python file and JSON schema that git does not ignore."""
    listed = _git("ls-files", "--cached", "--others", "--exclude-standard").decode().splitlines()
    return {name: (ROOT / name).read_text() for name in listed if _counts(name) and (ROOT / name).is_file()}


def committed(commit: str) -> dict[str, str]:
    """Path -> text of the same files in a commit."""
    with tarfile.open(fileobj=io.BytesIO(_git("archive", commit))) as archive:
        return {
            member.name: content.read().decode()
            for member in archive
            if _counts(member.name) and (content := archive.extractfile(member)) is not None
        }


def count(files: Mapping[str, str]) -> dict[str, Counts]:
    """The figures of every package, and their sum without tests under "source"."""
    packages: dict[str, Counts] = {}
    for name, text in sorted(files.items()):
        package = PurePosixPath(name).parts[0]
        _add(packages.setdefault(package, Counts()), name, text)
    source = Counts()
    for package, counts in packages.items():
        if package not in ("tests", "docs"):
            for field in fields(Counts):
                setattr(source, field.name, getattr(source, field.name) + getattr(counts, field.name))
    return {**packages, "source": source}


def _add(counts: Counts, name: str, text: str) -> None:
    if name.endswith(".schema.json"):
        counts.schema_lines += len(text.splitlines())
        return
    tree = ast.parse(text)
    filled = [line for line in text.splitlines() if line.strip()]
    counts.files += 1
    counts.lines += len(text.splitlines())
    counts.filled_lines += len(filled)
    counts.characters += sum(map(len, filled))
    counts.tokens += len(list(_tokens(text)))
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            counts.string_subscripts += isinstance(node.slice.value, str)
        if isinstance(node, FUNCTIONS):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            counts.functions += 1
            counts.over_40_lines += length > LONG_FUNCTION
            counts.over_60_lines += length > VERY_LONG_FUNCTION
            counts.over_10_branches += (
                sum(isinstance(inner, BRANCHES) for inner in ast.walk(node)) > MANY_BRANCHES
            )


def _tokens(text: str) -> Iterator[str]:
    """What is neither layout nor comment nor docstring."""
    docstrings = {
        node.body[0].lineno
        for node in ast.walk(ast.parse(text))
        if isinstance(node, (ast.Module, ast.ClassDef, *FUNCTIONS)) and ast.get_docstring(node) is not None
    }
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        is_docstring = token.type == tokenize.STRING and token.start[0] in docstrings
        if token.type not in NOT_CODE and not is_docstring:
            yield token.string


def import_cycles(files: Mapping[str, str]) -> list[set[str]]:
    """Groups of modules that import each other in a circle, lazy and type-only imports counted."""
    modules = {_module(name): text for name, text in files.items() if name.endswith(".py")}
    graph = {name: _imports(name, text, modules) for name, text in modules.items()}
    reach = {name: _reachable(graph, name) for name in graph}
    groups = [
        {other for other in reached if name in reach.get(other, ())}
        for name, reached in reach.items()
        if name in reached
    ]
    return [group for position, group in enumerate(groups) if group not in groups[:position]]


def _imports(name: str, text: str, modules: Mapping[str, str]) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in modules else node.module)
    return (found & modules.keys()) - {name}


def _reachable(graph: Mapping[str, set[str]], start: str) -> set[str]:
    """Every module that `start` leads to; `start` itself where it stands in a circle."""
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        fresh = graph[waiting.pop()] - seen
        seen |= fresh
        waiting += fresh
    return seen


def _module(name: str) -> str:
    return name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _counts(name: str) -> bool:
    in_package = "/" in name and not name.startswith((*OUTSIDE, "."))
    return in_package and name.endswith((".py", ".schema.json"))


def _git(*arguments: str) -> bytes:
    return subprocess.run(("git", *arguments), cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout


def table(counted: Mapping[str, Mapping[str, Counts]]) -> str:
    """A row for each package and tree."""
    packages = sorted({package for packages in counted.values() for package in packages})
    rows = [
        _row(package, tree, packages_of[package])
        for package in packages
        for tree, packages_of in counted.items()
        if package in packages_of
    ]
    return tabulate(rows, ["package", "tree", *(name.replace("_", " ") for name in SHOWN), "line length"])


def _row(package: str, tree: str, counts: Counts) -> list[object]:
    return [package, tree, *(getattr(counts, name) for name in SHOWN), round(counts.line_length, 1)]


if __name__ == "__main__":
    sys.exit(main())
