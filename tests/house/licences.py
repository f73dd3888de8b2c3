"""The table of docs/licences.md: every locked package, with the licence that it declares."""

import re
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

from tabulate import tabulate

LOCK = Path(__file__).parents[2] / "requirements.lock"
PINNED = re.compile(r"^([A-Za-z0-9._-]+)==([^ ;\\]+)", re.MULTILINE)
CLASSIFIER = re.compile(r"^(?:License :: )?(?:OSI Approved :: )?(.+)$")
LONGEST = 60  # characters: some packages put a whole licence where its name belongs


def table() -> str:
    rows = [[name, version, licence(name)] for name, version in PINNED.findall(LOCK.read_text())]
    return tabulate(rows, ["package", "version", "licence"], "github", disable_numparse=True)


def licence(package: str) -> str:
    """As the installed package declares it: an SPDX expression, else a name, else classifiers."""
    try:
        declared = metadata(package)
    except PackageNotFoundError:
        return "not installed on this platform"
    if expression := declared.get("License-Expression"):
        return str(expression)
    stated = (declared.get("License") or "").strip()
    if stated not in ("", "UNKNOWN") and "\n" not in stated and len(stated) <= LONGEST:
        return CLASSIFIER.sub(r"\1", stated)
    classifiers = [line for line in declared.get_all("Classifier", []) if line.startswith("License :: ")]
    return "; ".join(CLASSIFIER.sub(r"\1", line) for line in classifiers) or "not declared; see the package"
