"""Requests to a running TorchServe from its own machine, with TLS and tokens where it requires them.

TorchServe requires one token for its inference API, including `/ping`, and another for its management API;
its metrics API needs none. It makes both when it starts, and writes them to `key_file.json` in the folder
that it was started in.
"""

import http.client
import json
import ssl
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.proxies import open_direct
from common.torchserve import Config, read_config

# The server's certificate is compared with the file that the configuration names, so that a self-signed one
# will do, whatever name it bears.

KEY_FILE = "key_file.json"
TOKENS = {"inference_address": "inference", "management_address": "management"}
PATIENCE_S = 5


@dataclass(frozen=True)
class Access:
    """A TorchServe's configuration, and the folder that it was started in, where it keeps its tokens."""

    config: Config
    folder: Path

    @classmethod
    def of(cls, path: Path) -> "Access":
        """That of the configuration at `path`: its tokens lie next to it, or in this folder."""
        is_next = (path.parent / KEY_FILE).is_file()
        return cls(read_config(path), path.parent if is_next else Path.cwd())

    def is_ready(self, name: str) -> bool:
        """Whether the model answers. `/ping` alone reports it too early, while the worker still warms up."""
        return self.worker_status(name) == "READY" and self.is_healthy()

    def is_healthy(self) -> bool:
        answer = self._get("inference_address", "/ping")
        return bool(answer) and answer.get("status") == "Healthy"

    def worker_status(self, name: str) -> str | None:
        """`READY` when all of the model's workers answer, else the status of one that does not; None while
        none is known."""
        model = self._get("management_address", f"/models/{name}")
        statuses = [worker["status"] for worker in model[0]["workers"]] if model else []
        return min(statuses, key=lambda status: status == "READY", default=None)

    def answers(self, name: str) -> bool:
        """Whether a worker of `name` answers within `PATIENCE_S`. The request is for its description, which
        does not count as a text. A worker that is busy with a long batch may answer later."""
        return self.is_healthy() and bool(self._get("management_address", f"/models/{name}?customized=true"))

    def headers(self, interface: str) -> dict[str, str]:
        """The headers that requests to `interface`, a key of the configuration, need; none without tokens."""
        if self.config.wants_tokens and interface in TOKENS:
            with suppress(OSError, ValueError, KeyError):
                keys = json.loads((self.folder / KEY_FILE).read_text())
                return {"Authorization": f"Bearer {keys[TOKENS[interface]]['key']}"}
        return {}

    def context(self) -> ssl.SSLContext:
        """Trusts the configuration's own certificate, or the system's authorities where it names none."""
        certificate = self.config["certificate_file"]
        context = ssl.create_default_context(cafile=self.folder / certificate if certificate else None)
        context.check_hostname = False  # it is made out to the public name, and we ask on loopback
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # without the authority that signed it
        return context

    def _get(self, interface: str, path: str) -> Any:
        """The JSON at `path`, or None where nothing answers, or with anything but a 200 and JSON."""
        url = self.config.endpoint(interface) + path
        request = urllib.request.Request(url, headers=self.headers(interface))
        try:
            context = self.context() if url.startswith("https:") else None
            with open_direct(request, PATIENCE_S, context) as response:
                return json.load(response)
        except (OSError, http.client.HTTPException, ValueError):
            return None
