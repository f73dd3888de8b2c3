"""What a container does: `run` becomes TorchServe, `probe` says by its exit status whether the model answers.

TorchServe's own launcher stays in front of its Java and passes no signal on: asked to end, a container would
be killed when its patience is over. `run` replaces itself by that Java instead. It needs the serving packages
of one runtime and nothing else of the project than this folder's `access` and `server`, and `handler`.
In the image it is started as `python /srv run`: a PYTHONPATH would reach the worker, too.
"""

import argparse
import importlib.util
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from deploy.access import Access
from deploy.server import checked_archive
from handler.commands import run
from handler.errors import UserError
from handler.torchserve import Config, java_home, read_config


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="container", description=__doc__)
    commands = parser.add_subparsers(required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--config", type=Path, default=os.environ.get("TS_CONFIG_FILE", "config.properties"))
    common.add_argument(
        "--name", default="hate", help="of the model; serves <name>.mar; default: %(default)s"
    )
    start = commands.add_parser("run", parents=[common], help="become TorchServe")
    start.set_defaults(command=_run)
    probe = commands.add_parser("probe", parents=[common], help="exit status 0 where the model answers")
    probe.set_defaults(command=_probe)
    arguments = parser.parse_args(argv)
    return arguments.command(read_config(arguments.config), arguments.name)


def java_command(config: Config, name: str) -> list[str]:
    """What TorchServe's launcher would start."""
    found = importlib.util.find_spec("ts")
    if found is None or found.origin is None:
        raise UserError("TorchServe is not installed", remedy="pip install torchserve==0.12.0")
    home = Path(found.origin).parents[1]
    return [
        str(Path(java_home(), "bin", "java")),
        f"-Dmodel_server_home={home}",
        f"-Djava.io.tmpdir={tempfile.gettempdir()}",
        *config["vmargs"].split(),
        *("-cp", str(home / "ts" / "frontend" / "*"), "org.pytorch.serve.ModelServer"),
        *("--python", sys.executable, "-f", str(config.path), "-s", str(config.model_store), "-ncs"),
        *("-m", f"{name}={name}.mar"),
    ]


def _run(config: Config, name: str) -> int:
    checked_archive(config, name)
    command = java_command(config, name)
    os.execve(command[0], command, os.environ | {"TS_CONFIG_FILE": str(config.path)})


def _probe(config: Config, name: str) -> int:
    return 0 if Access(config, Path.cwd()).is_ready(name) else 1


if __name__ == "__main__":
    run(main)
