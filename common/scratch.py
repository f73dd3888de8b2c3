"""The temporary folder of a user's servers, where no other user may write.

TorchServe unpacks an archive below its temporary folder and runs the Python code there. In a shared folder,
the user who makes `models` first decides what runs.
"""

import os
import stat
import tempfile
from pathlib import Path

from handler.errors import UserError, refusals

ANOTHER = "Set TMPDIR to another folder"


def own_folder() -> Path:
    """`torchserve-<user id>` in the folder of temporary files: the same in all of a user's shells, since
    TorchServe keeps its pid there."""
    shared = Path(tempfile.gettempdir()).absolute()
    own = f"torchserve-{os.getuid()}"
    return shared if shared.name == own else shared / own


def private_folder() -> Path:
    """`own_folder`, made where it is missing; `UserError` where others can write to it."""
    folder = own_folder()
    with refusals("the servers' temporary folder cannot be made", folder, ANOTHER):
        folder.mkdir(mode=0o700, exist_ok=True)
        _refuse_of_others(folder)
    return folder


def checked_folder() -> Path:
    """`private_folder`; `UserError` also where others could put another in its place."""
    check(own_folder())
    return private_folder()


def check(folder: Path) -> None:
    """`UserError` where others can write to `folder`, or put another in its place; it may be missing."""
    mode = folder.parent.stat().st_mode
    if mode & (stat.S_IWGRP | stat.S_IWOTH) and not mode & stat.S_ISVTX:
        remedy = f"chmod +t {folder.parent}, or set TMPDIR to another folder"
        raise UserError("other users can replace the servers' temporary folder", seen=folder, remedy=remedy)
    if folder.is_symlink() or folder.exists():
        _refuse_of_others(folder)


def _refuse_of_others(folder: Path) -> None:
    seen = folder.lstat()
    if not stat.S_ISDIR(seen.st_mode) or seen.st_uid != os.getuid():
        raise UserError("the servers' temporary folder is another user's", seen=folder, remedy=ANOTHER)
    if seen.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        remedy = f"Remove it: {folder}"
        raise UserError("other users can write to the servers' temporary folder", seen=folder, remedy=remedy)


if __name__ == "__main__":  # as `activate` asks
    from common.commands import run

    def _main(argv: object = None) -> int:
        print(checked_folder())
        return 0

    run(_main)
