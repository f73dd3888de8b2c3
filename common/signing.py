"""Signatures of archives, artifacts and published versions: Ed25519, in minisign's format.

`hate.mar.minisig` next to `hate.mar` names the key that signed it; `minisign -V` reads it as well. For an
artifact, the description is signed, since it holds the sums of all files.
"""

import argparse
import base64
import binascii
import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.atomic import write_text
from handler.artifact import DESCRIPTION
from handler.errors import UnsupportedError, UserError, refusals

SUFFIX = ".minisig"
VARIABLE = "TRUSTED_KEY"  # of the environment: the file of the public keys that are trusted
MOST_SIGNATURE_BYTES = 16 << 10
MOST_KEYS_BYTES = 1 << 20
MAKE_KEY = "python -m export keygen"

# minisign's format. A secret key without a password: the algorithm, no derivation, the checksum's algorithm,
# 48 bytes that a derivation would need, the key's id, seed and public key, and a checksum.
ALGORITHM, NO_DERIVATION, CHECKSUM = b"Ed", b"\0\0", b"B2"
SIGNS_DIGEST = b"ED"  # BLAKE2b-512 of the file
UNUSED_BYTES, ID_BYTES, KEY_BYTES, SIGNATURE_BYTES, CHECKSUM_BYTES = 48, 8, 32, 64, 32
UNTRUSTED, TRUSTED = "untrusted comment: ", "trusted comment: "


@dataclass(frozen=True)
class SecretKey:
    """`seed` are the 32 bytes that Ed25519 starts from."""

    id: bytes
    seed: bytes

    @property
    def _private(self) -> Any:
        return _ed25519().Ed25519PrivateKey.from_private_bytes(self.seed)

    @property
    def public(self) -> bytes:
        return bytes(self._private.public_key().public_bytes_raw())

    def sign(self, content: bytes) -> bytes:
        return bytes(self._private.sign(content))

    @classmethod
    def read(cls, file: Path) -> "SecretKey":
        """Of a file that `make_keys`, or `minisign -G -W`, wrote; `UserError` for any other."""
        what, remedy = "this is not a secret key", f"Make one: {MAKE_KEY}"
        try:
            with refusals("the secret key cannot be read", file, f"Check the path, or make one: {MAKE_KEY}"):
                content = _decoded(_lines(file.read_text(encoding="ascii")), "secret key")
        except ValueError as error:
            raise UserError(what, seen=f"{file}: {_reason(error)}", remedy=remedy) from error
        if content[:2] == ALGORITHM and content[2:4] != NO_DERIVATION:
            what, remedy = "the secret key has a password", "Make one without a password: minisign -G -W"
        rest = content[2 + 2 + 2 + UNUSED_BYTES :]
        if content[:4] != ALGORITHM + NO_DERIVATION or len(rest) != ID_BYTES + 2 * KEY_BYTES + CHECKSUM_BYTES:
            raise UserError(what, seen=file, remedy=remedy)
        return cls(rest[:ID_BYTES], rest[ID_BYTES : ID_BYTES + KEY_BYTES])

    def written(self) -> str:
        own = self.id + self.seed + self.public
        check = hashlib.blake2b(ALGORITHM + own, digest_size=CHECKSUM_BYTES).digest()
        content = ALGORITHM + NO_DERIVATION + CHECKSUM + bytes(UNUSED_BYTES) + own + check
        return f"{UNTRUSTED}secret key {_shown(self.id)}\n{base64.b64encode(content).decode()}\n"


def make_keys(secret: Path) -> Path:
    """Write a new secret key, readable by its owner alone, and next to it the public one, whose path is
    returned. `UserError` where either is there already."""
    key = SecretKey(os.urandom(ID_BYTES), os.urandom(KEY_BYTES))
    public = secret.with_suffix(".pub")
    encoded = base64.b64encode(ALGORITHM + key.id + key.public).decode()
    shared = f"{UNTRUSTED}public key {_shown(key.id)}\n{encoded}\n"
    for file, content, mode in ((secret, key.written(), 0o600), (public, shared, 0o644)):
        with refusals("the key cannot be written", file, "Use another file"):
            file.parent.mkdir(parents=True, exist_ok=True)
            with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as opened:
                opened.write(content)
    return public


def sign(path: Path, secret: Path) -> Path:
    """Sign an archive or an artifact's folder; returns the path of the signature next to it.

    The same file and key give the same bytes.
    """
    file = signed_file(path)
    key = SecretKey.read(secret)
    signature = signature_of(file)
    with refusals("the signature cannot be written", signature, "Check the folder"):
        write_text(signature, sign_file(file, file.name, key))
    return signature


def sign_file(file: Path, name: str, key: SecretKey) -> str:
    """The signature of a file that will be called `name`."""
    return signature_text(_digest(file), name, key)


def sign_bytes(content: bytes, name: str, key: SecretKey) -> str:
    """The signature of what will stand in a file called `name`."""
    return signature_text(hashlib.blake2b(content).digest(), name, key)


def signature_text(digest: bytes, name: str, key: SecretKey) -> str:
    """The content of a signature file; `name` is for people and proves nothing."""
    signature, comment = key.sign(digest), f"file:{_printable(name)}"
    first = base64.b64encode(SIGNS_DIGEST + key.id + signature).decode()
    second = base64.b64encode(key.sign(signature + comment.encode())).decode()
    return f"{UNTRUSTED}signature by key {_shown(key.id)}\n{first}\n{TRUSTED}{comment}\n{second}\n"


