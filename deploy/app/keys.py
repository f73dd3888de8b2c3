"""Who may ask the app: keys, known by their SHA-256 alone, and checked before anything of a body is read."""

import argparse
import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from common.commands import say
from handler.errors import Rejection, UserError, refusals

VARIABLE = "API_KEYS"
HASHED = "sha256:"
MOST_KEYS = 256  # all are compared with each request
MOST_BYTES = 64 * 1024
LENGTHS = (16, 256)  # of a key, in characters
OPEN = ("/ping", "/ready", "/v2/health/live", "/v2/health/ready")  # load balancers have no key
REMEDY = "Give lines of 16 to 256 letters, digits and signs, or of sha256: and 64 hexadecimal digits"
DENIED = Rejection(
    401,
    "Authorization",
    "the request has no valid key",
    "Send the header Authorization: Bearer KEY, or X-API-Key: KEY",
)
CHALLENGE = {"WWW-Authenticate": 'Bearer realm="classifier"'}
_KEY = re.compile(f"[!-~]{{{LENGTHS[0]},{LENGTHS[1]}}}")
_HASH = re.compile(f"{HASHED}([0-9a-f]{{64}})")


@dataclass(frozen=True)
class Keys:
    """The digests of those that are accepted."""

    digests: tuple[str, ...] = field(repr=False)

    @classmethod
    def read(cls, path: Path | None) -> "Keys | None":
        """Those of the file, a line each, or of the variable `API_KEYS`; None where there is neither."""
        from_environment = os.environ.pop(VARIABLE, None)  # not for the processes that are started later
        if path is None:
            return cls.of(re.split(r"[\s,]+", from_environment), VARIABLE) if from_environment else None
        with refusals("the keys cannot be read", path, "Choose another --keys"), path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
            is_open = bool(os.fstat(file.fileno()).st_mode & 0o077)
        if len(content) > MOST_BYTES:
            raise UserError(f"the file of keys is larger than {MOST_BYTES:,} bytes", seen=path, remedy=REMEDY)
        lines = content.decode("utf-8", "replace").splitlines()
        found = cls.of((line for line in lines if not line.startswith("#")), path)
        if is_open and any(not line.startswith((HASHED, "#")) for line in lines if line.strip()):
            say(f"others may read the keys in {path}: chmod 600, or keep their hashes there")
        return found

    @classmethod
    def of(cls, lines: Iterable[str], place: object) -> "Keys":
        """Of keys and hashes; no message repeats one."""
        digests = []
        for number, line in enumerate(filter(None, map(str.strip, lines)), 1):
            if hashed := _HASH.fullmatch(line):
                digests.append(hashed[1])
            elif _KEY.fullmatch(line) and not line.startswith(HASHED):
                digests.append(digest(line))
            else:
                raise UserError(f"key {number} is neither a key nor a hash", seen=place, remedy=REMEDY)
        if not 0 < len(digests) <= MOST_KEYS:
            seen = f"{place}: {len(digests):,} keys"
            raise UserError(f"there are none, or more than {MOST_KEYS} keys", seen=seen, remedy=REMEDY)
        return cls(tuple(digests))

    def accept(self, headers: Headers) -> bool:
        """Whether the request brings one. The time it takes does not depend on which, or how nearly."""
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        given = [bearer.strip()] if scheme.lower() == "bearer" else []
        given += headers.getlist("x-api-key")[:1]
        is_known = False
        for asked in map(digest, given):
            for known in self.digests:
                is_known |= hmac.compare_digest(asked, known)
        return is_known


def digest(key: str) -> str:
    """64 hexadecimal digits."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


class Guard:
    """An ASGI app that lets requests with a key through to `app`; `deny` answers all others."""

    def __init__(self, app: ASGIApp, keys: Keys, deny: Callable[[str], ASGIApp]) -> None:
        self._app = app
        self._keys = keys
        self._deny = deny

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_allowed = (
            scope["type"] != "http" or scope["path"] in OPEN or self._keys.accept(Headers(scope=scope))
        )
        await (self._app if is_allowed else self._deny(scope["path"]))(scope, receive, send)


def key(_: argparse.Namespace) -> int:
    """Draw one: the first line is for the client, the second for the file."""
    drawn = secrets.token_urlsafe(32)
    print(f"{drawn}\n{HASHED}{digest(drawn)}")
    return 0
