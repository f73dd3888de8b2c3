"""Environments of their own for servers that others would pick, so that their needs do not meet.

Each stands on this project's packages and adds only what it lacks. It is made once and kept; what cannot be
installed is kept as the sentence that says why.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any

from common.atomic import remove, write_json
from common.commands import say

CONSTRAINT = "torch==2.13.0"  # the build that is here: no environment brings another
PATIENCE_S = 1800
INSTALLED = "installed.json"
CONFLICT = "The conflict is caused by:"  # pip's line above the requirements that cannot all be met
# Nothing is told to anybody: of BentoML, Ray, infinity, Hugging Face, and of those that heed a common wish.
SILENT = {
    "BENTOML_DO_NOT_TRACK": "True",
    "RAY_USAGE_STATS_ENABLED": "0",
    "INFINITY_ANONYMOUS_USAGE_STATS": "0",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "DO_NOT_TRACK": "1",
}
# Run in the environment: where its packages are, and the versions of some.
PURELIB = "import sysconfig; print(sysconfig.get_path('purelib'))"
LIST = """
import importlib.metadata, json, sys
found = {}
for name in sys.argv[1:]:
    try: found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError: pass
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Environment:
    """A folder with its interpreter, the `versions` in it, and why it cannot be used, if it cannot."""

    folder: Path
    versions: Mapping[str, str] = field(default_factory=dict)
    lacks: str | None = None

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"


def found(folder: Path, packages: Sequence[str]) -> Environment:
    """What stands in `folder`, made for these packages. Nothing is installed."""
    try:
        kept = json.loads((folder / INSTALLED).read_text(encoding="utf-8"))
        if kept["key"] == _key(packages):
            return Environment(folder, kept["versions"], kept["lacks"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return Environment(folder, lacks="not installed: make install-servers")


def install(folder: Path, packages: Sequence[str], patch: Path | None = None) -> Environment:
    """As `found`; made where it is not there, or was not to be had before. Each interpreter there
    runs `patch` at its start."""
    environment = found(folder, packages)
    if environment.lacks is None:
        return environment
    remove(folder)
    say(f"installing {' '.join(packages)} into {folder}")
    lacks = _made(folder, packages, patch)
    versions = {} if lacks else _versions(folder, packages)
    write_json(folder / INSTALLED, {"key": _key(packages), "versions": versions, "lacks": lacks})
    return Environment(folder, versions, lacks)


def _made(folder: Path, packages: Sequence[str], patch: Path | None) -> str | None:
    """An environment with `packages`, or why there is none."""
    done = _run([sys.executable, "-m", "venv", str(folder)])
    if done.returncode:
        folder.mkdir(parents=True, exist_ok=True)
        return f"no environment could be made: {_reason(done.stdout)}"
    python = Environment(folder).python
    where = Path(_run([str(python), "-c", PURELIB]).stdout.strip())
    if patch:
        shutil.copy(patch, where / "sitecustomize.py")
    # Packages of its own come first, this project's after them.
    (where / "project.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    (folder / "constraints.txt").write_text(f"{CONSTRAINT}\n", encoding="utf-8")
    # Not --quiet: pip tells which packages conflict where it tells what it does.
    pip = [str(python), "-m", "pip", "install", "--progress-bar", "off", "--disable-pip-version-check"]
    pip += ["--no-warn-conflicts", "--only-binary", ":all:", "--constraint", str(folder / "constraints.txt")]
    done = _run([*pip, *packages])
    return f"pip could not install it: {_reason(done.stdout)}" if done.returncode else None


def _run(command: Sequence[str]) -> "subprocess.CompletedProcess[str]":
    """A command that ends, whatever it meets; its output and errors together."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    options: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    try:
        return subprocess.run(command, check=False, env=environment, timeout=PATIENCE_S, **options)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, f"it took more than {PATIENCE_S} s")


def _reason(output: str) -> str:
    """What says most: the packages that conflict, or else pip's last error."""
    lines = [line.strip() for line in output.splitlines()]
    if CONFLICT in lines:
        named = takewhile(bool, lines[lines.index(CONFLICT) + 1 :])
        return "; ".join(named)[:300]
    said = [line for line in lines if line]
    errors = [line for line in said if line.startswith("ERROR:")]
    chosen = (errors or said or ["no reason was given"])[-1]
    return re.sub(r"^ERROR:\s*", "", chosen)[:300]


def _versions(folder: Path, packages: Sequence[str]) -> dict[str, str]:
    names = [re.split(r"[\[=<>~! ]", package)[0] for package in packages]
    names += ["torch", "transformers", "numpy"]
    done = _run([str(Environment(folder).python), "-c", LIST, *names])
    versions: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return versions


def _key(packages: Sequence[str]) -> list[str]:
    """What an environment was made for; another Python or other packages of the project make it stale."""
    return [*packages, CONSTRAINT, sys.version.split()[0], sysconfig.get_path("purelib")]
