"""`pip install .`: what the wheel holds, and its one command in an empty folder."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from common.programs import OWN, STAGES
from tests.conftest import ROOT

COMMAND = "hate-speech-archive"
NOT_INSTALLED = re.compile(r"\.(md|in|txt)$|Dockerfile|^benchmarks/published/")


@pytest.fixture(scope="module")
def tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True)
    return [name for name in listed.stdout.decode().splitlines() if (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def wheel(tracked: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built without network and isolation, from a copy: building leaves folders in the checkout."""
    checkout, place = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("wheel")
    for name in tracked:
        if not name.startswith(("tests/", "benchmarks/published/")):
            (checkout / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, checkout / name)
    pip("wheel", "--no-build-isolation", "--no-deps", "--wheel-dir", place, checkout)
    (built,) = place.iterdir()
    return built


def pip(*arguments: object) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input"]
    done = subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_the_wheel_holds_every_package_with_its_data_and_no_test(wheel: Path, tracked: list[str]) -> None:
    with zipfile.ZipFile(wheel) as opened:
        held = {name for name in opened.namelist() if ".dist-info/" not in name}
    packages = tuple(f"{name}/" for name in OWN if name != "tests")
    wanted = {name for name in tracked if name.startswith(packages) and not NOT_INSTALLED.search(name)}
    assert held == wanted


def test_the_base_is_what_predicting_needs_and_the_rest_is_in_extras(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as opened:
        (name,) = (name for name in opened.namelist() if name.endswith("METADATA"))
        needs = re.findall(r"Requires-Dist: (.*)", opened.read(name).decode())
    base = {re.split(r"[^\w-]", need)[0] for need in needs if "extra ==" not in need}
    assert base == {"numpy", "tokenizers", "tqdm"}


@pytest.mark.slow
def test_the_command_trains_exports_and_predicts_in_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    target, folder = tmp_path / "installed", tmp_path / "empty"
    folder.mkdir()
    pip("install", "--no-index", "--no-deps", "--target", target, wheel)
    environment = os.environ | {"PYTHONPATH": str(target), "HF_HUB_OFFLINE": "1"}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(target / "bin" / COMMAND), *arguments]
        return subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600
        )

    shown = run("--help").stdout
    assert [stage for stage in STAGES if stage not in shown] == []
    recipe = ("--data", "demo", "--base", "random:tiny", "--epochs", "1", "--track", "none")
    for arguments in (("training", "train", *recipe), ("export", "build", "fp32"), ("export", "package")):
        done = run(*arguments)
        assert done.returncode == 0, done.stderr
    assert json.loads(run("handler", "predict", "a text").stdout)["label"]
    assert (folder / "model_store" / "hate.mar").is_file()
    assert f"{COMMAND} deploy start" in run("deploy", "start", "--help").stdout
    absent = run("benchmarks", "select")
    assert absent.returncode == 2
    assert "benchmarks/results" in absent.stderr
    assert sorted(path.name for path in folder.iterdir()) == ["build", "model_store"]
