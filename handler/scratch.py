"""The temporary folder of a user's servers, where nobody else may write. Not in the archive.

TorchServe unpacks an archive below its temporary folder and runs the Python that lies there: in a shared one,
whoever makes `models` first chooses what runs.
"""

import os
import stat
import tempfile
from pathlib import Path

from handler.errors import UserError

ANOTHER = "Name another folder in TMPDIR"


def private_folder() -> Path:
    """`torchserve-<user id>` in the folder of temporary files, made where it is missing; the same in all of
    a user's shells, since TorchServe keeps its pid there. `UserError` where others can write to it."""
    shared = Path(tempfile.gettempdir()).absolute()
    own = f"torchserve-{os.getuid()}"
    folder = shared if shared.name == own else shared / own
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        seen = folder.lstat()
    except OSError as error:
        raise UserError("there is no temporary folder for servers", seen=error, remedy=ANOTHER) from error
    if not stat.S_ISDIR(seen.st_mode) or seen.st_uid != os.getuid():
        raise UserError("the temporary folder of servers is somebody else's", seen=folder, remedy=ANOTHER)
    if seen.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise UserError(
            "others may write to the temporary folder of servers", seen=folder, remedy=f"Remove it: {folder}"
        )
    return folder


def can_be_replaced(folder: Path) -> bool:
    """Whether others may rename `folder`: they may write where it lies, and take away what is not theirs."""
    mode = folder.parent.stat().st_mode
    return bool(mode & (stat.S_IWGRP | stat.S_IWOTH)) and not mode & stat.S_ISVTX


def checked_folder() -> Path:
    """`private_folder`; `UserError` also where others could put another in its place."""
    folder = private_folder()
    if can_be_replaced(folder):
        remedy = f"chmod +t {folder.parent}, or name another folder in TMPDIR"
        raise UserError("others may replace the temporary folder of servers", seen=folder, remedy=remedy)
    return folder


if __name__ == "__main__":  # as `activate` asks
    from handler.commands import run

    def _main(argv: object = None) -> int:
        print(checked_folder())
        return 0

    run(_main)
