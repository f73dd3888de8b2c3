"""What contributors meet first: the workflow, the hooks and the conda environment say what is there."""

import re
import subprocess
import sys

import yaml

from tests.conftest import ROOT

WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"
TARGETS = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_the_workflow_is_one() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows"]
    done = subprocess.run([*command, WORKFLOW], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_workflow_calls_targets_that_there_are_for_the_pythons_that_are_declared() -> None:
    jobs = yaml.safe_load(WORKFLOW.read_text())["jobs"]
    commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    called = [command.split()[1] for command in commands if command.startswith("make ")]
    assert called
    assert set(called) <= set(TARGETS)
    assert 'requires-python = ">=3.11,<3.13"' in (ROOT / "pyproject.toml").read_text()
    assert jobs["test"]["strategy"]["matrix"]["python"] == ["3.11", "3.12"]
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text()
    for runtime in jobs["images"]["strategy"]["matrix"]["runtime"]:
        assert (ROOT / "deploy" / "requirements" / f"{runtime}.txt").is_file()
        assert runtime in dockerfile


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
