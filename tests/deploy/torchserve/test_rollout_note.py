"""A roll-out that was killed leaves a note: the next one, `--back` and `status` act on it."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from common.torchserve import Config
from deploy.torchserve import rollout
from deploy.torchserve.access import Access
from deploy.torchserve.rollout import Front, Limits, roll_out
from deploy.torchserve.rollout_note import Note, note_file, read_note, write_note
from deploy.torchserve.rollout_texts import Asked, Sample
from handler.errors import UserError
from tests.conftest import run_stage

LIMITS = Limits(max_flip=0.05, max_shift=0.05, max_slowdown=5.0, watch_s=0.0)
TEXTS = Sample([Asked("one text")] * 120)
NO_PROCESS = {"pid": 2**22 + 1, "pid_since": 0.0}


class Killed(BaseException):
    """As SIGKILL: what handles errors does not come to run."""


class Server(Front):
    """A TorchServe in memory: versions, and which is the default; `url` is the version that it brings."""

    def __init__(self, folder: Path) -> None:
        access = Access(Config(folder / "config.properties", {}), folder)
        super().__init__(access, "hate")
        self.registered, self.current = {"1.0"}, "1.0"

    def ask(self, text: str, version: str | None = None) -> tuple[dict, float]:
        found = version or self.current
        return {"label": "hate", "scores": {"hate": 1.0}, "model": {"version": found}}, 1.0

    def _manage(self, method: str, path: str, options: dict[str, str] | None = None) -> Any:
        version = path.split("/")[3] if path.count("/") > 2 else None
        if method == "POST":
            assert options is not None
            if options["url"] in self.registered:
                raise UserError("this version is already registered", remedy=rollout.NUMBER)
            self.registered.add(options["url"])
        elif method == "PUT":
            assert version in self.registered
            self.current = version or ""
        elif method == "DELETE":
            assert version != self.current, "TorchServe removes no default version beside others"
            self.registered.remove(version or "")
        elif version == "all":
            return [{"modelVersion": each} for each in self.registered]
        return [{"modelVersion": version or self.current, "workers": []}]


@pytest.fixture
def server(tmp_path: Path) -> Server:
    return Server(tmp_path)


def killed(server: Server, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    """Roll 2.0 out and be killed where `at`, a function of the roll-out, begins."""

    def stop(*arguments: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(rollout, at, stop)
        patch.setattr(rollout, "_each", stop)  # nothing is brought back either
        with pytest.raises(Killed):
            roll_out([server], "2.0", TEXTS, LIMITS, 1, keep_old=False)
    note = read_note(server.note_file)
    assert note is not None
    values = json.loads(server.note_file.read_text()) | NO_PROCESS
    server.note_file.write_text(json.dumps(values))


@pytest.mark.parametrize("at", ["compare", "watch"])
def test_the_same_command_again_undoes_what_was_cut_off_and_goes_on(
    at: str, server, monkeypatch, capsys
) -> None:
    killed(server, monkeypatch, at)
    assert server.registered == {"1.0", "2.0"}
    assert server.current == ("2.0" if at == "watch" else "1.0")
    outcome = roll_out([server], "2.0", TEXTS, LIMITS, 1, keep_old=False)
    assert "an earlier roll-out was interrupted" in capsys.readouterr().err
    assert outcome["done"]
    assert (outcome["servers"][0]["old"], outcome["servers"][0]["new"]) == ("1.0", "2.0")
    assert (server.current, server.registered) == ("2.0", {"2.0"})
    assert not server.note_file.exists()


def test_back_undoes_what_was_cut_off(server, monkeypatch) -> None:
    killed(server, monkeypatch, "watch")
    assert "version 1.0 is the default again" in (rollout.go_back(server) or "")
    assert (server.current, server.registered) == ("1.0", {"1.0"})
    assert rollout.go_back(server) is None


def test_back_brings_a_kept_version_back(server) -> None:
    assert roll_out([server], "2.0", TEXTS, LIMITS, 1, keep_old=True)["done"]
    assert (server.current, server.registered) == ("2.0", {"1.0", "2.0"})
    assert "version 1.0 is kept" in str(read_note(server.note_file))
    rollout.go_back(server)
    assert (server.current, server.registered) == ("1.0", {"1.0"})


def test_after_a_kept_version_the_next_one_rolls_out_as_ever(server) -> None:
    roll_out([server], "2.0", TEXTS, LIMITS, 1, keep_old=True)
    outcome = roll_out([server], "3.0", TEXTS, LIMITS, 1, keep_old=False)
    assert outcome["done"]
    assert server.current == "3.0"
    assert not server.note_file.exists()


def test_a_server_that_was_started_again_has_nothing_to_undo(server, monkeypatch) -> None:
    killed(server, monkeypatch, "watch")
    server.registered, server.current = {"2.0"}, "2.0"
    assert "restarted since" in (rollout.go_back(server) or "")
    assert server.current == "2.0"
    assert not server.note_file.exists()


def test_two_at_once_are_refused(server) -> None:
    write_note(server.note_file, Note.of("1.0", ["1.0"], "2.0"))
    with pytest.raises(UserError, match=f"a roll-out is under way on this server: process {os.getpid()}"):
        roll_out([server], "2.0", TEXTS, LIMITS, 1, keep_old=False)


@pytest.mark.parametrize("error", [SystemExit(129), SystemExit(143), KeyboardInterrupt()])
def test_a_lost_terminal_brings_the_old_version_back(error: BaseException, server, monkeypatch) -> None:
    def stop(*arguments: object) -> None:
        raise error

    monkeypatch.setattr(rollout, "watch", stop)
    if isinstance(error, SystemExit):
        with pytest.raises(SystemExit) as left:
            roll_out([server], "2.0", TEXTS, LIMITS, 1, keep_old=False)
        assert left.value.code == error.code
    else:
        assert not roll_out([server], "2.0", TEXTS, LIMITS, 1, keep_old=False)["done"]
    assert (server.current, server.registered) == ("1.0", {"1.0"})
    assert not server.note_file.exists()


def test_a_folder_that_cannot_hold_the_note_is_said_before_anything_is_touched(server, monkeypatch) -> None:
    def refuse(*arguments: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("deploy.torchserve.rollout_note.write_json", refuse)
    outcome = roll_out([server], "2.0", TEXTS, LIMITS, 1, keep_old=False)
    assert "the note of the roll-out cannot be written" in outcome["why"]
    assert server.registered == {"1.0"}


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"known": 7}'])
def test_a_note_that_is_none_is_a_sentence(content: str, server) -> None:
    server.note_file.write_text(content)
    with pytest.raises(UserError, match="the note of a roll-out cannot be read"):
        read_note(server.note_file)


def test_status_tells_of_a_roll_out_that_was_cut_off(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "config.properties"
    config.write_text("management_address=http://127.0.0.1:1\ninference_address=http://127.0.0.1:2\n")
    access = Access.of(config)
    write_note(note_file(access, "hate"), Note("1.0", ("1.0",), "2.0.mar", **NO_PROCESS))
    done = run_stage("deploy", "status", "--config", config)
    assert "a roll-out of 2.0.mar was interrupted, and nothing watches the new version" in done.stderr
    assert "was interrupted" in json.loads(done.stdout)["rollout"]
