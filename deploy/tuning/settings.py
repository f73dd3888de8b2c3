"""`tuning.json`: the settings found for an artifact's archive on a kind of machine (`tune` writes it)."""

import json
from pathlib import Path
from typing import Any

from handler.errors import UserError
from handler.machine import available_cpus, cpu_model

SCHEMA = 1


def machine() -> dict[str, Any]:
    """The kind of machine that settings hold for."""
    return {"cpu": cpu_model(), "cpus": available_cpus()}


def read(path: Path) -> dict[str, Any] | None:
    """What was tuned; None where there is no such file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError("the tuning cannot be read", seen=path, remedy="Remove it and tune again") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise UserError("the tuning is from another version", seen=path, remedy="Remove it and tune again")
    return content


def settings_for(path: Path, variant: str, artifact_sha256: str) -> dict[str, Any] | None:
    """What `model-config.yaml` should say of this artifact here; None where it was not tuned here."""
    content = read(path)
    if content is None or content["machine"] != machine():
        return None
    found = content["archives"].get(variant)
    return found["settings"] if found and found["artifact_sha256"] == artifact_sha256 else None
