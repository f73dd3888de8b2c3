"""Ray listens on every address: who has no token gets nothing from it."""

import importlib.util
import subprocess
import sys

import pytest

from tests.conftest import ROOT

if importlib.util.find_spec("ray") is None:
    pytest.skip("Ray is not installed", allow_module_level=True)

STARTS = """
import os, subprocess, sys, urllib.error, urllib.request
import psutil
from scoring.on_ray import _start, on_ray

on_ray(None, 1, 1)
import ray
_start(ray, None, 1, 1)
own = {os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))}
sockets = [each for each in psutil.net_connections("tcp") if each.pid in own]
listening = [each.laddr for each in sockets if each.status == "LISTEN"]
agents = [
    each.laddr for child in psutil.Process().children(recursive=True) for each in child.net_connections("tcp")
    if "RuntimeEnv" in "".join(child.cmdline()) and each.status == "LISTEN"
]
print("ports", len(listening))
environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_AUTH")}
gcs = ray.get_runtime_context().gcs_address
for mode in ({"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}):
    done = subprocess.run([sys.executable, "-c", sys.argv[1], gcs], env=environment | mode, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    print("connected" if "CONNECTED" in done.stdout else "refused", "InvalidAuthToken" in done.stdout)
for agent in agents:
    try:
        address = f"http://{agent.ip}:{agent.port}/get_or_create_runtime_env"
        print("agent", urllib.request.urlopen(urllib.request.Request(address, b"x"), timeout=20).status)
    except urllib.error.HTTPError as error:
        print("agent", error.code)
ray.shutdown()
"""
JOINS = """
import sys, ray
ray.init(address=sys.argv[1], log_to_driver=False)
print("CONNECTED", ray.get(ray.remote(lambda: 42).remote()))
"""


@pytest.mark.slow
def test_who_has_no_token_runs_nothing_on_our_ray() -> None:
    done = subprocess.run(
        [sys.executable, "-c", STARTS, JOINS], cwd=ROOT, capture_output=True, text=True, timeout=500
    )
    said = done.stdout.split("\n")
    assert int(said[0].removeprefix("ports ")) >= 3, done.stderr
    assert said[1:3] == ["refused True", "refused True"]
    assert [line for line in said if line.startswith("agent")] in (["agent 401"], ["agent 403"])
