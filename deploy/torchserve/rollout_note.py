"""A note of what a roll-out found on a server, next to its configuration, written before anything changes.

It tells the next roll-out, `--back` and `python -m deploy status` of a roll-out that was killed.
"""

import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from common.atomic import write_json
from deploy.torchserve.access import Access
from handler.errors import UserError, refusals
from handler.records import read


@dataclass(frozen=True)
class Note:
    """The default version before, the versions known then, the archive of the new one, and the process that
    changes it. `is_done` where all went well and the old version is kept."""

    old: str
    known: tuple[str, ...]
    url: str
    pid: int
    pid_since: float
    is_done: bool = False

    @classmethod
    def of(cls, old: str, known: Iterable[str], url: str) -> "Note":
        """That of this process."""
        own = psutil.Process()
        return cls(old, tuple(known), url, own.pid, own.create_time())

    @property
    def is_under_way(self) -> bool:
        """Whether the process that wrote it still runs, and is no later one with its number."""
        with suppress(psutil.Error):
            return not self.is_done and psutil.Process(self.pid).create_time() == self.pid_since
        return False

    def __str__(self) -> str:
        if self.is_done:
            return f"version {self.old} is kept; to go back to it: python -m deploy rollout --back"
        if self.is_under_way:
            return f"a roll-out of {self.url} is under way (process {self.pid})"
        remedy = "To undo it: python -m deploy rollout --back, or run the same command again"
        return f"a roll-out of {self.url} was interrupted, and nothing watches the new version. {remedy}"


def note_file(access: Access, name: str) -> Path:
    """Where the roll-outs of model `name` on this server are noted."""
    return access.config.path.parent / f"rollout-{name}-{access.config.ports[1]}.json"


def read_note(path: Path) -> Note | None:
    """None where no roll-out is noted; raises `UserError` for what is none."""
    try:
        return read(Note, json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        remedy = "Set the default version yourself, and remove the file"
        raise UserError("the note of a roll-out cannot be read", seen=path, remedy=remedy) from error


def write_note(path: Path, note: Note) -> None:
    """Raises `UserError` where that is not possible."""
    with refusals("the note of the roll-out cannot be written", path, "Make the folder writable"):
        write_json(path, asdict(note))
