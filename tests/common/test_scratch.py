"""The temporary folder of servers belongs to no other user."""

import os
import shlex
import subprocess
import tempfile
from pathlib import Path

import pytest

from common.host import private_folder as looked_at
from common.scratch import checked_folder, private_folder
from handler.errors import UserError
from tests.conftest import ROOT

OWN = f"torchserve-{os.getuid()}"
NOBODY = 65534


@pytest.fixture(autouse=True)
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as /tmp is: anybody may write to it, and take away only what is theirs."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    tmp_path.chmod(0o1777)
    return tmp_path


def test_it_is_made_for_its_owner_alone_and_found_again(shared: Path) -> None:
    folder = private_folder()
    assert folder == shared / OWN
    assert folder.stat().st_mode & 0o777 == 0o700
    assert private_folder() == checked_folder() == folder


def test_a_shell_that_has_it_already_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = private_folder()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    assert private_folder() == folder


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_one_that_others_may_write_to_is_refused(shared: Path, mode: int) -> None:
    (shared / OWN).mkdir()
    (shared / OWN).chmod(mode)
    with pytest.raises(UserError, match="other users can write"):
        private_folder()


def test_a_link_or_a_file_in_its_place_is_refused(shared: Path) -> None:
    (shared / "elsewhere").mkdir(mode=0o700)
    (shared / OWN).symlink_to(shared / "elsewhere")
    with pytest.raises(UserError, match="another user's"):
        private_folder()
    (shared / OWN).unlink()
    (shared / OWN).write_text("")
    with pytest.raises(UserError, match="temporary folder cannot be made"):
        private_folder()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to make a folder another user's")
def test_a_folder_of_another_user_is_refused(shared: Path) -> None:
    (shared / OWN).mkdir(mode=0o700)
    os.chown(shared / OWN, NOBODY, NOBODY)
    with pytest.raises(UserError, match="another user's"):
        private_folder()


def test_the_doctor_looks_and_makes_nothing(shared: Path) -> None:
    assert looked_at().status == "ok"
    assert not list(shared.iterdir())
    private_folder().chmod(0o777)
    assert looked_at().status == "fail"


@pytest.mark.parametrize("mode", [0o777, 0o770])
def test_one_that_others_may_put_another_in_place_of_is_refused(shared: Path, mode: int) -> None:
    shared.chmod(mode)
    with pytest.raises(UserError, match=r"other users can replace .*chmod \+t"):
        checked_folder()


def activated(temporary: Path) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "TEMP"}
    return subprocess.run(
        ["bash", "-c", f"source {shlex.quote(str(ROOT))}/activate && echo $TMPDIR $TEMP"],
        env=environment | {"TMPDIR": str(temporary)},
        capture_output=True,
        text=True,
        check=True,
    )


def test_an_activated_shell_gives_torchserve_the_same_folder(shared: Path) -> None:
    assert activated(shared).stdout.split() == [str(shared / OWN)] * 2
    assert activated(shared / OWN).stdout.split() == [str(shared / OWN)] * 2


def test_an_activated_shell_says_why_it_has_none(shared: Path) -> None:
    (shared / OWN).mkdir()
    (shared / OWN).chmod(0o777)
    done = activated(shared)
    assert "other users can write to the servers' temporary folder" in done.stderr
    assert done.stdout.split() == [str(shared)], "TEMP stays unset"
