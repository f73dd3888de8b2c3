"""Signatures: what the trusted key did not sign is refused by everything that would run or keep it."""

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from common.signing import SUFFIX, make_keys, sign, verify
from handler.errors import UserError


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    """A secret key and its public one."""
    secret = tmp_path / "signing.key"
    return secret, make_keys(secret)


@pytest.fixture
def signed(tmp_path: Path, keys: tuple[Path, Path]) -> Path:
    file = tmp_path / "hate.mar"
    file.write_bytes(b"an archive" * 1000)
    sign(file, keys[0])
    return file


def test_what_was_signed_is_accepted_and_the_secret_key_is_its_owners_alone(signed: Path, keys) -> None:
    secret, public = keys
    verify(signed, public)
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert public == secret.with_suffix(".pub")
    again = (signed.parent / f"hate.mar{SUFFIX}").read_bytes()
    sign(signed, secret)
    assert (signed.parent / f"hate.mar{SUFFIX}").read_bytes() == again, "the same file, the same signature"


def test_a_key_is_never_written_over(keys) -> None:
    before = keys[0].read_text()
    with pytest.raises(UserError, match="cannot be written"):
        make_keys(keys[0])
    assert keys[0].read_text() == before


def _changed_file(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[5] ^= 1
    file.write_bytes(content)


def _changed_comment(file: Path) -> None:
    signature = file.with_name(file.name + SUFFIX)
    signature.write_text(signature.read_text().replace("file:hate.mar", "file:evil.mar"))


def _other_key(file: Path) -> None:
    other = file.parent / "other.key"
    make_keys(other)
    sign(file, other)


def _same_id_other_key(file: Path) -> None:
    """Whoever forges copies the key's id."""
    import base64

    signature = file.with_name(file.name + SUFFIX)
    trusted_id = base64.b64decode(signature.read_text().split("\n")[1])[2:10]
    _other_key(file)
    lines = signature.read_text().split("\n")
    content = base64.b64decode(lines[1])
    lines[1] = base64.b64encode(content[:2] + trusted_id + content[10:]).decode()
    signature.write_text("\n".join(lines))


def _none(file: Path) -> None:
    file.with_name(file.name + SUFFIX).unlink()


def _empty(file: Path) -> None:
    file.with_name(file.name + SUFFIX).write_bytes(b"")


def _long(file: Path) -> None:
    file.with_name(file.name + SUFFIX).write_bytes(b"A" * 100_000_000)


def _binary(file: Path) -> None:
    file.with_name(file.name + SUFFIX).write_bytes(bytes(range(256)) * 4)


def _cut(file: Path) -> None:
    signature = file.with_name(file.name + SUFFIX)
    signature.write_text("\n".join(signature.read_text().split("\n")[:2]))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (_changed_file, "one of the two was changed"),
        (_changed_comment, "one of the two was changed"),
        (_other_key, "not trusted"),
        (_same_id_other_key, "one of the two was changed"),
        (_none, "it is not signed"),
        (_empty, "cannot be read"),
        (_long, "cannot be read"),
        (_binary, "cannot be read"),
        (_cut, "cannot be read"),
    ],
)
def test_what_was_not_signed_so_is_refused(signed: Path, keys, change, sentence: str) -> None:
    change(signed)
    with pytest.raises(UserError, match=sentence):
        verify(signed, keys[1])
    verify(signed, None)  # without a trusted key nothing is asked


BROKEN_KEYS = {
    "missing": (None, "No such file or directory"),
    "folder": ("folder", "Is a directory"),
    "unreadable": ("unreadable", "Permission denied"),
    "empty": (b"", "there is no key in it"),
    "comment-alone": (b"untrusted comment: alone\n", "there is no key in it"),
    "nonsense": (b"no sense\n", "a line is not a public key"),
    "cut": (b"RWQ=\n", "a line is not a public key in minisign's format"),
    "binary": (bytes(range(256)), "it is not text"),
    "endless": (b"a" * (2 << 20), "it is too long"),
}


