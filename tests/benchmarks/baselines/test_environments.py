"""Environments of servers: made once from what is here, kept, and honest about what cannot be installed."""

import subprocess
import zipfile
from pathlib import Path

import pytest

from benchmarks.baselines import environments
from benchmarks.baselines.environments import INSTALLED, found, install


def of_a_package(folder: Path, name: str, *, requires: str = "") -> str:
    """A source of a package that needs no build, as a requirement."""
    wheel = folder / f"{name}-1.2.3-py3-none-any.whl"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2.3\n"
    metadata += f"Requires-Dist: {requires}\n" if requires else ""
    info = f"{name}-1.2.3.dist-info"
    files = {
        f"{name}.py": "ANSWER = 42\n",
        f"{info}/METADATA": metadata,
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": "",
    }
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    return f"{name} @ file://{wheel}"


@pytest.mark.slow
def test_an_environment_has_its_package_and_this_projects_and_is_kept(tmp_path: Path) -> None:
    package = of_a_package(tmp_path, "answering")
    made = install(tmp_path / "own", [package])
    assert made.lacks is None
    assert made.versions["answering"] == "1.2.3"
    assert made.versions["torch"].startswith("2.13.0")
    code = "import answering, torch; print(answering.ANSWER, torch.__version__)"
    done = subprocess.run([made.python, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("42 2.13.0")
    before = (made.folder / INSTALLED).stat().st_mtime_ns
    assert install(tmp_path / "own", [package]) == made
    assert (made.folder / INSTALLED).stat().st_mtime_ns == before, "it is not made again"
    assert "make install-servers" in str(found(tmp_path / "own", ["another"]).lacks)


@pytest.mark.slow
def test_what_cannot_be_installed_is_a_sentence_and_is_tried_again(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    wanted = of_a_package(tmp_path, "greedy", requires="torch==1.0.0")
    refused = install(tmp_path / "own", [wanted])
    assert "torch" in str(refused.lacks), "no environment brings another build of torch"
    assert "\n" not in str(refused.lacks)
    assert refused.versions == {}
    assert found(tmp_path / "own", [wanted]) == refused, "the reason is kept"
    calls: list[object] = []
    monkeypatch.setattr(environments, "_made", lambda *given: calls.append(given) or "still not")
    assert install(tmp_path / "own", [wanted]).lacks == "still not"
    assert len(calls) == 1


@pytest.mark.parametrize("kept", ["", "[]", "{}", '{"key": ["x"], "versions": {}, "lacks": null}'])
def test_a_damaged_record_counts_as_not_installed(kept: str, tmp_path: Path) -> None:
    (tmp_path / INSTALLED).write_text(kept)
    assert found(tmp_path, ["x"]).lacks == "not installed: make install-servers"


def test_the_last_error_of_pip_is_the_reason() -> None:
    output = "Looking\nERROR: first\nERROR: No matching distribution found for nothing\n[notice] new pip\n"
    assert environments._reason(output) == "No matching distribution found for nothing"
    assert environments._reason("") == "no reason was given"


def test_packages_that_conflict_are_the_reason() -> None:
    output = """ERROR: Cannot install greedy==1.2.3 because its requirements conflict.

The conflict is caused by:
    greedy 1.2.3 depends on torch==1.0.0
    The user requested (constraint) torch==2.13.0

To fix this you could try to:
ERROR: ResolutionImpossible: for help visit https://pip.pypa.io
"""
    expected = "greedy 1.2.3 depends on torch==1.0.0; The user requested (constraint) torch==2.13.0"
    assert environments._reason(output) == expected
