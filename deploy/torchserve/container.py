"""A container's commands: `run` is TorchServe, and ends when it stops working; `probe` and `alive` check it.

TorchServe's own launcher does not pass signals on, and neither it nor Java ends when a worker hangs or was
given up. `run` starts Java itself, passes signals on and checks every ten seconds: a container that has
stopped working ends, so the orchestrator can restart it.
"""

import argparse
import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from common.commands import ENDS, run, say
from common.options import add_config, add_name
from common.scratch import private_folder
from common.signing import add_trusted_key
from common.torchserve import Config, java_home, read_config
from deploy.torchserve.access import Access
from deploy.torchserve.server import checked_archive, clear, is_alive
from handler.errors import UserError

# In the image it is started as `python /srv run`: a PYTHONPATH would reach the worker, too.

EVERY_S = 10
MOST_FAILURES = 4  # a look that fails takes 7 s itself: about a minute
OF_A_START = 30  # as long as an archive's startupTimeout, before there has been any worker
PASSED_ON = (*ENDS, signal.SIGINT)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="container", description=__doc__)
    commands = parser.add_subparsers(required=True)
    common = argparse.ArgumentParser(add_help=False)
    add_config(common)
    add_name(common, "the model; serves <name>.mar")
    for name, command, about in (
        ("run", _run, "run TorchServe until it stops working"),
        ("probe", _probe, "exit status 0 if the model answers"),
        ("alive", _alive, "exit status 1 if the worker hangs or was given up"),
    ):
        own = commands.add_parser(name, parents=[common], help=about)
        own.set_defaults(command=command)
        if command is _run:
            add_trusted_key(own)
    arguments = parser.parse_args(argv)
    config = read_config(arguments.config)
    given = {"trusted_key": arguments.trusted_key} if "trusted_key" in arguments else {}
    return int(arguments.command(config, arguments.name, **given))


def java_command(config: Config, name: str, folder: Path) -> list[str]:
    """What TorchServe's launcher would start, with `folder` for temporary files."""
    found = importlib.util.find_spec("ts")
    if found is None or found.origin is None:
        raise UserError("TorchServe is not installed", remedy="pip install torchserve==0.12.0")
    home = Path(found.origin).parents[1]
    return [
        str(Path(java_home(), "bin", "java")),
        f"-Dmodel_server_home={home}",
        f"-Djava.io.tmpdir={folder}",
        *config["vmargs"].split(),
        *("-cp", str(home / "ts" / "frontend" / "*"), "org.pytorch.serve.ModelServer"),
        *("--python", sys.executable, "-f", str(config.path), "-s", str(config.model_store), "-ncs"),
        *("-m", f"{name}={name}.mar"),
    ]


def _run(config: Config, name: str, trusted_key: Path | None) -> int:
    """Java's exit status, or 1 where no worker has been alive for a minute."""
    checked_archive(config, name, trusted_key)
    folder = private_folder()
    clear(folder)  # a container's folder outlives a Java that was killed
    own = {"TS_CONFIG_FILE": str(config.path), "TMPDIR": str(folder), "TEMP": str(folder)}
    java = subprocess.Popen(java_command(config, name, folder), env=os.environ | own)
    for number in PASSED_ON:
        signal.signal(number, lambda number, _: java.send_signal(number))
    access = Access(config, Path.cwd())
    failures = MOST_FAILURES - OF_A_START
    while failures < MOST_FAILURES:
        try:
            status = java.wait(EVERY_S)
            return status if status >= 0 else 128 - status
        except subprocess.TimeoutExpired:
            failures = 0 if is_alive(access, name) else failures + 1
    say(f"no worker of {name} answers or is busy: ending TorchServe")
    java.kill()
    java.wait()
    return 1


def _probe(config: Config, name: str) -> int:
    access = Access(config, Path.cwd())
    return 0 if access.is_ready(name) and is_alive(access, name) else 1


def _alive(config: Config, name: str) -> int:
    return 0 if is_alive(Access(config, Path.cwd()), name) else 1


if __name__ == "__main__":
    run(main)
