"""The pipeline of dvc.yaml: its commands, dependencies and outputs are those of the project, and DVC runs,
shares and brings back what they make."""

import os
import re
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT
from tests.test_architecture import ALLOWED, OF_TRAINING, imported

STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text())
COMMANDS = [
    command.split()
    for stage in STAGES.values()
    for command in ([stage["cmd"]] if isinstance(stage["cmd"], str) else stage["cmd"])
]
# Modules that a stage imports and that decide nothing which it writes into its outputs but pages.
SHOWN = {
    "train": ("training.evaluation", "training.measures.functional", "handler"),
    "export": (),
    "package": (),
    "benchmark": ("benchmarks.report", "benchmarks.resume_log", "benchmarks.progress"),
}
DVC = shutil.which("dvc")


def paths(stage: str, kind: str) -> set[str]:
    """The `deps` or `outs` of a stage, without their settings."""
    return {path if isinstance(path, str) else next(iter(path)) for path in STAGES[stage][kind]}


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_takes_what_it_is_given(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    python, dash_m, stage, *arguments = command
    assert (python, dash_m) == ("python", "-m")
    with pytest.raises(SystemExit) as left:
        import_module(f"{stage}.__main__").main([*arguments, "--help"])
    assert left.value.code == 0
    known = capsys.readouterr().out
    settings = [PARAMS[name] for name in re.findall(r"\$\{(\w+)\}", " ".join(command))]
    given = [name for setting in settings if isinstance(setting, dict) for name in setting]
    options = re.findall(r"--([a-z][a-z0-9-]+)", known)
    assert [name for name in given if name not in options] == []


@pytest.mark.parametrize("stage", STAGES)
def test_a_dependency_is_there_or_is_what_another_stage_makes(stage: str) -> None:
    made = {out for other in STAGES if other != stage for out in paths(other, "outs")}
    assert [path for path in paths(stage, "deps") - made if not (ROOT / path).exists()] == []
    ignored = subprocess.run(["git", "check-ignore", *paths(stage, "outs")], cwd=ROOT, capture_output=True)
    assert len(ignored.stdout.splitlines()) == len(paths(stage, "outs")), "git would see what DVC keeps"


@pytest.mark.parametrize(
    ("stage", "roots"),
    [
        ("train", ("training.pipeline", "training.data")),
        ("export", ("export.build", "export.adoption.adopt")),
        ("package", ("export.archives.package", "deploy.tuning.settings")),
        ("benchmark", ("benchmarks.suite", "benchmarks.inputs")),
    ],
)
def test_code_that_decides_a_result_is_a_dependency(stage: str, roots: tuple[str, ...]) -> None:
    seen: set[str] = set()
    reached = list(roots)
    while reached:
        name = reached.pop()
        place = ROOT / name.replace(".", "/")
        path = place.with_suffix(".py") if place.with_suffix(".py").is_file() else place / "__init__.py"
        if name in {*seen, *ALLOWED} or not path.is_file() or name.startswith(SHOWN[stage]):
            continue
        seen.add(name)
        dependencies = {path.relative_to(ROOT), *path.relative_to(ROOT).parents}
        assert {str(path) for path in dependencies} & paths(stage, "deps"), path
        reached += [module for module in imported(path) if decides(stage, module)]
    assert len(seen) > len(roots)


def decides(stage: str, name: str) -> bool:
    """Whether what a module of this name does goes into a stage's results: benchmarks open a checkpoint,
    which imports what trains one."""
    of_training = ".".join(name.split(".")[:2]) in OF_TRAINING
    trains = name.startswith("training.") and not of_training
    return name.split(".")[0] in ALLOWED and not (stage == "benchmark" and trains)


@pytest.fixture
def dvc(tmp_path: Path):
    """A checkout of its own with the smallest model there is; `dvc …` in it, its output."""
    checkout = tmp_path / "checkout"
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in tracked.stdout.splitlines():
        if not name.startswith(("tests/", "benchmarks/published/")) and (ROOT / name).is_file():
            (checkout / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, checkout / name)
    (checkout / "tiny.yaml").write_text("data: demo\nbase: random:tiny\nepochs: 2\nlearning_rate: 2e-3\n")
    params = {
        "train": {"config": "tiny.yaml", "track": "none"},
        "variants": "fp32 openvino-int8",
        "benchmark": {"profile": "demo", "threads": 1, "no-serve": True},
        "select": {"max-f1-drop": 0.05},
    }
    (checkout / "params.yaml").write_text(yaml.safe_dump(params))
    subprocess.run(["git", "init", "--quiet"], cwd=checkout, check=True)
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "DVC_SITE_CACHE_DIR": str(tmp_path / "site"),
        "DVC_GLOBAL_CONFIG_DIR": str(tmp_path / "global"),
    }

    def run(*arguments: str, fails: bool = False) -> str:
        done = subprocess.run(
            [str(DVC), *arguments], cwd=checkout, env=environment, capture_output=True, text=True, timeout=900
        )
        assert (done.returncode != 0) == fails, done.stdout + done.stderr
        return done.stdout + done.stderr

    run.checkout = checkout
    return run


def replace_in(path: Path, old: str, new: str) -> None:
    path.write_text(path.read_text().replace(old, new, 1))


def ran(output: str) -> list[str]:
    return re.findall(r"Running stage '(\w+)'", output)


@pytest.mark.slow
@pytest.mark.skipif(DVC is None, reason="there is no dvc on the PATH (pipx install dvc)")
def test_dvc_runs_what_is_stale_and_brings_back_what_was_pushed(dvc, tmp_path: Path) -> None:
    archive = dvc.checkout / "model_store" / "hate.mar"
    assert ran(dvc("repro")) == list(STAGES)
    served = archive.read_bytes()
    assert ran(dvc("repro")) == []

    dvc("remote", "add", "--local", "--default", "shelf", str(tmp_path / "shelf"))
    dvc("push")
    for folder in ("build", "benchmarks/results", ".dvc/cache"):
        shutil.rmtree(dvc.checkout / folder)
    archive.unlink()
    dvc("pull")
    assert archive.read_bytes() == served
    assert ran(dvc("repro")) == []

    replace_in(dvc.checkout / "params.yaml", "max-f1-drop: 0.05", "max-f1-drop: 0.06")
    assert ran(dvc("repro")) == ["select"]
    replace_in(dvc.checkout / "params.yaml", "max-f1-drop: 0.06", "max-mb: 0.001")
    assert "no variant qualifies" in dvc("repro", fails=True)
    assert archive.read_bytes() == served
    replace_in(dvc.checkout / "params.yaml", "max-mb: 0.001", "max-f1-drop: 0.06")
    dvc("repro")
    for path, stage in (("benchmarks/suite.py", "benchmark"), ("export/archives/package.py", "package")):
        replace_in(dvc.checkout / path, "import", "# Changed.\nimport")
        assert f"{stage}:\n" in dvc("status", stage)
    assert "train:\n" not in dvc("status", "train")
    replace_in(dvc.checkout / "tiny.yaml", "epochs: 2", "epochs: 3")
    assert "train:\n" in dvc("status", "train")