def verify(path: Path, trusted: Path | None) -> None:
    """`UserError` unless a key in the file `trusted` signed the archive, or the artifact's folder, at `path`.

    It is checked before anything is parsed. Without `trusted` there is no check.
    """
    if trusted is None:
        return
    keys = trusted_keys(trusted)  # before all else: without one nothing could be signed well
    file = signed_file(path)
    signature = signature_of(file)
    if not signature.is_file():
        raise UserError(
            "it is not signed, and a trusted key is configured",
            seen=f"there is no {signature}",
            remedy=f"Have it signed by {trusted}: python -m export sign {path} --key KEY",
        )
    with signature.open("rb") as opened:
        content = opened.read(MOST_SIGNATURE_BYTES + 1)
    _verify(_digest(file), content, keys, trusted, str(file))


def verify_bytes(content: bytes, signature: bytes, trusted: Path, what: str) -> None:
    """As `verify`, of a file that has been read."""
    _verify(hashlib.blake2b(content).digest(), signature, trusted_keys(trusted), trusted, what)


def signed_file(path: Path) -> Path:
    """The file that is signed for an archive or an artifact's folder; `UserError` if it is missing."""
    file = path / DESCRIPTION if path.is_dir() else path
    if not file.is_file():
        remedy = "Give an archive, or the folder of an artifact"
        raise UserError("there is no archive or artifact", seen=file, remedy=remedy)
    return file


def signature_of(file: Path) -> Path:
    """The path of a file's signature."""
    return file.with_name(file.name + SUFFIX)


def trusted_keys(file: Path) -> dict[bytes, bytes]:
    """The public keys in `file` by their ids; `UserError` where it cannot be read or holds anything else.

    One a line, comments aside, so that a new key can stand next to the old one.
    """
    try:
        with file.open("rb") as opened:
            content = opened.read(MOST_KEYS_BYTES + 1)
        if len(content) > MOST_KEYS_BYTES:
            raise ValueError("it is too long")
        keys = [_decoded([line], "public key") for line in _lines(content.decode("utf-8-sig"))]
        if not keys:
            raise ValueError("there is no key in it")
        if any(key[:2] != ALGORITHM or len(key) != 2 + ID_BYTES + KEY_BYTES for key in keys):
            raise ValueError("a line is not a public key in minisign's format")
    except (OSError, ValueError) as error:
        raise UserError(
            "the trusted keys cannot be read",
            seen=f"{file}: {_reason(error)}",
            remedy=f"Set --trusted-key or {VARIABLE} to the .pub file from python -m export keygen",
        ) from error
    return {key[2 : 2 + ID_BYTES]: key[2 + ID_BYTES :] for key in keys}


def add_trusted_key(parser: argparse.ArgumentParser) -> None:
    """The option `--trusted-key` of a command that opens what others made."""
    parser.add_argument(
        "--trusted-key",
        type=Path,
        metavar="FILE",
        default=os.environ.get(VARIABLE) or None,
        help=f"file of public keys; refuse anything that none of them signed (default: ${VARIABLE})",
    )


def _verify(digest: bytes, signature: bytes, keys: Mapping[bytes, bytes], trusted: Path, what: str) -> None:
    ed25519 = _ed25519()
    from cryptography.exceptions import InvalidSignature

    try:
        if len(signature) > MOST_SIGNATURE_BYTES:
            raise ValueError("it is too long")
        lines = signature.decode("utf-8").split("\n")
        content, second = (_decoded(lines[at : at + 1], "signature") for at in (1, 3))
        if not lines[2].startswith(TRUSTED) or len(content) != 2 + ID_BYTES + SIGNATURE_BYTES:
            raise ValueError("it is not in minisign's format")
        if content[:2] != SIGNS_DIGEST:
            raise ValueError("it signs the file instead of its digest, as old versions of minisign did")
    except (ValueError, IndexError) as error:
        remedy = "Sign it again: python -m export sign"
        raise UserError("the signature cannot be read", seen=f"{what}: {error}", remedy=remedy) from error
    key_id, first = content[2 : 2 + ID_BYTES], content[2 + ID_BYTES :]
    if key_id not in keys:
        raise UserError(
            "it is signed with a key that is not trusted",
            seen=f"{what}: key {_shown(key_id)}; {trusted} holds {', '.join(map(_shown, keys))}",
            remedy="Do not use it unless you know whose key that is",
        )
    comment = lines[2].removeprefix(TRUSTED).removesuffix("\r").encode()
    try:
        public = ed25519.Ed25519PublicKey.from_public_bytes(keys[key_id])
        public.verify(first, digest)
        public.verify(second, first + comment)
    except InvalidSignature as error:
        raise UserError(
            "the signature does not match the file: one of the two was changed",
            seen=what,
            remedy="Do not use it; fetch or build it again",
        ) from error


def _reason(error: Exception) -> str:
    """In words, without the path that stands before them."""
    if isinstance(error, UnicodeDecodeError):
        return "it is not text"
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith(UNTRUSTED)]


def _decoded(lines: list[str], what: str) -> bytes:
    try:
        return base64.b64decode(lines[0].strip(), validate=True)
    except (IndexError, binascii.Error) as error:
        raise ValueError(f"a line is not a {what}") from error


def _digest(file: Path) -> bytes:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "blake2b").digest()


def _shown(key_id: bytes) -> str:
    """As minisign shows it: a number, its lowest byte first."""
    return f"{int.from_bytes(key_id, 'little'):016X}"


def _printable(name: str) -> str:
    return re.sub(r"[^\x20-\x7e]", "?", name)[:200]


def _ed25519() -> Any:
    try:
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise UnsupportedError(
            "signatures need a package that is not installed",
            seen=error.name,
            remedy="Install it: pip install cryptography",
        ) from error
    return ed25519
