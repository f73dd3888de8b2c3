"""The project's own nginx.conf on a free port, before servers on ports of the test's choice."""

import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from common.torchserve import is_taken
from deploy.torchserve.server import free_ports
from tests.asking import wait_until
from tests.conftest import ROOT

needs_nginx = pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")
USUAL = ("8080", "8180", "8280")


@contextmanager
def nginx(ports: list[int], folder: Path, changes: Mapping[str, str] | None = None) -> Iterator[str]:
    """Its address; `changes` replace parts of the file: a test need not wait as long as a client may."""
    (port,) = free_ports(1)
    config = (ROOT / "deploy" / "nginx.conf").read_text().replace("127.0.0.1:8000", f"127.0.0.1:{port}")
    for usual, own in zip(USUAL, ports, strict=True):
        config = config.replace(f"127.0.0.1:{usual}", f"127.0.0.1:{own}")
    for old, new in (changes or {}).items():
        assert old in config
        config = config.replace(old, new)
    (folder / "nginx.conf").write_text(config)
    process = subprocess.Popen(["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")])
    try:
        address = f"http://127.0.0.1:{port}"
        wait_until(lambda: process.poll() is not None or is_taken(port))
        yield address
    finally:
        process.terminate()
        process.wait()
