"""Make and the shell: folders, programs and values with blanks, quotes and letters of any script."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

# By the shell: the path of a Python that has blanks can follow no #!.
STUB = """#!/bin/sh
exec {python} -c 'import json, os, sys
with open(os.environ["CALLS"], "a", encoding="utf-8") as calls:
    calls.write(json.dumps(sys.argv[1:]) + "\\n")' "$@"
"""
AWKWARD = 'it\'s a "ché" 漢 $HOME'
BUILD = "my build's"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder of an awkward name with the Makefile, and a Python that notes what it is called with."""
    folder = tmp_path / "my it's 漢 checkout"
    (folder / ".venv" / "bin").mkdir(parents=True)
    for name in ("Makefile", "activate", "config.properties"):
        shutil.copy(ROOT / name, folder)
    for name in ("requirements-core.lock", "requirements.lock"):
        (folder / name).write_text("")
    for name in (".installed", ".installed-all"):
        (folder / ".venv" / "bin" / name).write_text("")
    stub = folder / ".venv" / "bin" / "python"
    stub.write_text(STUB.format(python=shlex.quote(sys.executable)))
    stub.chmod(0o755)
    return folder


def called(checkout: Path, *arguments: str) -> list[list[str]]:
    calls = checkout / "calls"
    done = subprocess.run(
        ["make", "--no-print-directory", *arguments],
        cwd=checkout,
        env={key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "DATA_DIR"))}
        | {"CALLS": str(calls)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in calls.read_text(encoding="utf-8").splitlines()]


def test_a_classifier_of_ones_own_is_shipped_under_its_name(checkout: Path, monkeypatch) -> None:
    curl = checkout / "curl"
    curl.write_text("#!/bin/sh\n")
    curl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{checkout}{os.pathsep}{os.environ['PATH']}")
    values = (
        "CHECKPOINT=/a b/it's a Model",
        "DATA=csv:/a b/c.csv",
        "UNSEEN=1",
        "P99_MS=20",
        f"BUILD={BUILD}",
    )
    calls = called(checkout, "ship", *values)
    artifacts = f"{BUILD}/artifacts-it-s-a-Model"
    build, *rest = calls
    assert build[:5] == ["-m", "export", "build", "ship", "--checkpoint"]
    assert build[5:] == [values[0][11:], "--artifacts", artifacts, "--data", "csv:/a b/c.csv", "--unseen"]
    verbs = [call[1:3] for call in rest]
    measured = [["export", "package"], ["benchmarks", "run"], ["benchmarks", "select"], ["export", "promote"]]
    assert verbs == [*measured, ["deploy", "start"], ["deploy", "stop"]]
    assert rest[0][-2:] == ["--name", "it-s-a-Model"]
    assert rest[1][rest[1].index("--checkpoint") + 1] == f"{BUILD}/adopted/it's a Model"
    assert rest[2][3:] == ["--p99-ms", "20", "--artifacts", artifacts]


def test_help_says_what_each_target_does(checkout: Path) -> None:
    done = subprocess.run(
        ["make", "--no-print-directory", "help"], cwd=checkout, capture_output=True, text=True, timeout=60
    )
    said = {line.split()[0] for line in done.stdout.splitlines()}
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert said == targets


def test_without_texts_fp32_alone_is_shipped_and_without_a_classifier_nothing(
    checkout: Path, monkeypatch
) -> None:
    (checkout / "curl").symlink_to("/bin/true")
    monkeypatch.setenv("PATH", f"{checkout}{os.pathsep}{os.environ['PATH']}")
    build, *rest = called(checkout, "ship", "CHECKPOINT=model", "NAME=mine", "VARIANTS=all")
    assert build[2:] == ["build", "fp32", "--checkpoint", "model", "--artifacts", "build/artifacts-mine"]
    assert [call[1:3] for call in rest] == [["export", "package"], ["deploy", "start"], ["deploy", "stop"]]
    with pytest.raises(AssertionError, match="which classifier"):
        called(checkout, "ship")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["TEXTS=a b.txt"], ["build", "ship", "--data", "texts:a b.txt"]),
        (["TEXTS=a b.txt", "DATA=csv:c"], ["build", "ship", "--data", "csv:c", "--unlabelled", "a b.txt"]),
        (["DATA=csv:c", "VARIANTS=fp32 onnx-int8"], ["build", "fp32", "onnx-int8", "--data", "csv:c"]),
    ],
)
def test_texts_stand_for_data_or_are_what_students_learn_from(
    values: list[str], expected: list[str], checkout: Path, monkeypatch
) -> None:
    (checkout / "curl").symlink_to("/bin/true")
    monkeypatch.setenv("PATH", f"{checkout}{os.pathsep}{os.environ['PATH']}")
    build = called(checkout, "ship", "CHECKPOINT=model", "NAME=mine", *values)[0][2:]
    place = build.index("--checkpoint")
    assert build[:place] + build[place + 4 :] == expected


