"""Which machine, software and commit a record belongs to; nothing that names a place or a person."""

import importlib.metadata
import platform
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from handler.machine import available_cpus, cpu_model

ROOT = Path(__file__).parents[1]


def machine() -> dict[str, Any]:
    """The machine in brief."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": cpu_model(),
        "cores": available_cpus(),
    }


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Python's, and those of `packages` that are installed."""
    return {"python": platform.python_version()} | installed(packages)


def installed(packages: Iterable[str]) -> dict[str, str]:
    """The versions of those `packages` that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def missing(packages: Iterable[str]) -> list[str]:
    """Those of `packages` that are not installed."""
    return [package for package in packages if not installed([package])]


def is_checkout() -> bool:
    """Whether the project runs from its checkout, and not as an installed package."""
    return (ROOT / "pyproject.toml").is_file()


def commit() -> str | None:
    """The project's commit, 12 digits, with `+` where files differ from it; None outside a git checkout."""
    if not is_checkout():
        return None
    describe = ("describe", "--always", "--exclude=*", "--abbrev=12", "--dirty=+")
    command = ["git", "-C", str(ROOT), *describe]
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
