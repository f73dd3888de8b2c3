"""Disks and object stores by one address: `/a/path`, `s3://bucket/…`, `gs://bucket/…`, whatever fsspec opens.

What goes wrong there is the user's to know: a sentence with the address, never a traceback. Not shipped.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import fsspec

from handler.errors import UserError

try:
    from botocore.exceptions import BotoCoreError, ClientError
except ImportError:  # storage other than S3
    FAILURES: tuple[type[Exception], ...] = (OSError,)
else:
    FAILURES = (OSError, BotoCoreError, ClientError)
UNKNOWN: tuple[type[Exception], ...] = (
    ValueError,
    ImportError,
)  # a protocol that nobody knows, or has installed


def opened(address: str) -> tuple[Any, str]:
    """The file system behind an address, and the path in it."""
    try:
        filesystem, path = fsspec.core.url_to_fs(address)
    except UNKNOWN + FAILURES as error:
        raise _told(address, error) from error
    return filesystem, path


@contextmanager
def told(address: str) -> Iterator[None]:
    """Failures of the storage at `address` as a `UserError`."""
    try:
        yield
    except FAILURES as error:
        raise _told(address, error) from error


def _told(address: str, error: Exception) -> UserError:
    return UserError(
        f"the storage at {address} cannot be used",
        seen=str(error).split("\n")[0][:300] or type(error).__name__,
        remedy="Check the address, the room left, and the storage's credentials",
    )
