"""Disks and object stores by one kind of address: `/a/path`, `s3://bucket/…`, `gs://bucket/…`, and whatever
fsspec opens.

Failures become a sentence with the address, never a traceback.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from common.proxies import is_here
from handler.errors import UserError, first_line

FAILURES: tuple[type[Exception], ...] = (OSError,)
with suppress(ImportError):
    from botocore.exceptions import BotoCoreError, ClientError

    FAILURES += (BotoCoreError, ClientError)
with suppress(ImportError):
    from gcsfs.retry import HttpError
    from google.auth.exceptions import GoogleAuthError

    FAILURES += (HttpError, GoogleAuthError)
with suppress(ImportError):
    from aiohttp import ClientError as WebError

    FAILURES += (WebError,)
UNKNOWN: tuple[type[Exception], ...] = (
    ValueError,
    ImportError,
)  # an unknown protocol, or one whose package is missing


# Many web servers give no part of a file: it is copied here whole when it is opened, until the process ends.
WEB = ("http://", "https://")


def opened(place: str) -> tuple[Any, str]:
    """The file system behind an address, and the path in it."""
    if "://" not in place:  # a name with :: or the like is a name
        return LocalFileSystem(), os.path.abspath(Path(place).expanduser())  # noqa: PTH100 - keeps links
    try:
        filesystem, path = fsspec.core.url_to_fs(place, **_options(place))
        if place.startswith(WEB):
            filesystem = fsspec.filesystem("simplecache", fs=filesystem, cache_storage="TMP")
    except UNKNOWN + FAILURES as error:
        raise _told(place, error) from error
    return filesystem, path


def _options(place: str) -> dict[str, Any]:
    """What the web's file system must be told: by itself it knows no proxy."""
    if not place.startswith(WEB):
        return {}
    return {"client_kwargs": {"trust_env": not is_here(place)}}


def address(filesystem: Any, path: str) -> str:
    """What `opened` takes for a path of a file system."""
    if isinstance(filesystem, LocalFileSystem) or path.startswith(WEB):
        return path
    return str(filesystem.unstrip_protocol(path))


@contextmanager
def told(place: str) -> Iterator[None]:
    """Failures of the storage at `place` as a `UserError`."""
    try:
        yield
    except FAILURES as error:
        raise _told(place, error) from error


def _told(place: str, error: Exception) -> UserError:
    return UserError(
        f"the storage at {place} cannot be used",
        seen=first_line(error),
        remedy="Check the address, the free space and the credentials",
    )
