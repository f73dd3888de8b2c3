"""Writing so that a kill at any moment leaves the old content or the new, never half of one. Not shipped."""

import json
import os
import shutil
from pathlib import Path


def write_json(path: Path, value: object) -> None:
    """Write `value` to `path` atomically: readers see the old file or the new one, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(
            json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8"
        )
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def replace_folder(place: Path, partial: Path) -> None:
    """Rename the folder `partial` to `place`; what stood there steps aside first and is then removed."""
    old = place.with_name(f".{place.name}.{os.getpid()}.old")
    if place.exists():
        place.rename(old)
    try:
        partial.rename(place)
    except OSError:
        if old.exists():
            old.rename(place)
        raise
    shutil.rmtree(old, ignore_errors=True)
