"""One program per stage: verbs, their options, and the spellings that they had before."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from common.programs import PACKAGE, STAGES, Program, Verb, command, install
from handler.errors import UserError
from tests.conftest import ROOT, run_stage

PROGRAMS = [import_module(f"{stage}.__main__").PROGRAM for stage in STAGES]
ALL_HELP = """
import sys
from importlib import import_module
from common.programs import STAGES
for stage in STAGES:
    program = import_module(f"{stage}.__main__").PROGRAM
    for verb in program.verbs:
        program.parser(verb.name).format_help()
print(sorted({"torch", "transformers", "sklearn", "openvino", "onnxruntime"} & sys.modules.keys()))
"""


@pytest.mark.parametrize("program", PROGRAMS, ids=list(STAGES))
def test_every_verb_has_a_function(program: Program) -> None:
    assert [verb.name for verb in program.verbs if not callable(verb.function())] == []


def test_no_help_imports_what_takes_seconds() -> None:
    done = subprocess.run([sys.executable, "-c", ALL_HELP], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


def test_a_package_that_is_not_installed_is_a_sentence_that_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "needy.py").write_text("import no_such_package\n")
    monkeypatch.syspath_prepend(tmp_path)
    program = Program("deploy", (Verb("need", "need it", "needy:need", "serve,deploy"),), extras="serve")
    with pytest.raises(UserError, match=r"no_such_package.*pip install '\.\[serve,deploy\]'"):
        program.main(["need"])


def test_outside_a_checkout_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert command("export package", "package") == "make package"
    assert command("benchmarks tables") == "python -m benchmarks tables"
    monkeypatch.setattr("common.programs.is_checkout", lambda: False)
    assert install("export") == "pip install 'hate-speech-archive[export]'"
    assert command("export package", "package") == "hate-speech-archive export package"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("training", "serach"), "invalid choice: 'serach'"),
        (("training", "--epochs", "1", "search"), "the verb must come before the options"),
        (("deploy",), "required: verb"),
        (("common", "trainig"), "invalid choice: 'trainig'"),
        (("common", "handler", "predict", "--nonsense"), f"{PACKAGE} handler predict: error"),
    ],
)
def test_what_is_no_command_is_refused(arguments: tuple[str, ...], said: str) -> None:
    done = run_stage(*arguments)
    assert done.returncode == 2
    assert said in done.stderr


@pytest.mark.parametrize(
    ("old", "arguments", "new"),
    [
        ("training.evaluation", ("--help",), "training evaluate"),
        ("training.data", ("describe", "--help"), "training data"),
        ("benchmarks", ("plan-check", "--help"), "benchmarks.studies.plan_check"),
        ("benchmarks", ("beside", "--help"), "benchmarks compare-machines"),
    ],
)
def test_an_old_spelling_works_and_names_the_new_one(old: str, arguments: tuple[str, ...], new: str) -> None:
    done = run_stage(old, *arguments)
    assert done.returncode == 0
    assert f" is now python -m {new};" in done.stderr
    assert done.stderr.count("\n") == 1
    assert f"usage: python -m {new} " in done.stdout


def test_an_option_that_was_renamed_works_and_names_the_new_one(capsys: pytest.CaptureFixture[str]) -> None:
    verb = Verb("run", "run it", "no:module", renamed={"--peers": "--baselines", "--peers-folder": "--kept"})
    assert verb.by_new_names(["--peers", "--peers-folder=a=b", "fp32"]) == [
        "--baselines",
        "--kept=a=b",
        "fp32",
    ]
    assert capsys.readouterr().err.splitlines() == [
        f"{old} is now {new}; the next release removes the old name" for old, new in verb.renamed.items()
    ]


def test_starting_where_there_is_no_configuration_writes_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TS_CONFIG_FILE", raising=False)
    done = run_stage("deploy", "start")
    assert "there is no archive to serve" in done.stderr
    assert (tmp_path / "config.properties").read_text() == (ROOT / "config.properties").read_text()
    assert (tmp_path / "deploy" / "log4j2.xml").is_file()
    (tmp_path / "config.properties").write_text("model_store=mine\n")
    assert "wrote" not in run_stage("deploy", "start").stderr