@pytest.mark.parametrize(
    ("target", "values", "expected"),
    [
        ("train", ["DATA=csv:/a b/it's"], ["--data", "csv:/a b/it's", "--output", f"{BUILD}/checkpoint"]),
        ("evaluate", [], ["--checkpoint", f"{BUILD}/checkpoint"]),
        ("export", [], ["--checkpoint", f"{BUILD}/checkpoint", "--artifacts", f"{BUILD}/artifacts"]),
        ("export", ["CHECKPOINT=/a b/c"], ["--checkpoint", "/a b/c", "--artifacts", f"{BUILD}/artifacts"]),
        ("train", ["CONFIG=/a b/c.yaml", "ARGS=--epochs 2"], ["--config", "/a b/c.yaml", "--epochs", "2"]),
        ("export", ["VARIANTS=fp32 onnx-int8"], ["build", "fp32", "onnx-int8", "--checkpoint"]),
        ("export", ["CHECKPOINT=c", "ARGS=--labels a,b"], [f"{BUILD}/artifacts", "--labels", "a,b"]),
        ("benchmark", ["BASELINES=1", "ARGS=--fresh"], ["--baselines", "--fresh"]),
        ("benchmark", ["BASELINES=0", "RPS=9", "P99_MS=5"], ["run", "--p99-ms", "5", "--rps", "9", "--name"]),
        ("select", ["MAX_FLIP=.1", "MAX_MB=5", "RPS=9"], ["--rps", "9", "--max-flip", ".1", "--max-mb", "5"]),
        ("select", ["MAX_RECALL_DROP=.1", "MAX_RATE_SHIFT=.2"], [".1", "--max-rate-shift", ".2"]),
        ("select", ["MAX_AUROC_DROP=.01"], ["select", "--max-auroc-drop", ".01"]),
        ("select", ["SIGN_KEY=/a b/key"], ["--name", "hate", "--sign-key", "/a b/key"]),
        ("plan", ["RPS=9", "P99_MS=5", "ARGS=--zones 2"], ["--rps", "9", "--p99-ms", "5", "--zones", "2"]),
        ("package", ["NAME=my name"], ["--artifacts", f"{BUILD}/artifacts", "--name", "my name"]),
        ("serve", ["CONFIG=/a b/it's.properties"], ["--config", "/a b/it's.properties", "--name", "hate"]),
        ("stop", ["CONFIG=/a b/it's.properties"], ["--config", "/a b/it's.properties"]),
        ("doctor", ["CONFIG=/a b/it's.properties", "NAME=my name"], ["--name", "my name"]),
        ("benchmark", [], ["--artifacts", f"{BUILD}/artifacts", "--checkpoint", f"{BUILD}/checkpoint"]),
        ("compare", ["A=a b", "B=c'd"], ["a b", "c'd"]),
        ("select", [], ["--artifacts", f"{BUILD}/artifacts"]),
        ("coverage", [], [f"--cov-report=html:{BUILD}/coverage"]),
        ("docs", [], ["--site-dir", f"{BUILD}/site"]),
        ("gpu", [], ["--output", f"{BUILD}/gpu/checkpoint"]),
        ("test", [], ["-m", "pytest"]),
    ],
)  # fmt: skip
def test_values_reach_the_program_as_they_were_given(
    checkout: Path, target: str, values: list[str], expected: list[str]
) -> None:
    calls = called(checkout, target, f"BUILD={BUILD}", *values)
    found = [json.dumps(call, ensure_ascii=False)[1:-1] for call in calls]
    assert any(json.dumps(expected, ensure_ascii=False)[1:-1] in call for call in found), found


def test_a_python_whose_path_has_a_blank_makes_the_environment(checkout: Path, tmp_path: Path) -> None:
    own = tmp_path / "a python" / "python3"
    own.parent.mkdir()
    shutil.copy(checkout / ".venv" / "bin" / "python", own)
    (checkout / ".venv" / "bin" / ".installed").unlink()
    calls = called(checkout, "install", f"PYTHON={own}")
    assert ["-m", "venv", ".venv"] in calls
    assert [call[:3] for call in calls][-2:] == [["-m", "pip", "install"]] * 2
    assert {"--no-deps", "--require-hashes", "requirements-core.lock"} <= set(calls[-2])
    assert calls[-1][-1].startswith("torch==")