@pytest.mark.parametrize(("content", "reason"), BROKEN_KEYS.values(), ids=BROKEN_KEYS)
@pytest.mark.parametrize("is_signed", [True, False], ids=["signed", "not-signed"])
def test_a_trusted_key_that_cannot_be_read_is_what_is_said(
    signed: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | str | None, reason: str, is_signed: bool
) -> None:
    """Not that there is no signature: with such a file nothing could be signed well."""
    if not is_signed:
        _none(signed)
    place = signed.parent / "trusted.pub"
    if content == "folder":
        place.mkdir()
    elif content == "unreadable":
        _make_unreadable(place, monkeypatch)
    elif isinstance(content, bytes):
        place.write_bytes(content)
    with pytest.raises(UserError) as error:
        verify(signed, place)
    assert str(error.value) == (
        f"the trusted keys cannot be read: {place}: {reason}. "
        "Set --trusted-key or TRUSTED_KEY to the .pub file from python -m export keygen"
    )


def _make_unreadable(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also to root, whom modes do not keep out."""
    path_open = Path.open

    def refuse(path: Path, *arguments: object, **options: object):
        if path == place:
            raise PermissionError(13, "Permission denied", str(path))
        return path_open(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", refuse)


def test_a_secret_key_in_the_public_ones_place_is_refused(signed: Path, keys: tuple[Path, Path]) -> None:
    with pytest.raises(UserError, match="the trusted keys cannot be read"):
        verify(signed, keys[0])


def test_a_key_that_an_editor_of_windows_has_saved_is_read(signed: Path, keys: tuple[Path, Path]) -> None:
    saved = signed.parent / "saved.pub"
    saved.write_bytes(b"\xef\xbb\xbf" + keys[1].read_bytes().replace(b"\n", b"\r\n"))
    verify(signed, saved)


def test_a_secret_key_that_is_not_there_is_said(signed: Path) -> None:
    with pytest.raises(UserError, match=r"the secret key cannot be read: .*none\.key: No such file"):
        sign(signed, signed.parent / "none.key")


def test_a_file_may_hold_the_new_key_and_the_old_one(signed: Path, keys) -> None:
    other = signed.parent / "other.key"
    both = signed.parent / "both.pub"
    both.write_text(make_keys(other).read_text() + keys[1].read_text())
    verify(signed, both)
    sign(signed, other)
    verify(signed, both)


@pytest.mark.parametrize("content", ["", "nonsense", "untrusted comment: x\nRWQAAA==\n"])
def test_a_broken_secret_key_is_a_sentence(signed: Path, content: str) -> None:
    (signed.parent / "broken.key").write_text(content)
    with pytest.raises(UserError, match="not a secret key"):
        sign(signed, signed.parent / "broken.key")


def test_minisign_and_we_read_each_other(signed: Path, keys) -> None:
    minisign = shutil.which("minisign")
    if minisign is None:
        pytest.skip("minisign is not installed")
    secret, public = keys
    run = {"check": True, "capture_output": True, "timeout": 60}
    subprocess.run([minisign, "-Vm", signed, "-p", public], **run)
    subprocess.run([minisign, "-S", "-W", "-s", secret, "-m", signed], **run)
    verify(signed, public)
    theirs = signed.parent / "theirs.key"
    subprocess.run([minisign, "-G", "-W", "-s", theirs, "-p", theirs.with_suffix(".pub")], **run)
    sign(signed, theirs)
    subprocess.run([minisign, "-Vm", signed, "-p", theirs.with_suffix(".pub")], **run)


def test_py_minisign_and_we_read_each_other(signed: Path, keys) -> None:
    minisign = pytest.importorskip("minisign", reason="py-minisign is not installed")
    secret, public = keys
    signature = signed.with_name(signed.name + SUFFIX)
    theirs = minisign.PublicKey.from_file(public)
    theirs.verify(signed.read_bytes(), minisign.Signature.from_file(signature))
    made = minisign.SecretKey.from_file(secret).sign(signed.read_bytes(), prehash=True)
    signature.write_bytes(bytes(made))
    verify(signed, public)


def test_an_empty_variable_trusts_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    import argparse

    from common.signing import VARIABLE, add_trusted_key

    for value, expected in (("", None), ("/a/key.pub", Path("/a/key.pub"))):
        monkeypatch.setenv(VARIABLE, value)
        parser = argparse.ArgumentParser()
        add_trusted_key(parser)
        assert parser.parse_args([]).trusted_key == expected
    assert os.environ[VARIABLE]
