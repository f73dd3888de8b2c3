"""The model in five packages: put together, checked, and kept; small made-up pieces stand for it."""

import hashlib
import io
import zipfile
from pathlib import Path

import pytest

from handler.errors import UserError
from training import mpnet
from training.mpnet import INSTALL, PACKAGES, mpnet_folder

CONTENT = {name: f"the content of {name}".encode() * 50 for name in mpnet.SHA256}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in CONTENT.items()}
    monkeypatch.setattr(mpnet, "SHA256", sums)
    return tmp_path / "cache" / "hate-speech-archive" / "all-mpnet-base-v2"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Packages that carry a .zip in five pieces, as pip installs them."""
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        for name, content in CONTENT.items():
            archive.writestr(f"all-mpnet-base-v2/{name}", content)
        archive.writestr("all-mpnet-base-v2/pickled.bin", b"not wanted")
    pieces = whole.getvalue()
    size = -(-len(pieces) // len(PACKAGES))
    place = tmp_path / "site-packages"
    for number, package in enumerate(PACKAGES):
        carried = place / package / "input" / f"all-mpnet-base-v2.zip.{number + 1:03}"
        carried.parent.mkdir(parents=True)
        carried.write_bytes(pieces[number * size : (number + 1) * size])
        info = place / f"{package.replace('-', '_')}-0.0.1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 0.0.1\n")
        (info / "RECORD").write_text(f"{carried.relative_to(place)},,\n")
    monkeypatch.syspath_prepend(place)
    return place


def test_the_pieces_make_the_files_that_are_read_and_no_others(cache: Path, installed: Path) -> None:
    assert mpnet_folder() == cache
    found = {str(path.relative_to(cache)): path.read_bytes() for path in cache.rglob("*") if path.is_file()}
    assert found == CONTENT


def test_what_was_unpacked_is_kept_and_checked(cache: Path, installed: Path) -> None:
    folder = mpnet_folder()
    for piece in installed.rglob("*.zip.*"):
        piece.write_bytes(b"")
    assert mpnet_folder() == folder
    (folder / "config.json").write_bytes(b"changed")
    with pytest.raises(UserError, match=r"config\.json does not match the checksum .*Delete"):
        mpnet_folder()


def test_packages_with_other_content_are_refused_and_nothing_is_kept(
    cache: Path, installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(mpnet.SHA256, "config.json", "0" * 64)
    with pytest.raises(UserError, match=r"config\.json does not match .*Install the packages again"):
        mpnet_folder()
    assert not cache.exists()


def test_without_the_packages_the_command_that_installs_them_is_named(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mpnet, "PACKAGES", ("no-such-package",))
    with pytest.raises(UserError, match="mpnet is not installed") as error:
        mpnet_folder()
    assert INSTALL in str(error.value)