@pytest.mark.parametrize("target", ["install-all", "test", "lint"])
def test_what_tests_need_is_added_before_they_run(checkout: Path, target: str) -> None:
    (checkout / ".venv" / "bin" / ".installed-all").unlink()
    added = called(checkout, target)[0]
    assert added[:3] == ["-m", "pip", "install"]
    assert {"--no-deps", "--require-hashes", "requirements.lock"} <= set(added)


def test_the_demo_does_without_it(checkout: Path) -> None:
    (checkout / ".venv" / "bin" / ".installed-all").unlink()
    assert called(checkout, "install", "train", "export")[0][1] == "training"


def test_an_environment_that_is_a_link_is_kept(checkout: Path, tmp_path: Path) -> None:
    shared = tmp_path / "another's"
    (checkout / ".venv").rename(shared)
    (checkout / ".venv").symlink_to(shared)
    (shared / "bin" / ".installed").unlink()
    calls = called(checkout, "install", f"PYTHON={shared}/bin/python")
    assert ["-m", "venv", ".venv"] not in calls
    assert [call[:3] for call in calls][-2:] == [["-m", "pip", "install"]] * 2


def test_a_python_that_is_not_there_is_a_sentence(checkout: Path) -> None:
    (checkout / ".venv" / "bin" / ".installed").unlink()
    done = subprocess.run(
        ["make", "install", "PYTHON=/no such/python"], cwd=checkout, capture_output=True, text=True
    )
    assert "error: Python 3.11, 3.12 or 3.13 is needed (3.14 is untried), not /no such/python" in done.stderr


without_zsh = pytest.mark.skipif(shutil.which("zsh") is None, reason="there is no zsh here")
SHELLS = ["bash", pytest.param("zsh", marks=without_zsh)]


@pytest.fixture
def activatable(checkout: Path) -> Path:
    """The same with what `activate` sources, and a `torchserve` that says where it runs and by what."""
    places = checkout / ".venv" / "bin"
    (places / "activate").write_text(f'export PATH="{places}:$PATH"\n')
    (places / "torchserve").write_text('#!/bin/sh\necho "$PWD|$TS_CONFIG_FILE|$*"\n')
    (places / "torchserve").chmod(0o755)
    return checkout


def shell(program: str, activatable: Path, script: str, **environment: str) -> str:
    unwanted = ("proxy", "TS_CONFIG_FILE", "JAVA_HOME")
    kept = {key: value for key, value in os.environ.items() if not key.lower().endswith(unwanted)}
    kept.pop("TS_CONFIG_FILE", None)
    own = {"JAVA_HOME": "/java", "CALLS": str(activatable / "calls")} | environment
    done = subprocess.run(
        [program, "-c", script, "sh", str(activatable / "activate")],
        cwd=activatable.parent, env=kept | own, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("program", SHELLS)
def test_torchserve_is_at_home_wherever_it_is_typed(program: str, activatable: Path) -> None:
    script = 'CDPATH=/:.; source "$1" && cd / && torchserve --start --models hate=hate.mar && echo "$PWD"'
    said = shell(program, activatable, script).splitlines()
    config = activatable / "config.properties"
    assert said == [f"{activatable}|{config}|--start --models hate=hate.mar", "/"]


@pytest.mark.parametrize("program", SHELLS)
def test_torchserve_stays_where_it_is_with_another_configuration(program: str, activatable: Path) -> None:
    script = 'source "$1" && cd / && torchserve --stop'
    assert shell(program, activatable, script, TS_CONFIG_FILE="/own.properties") == "/|/own.properties|--stop"


@pytest.mark.parametrize("program", SHELLS)
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ""),
        ({"http_proxy": "http://p:1"}, "localhost,127.0.0.1,::1"),
        ({"HTTP_PROXY": "http://p:1", "NO_PROXY": ".example"}, ".example,localhost,127.0.0.1,::1"),
        ({"http_proxy": "http://p:1", "no_proxy": "localhost,x"}, "localhost,x"),
        ({"http_proxy": "http://p:1", "no_proxy": "*"}, "*"),
    ],
)
def test_an_activated_shell_asks_this_machine_past_a_proxy(
    program: str, given: dict[str, str], expected: str, activatable: Path
) -> None:
    script = 'source "$1" && echo "${no_proxy:-}"'
    assert shell(program, activatable, script, **given) == expected
