"""`python -m deploy start|stop|status|…`: the public server, as `config.properties` describes it."""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from common.commands import emit, run, say
from common.signing import add_trusted_key
from common.torchserve import is_taken, java_home, read_config
from deploy.torchserve import server
from deploy.torchserve.access import KEY_FILE, Access
from deploy.torchserve.rollout_note import note_file, read_note
from handler.errors import UserError


class Verb(NamedTuple):
    """A command with needs of its own, which is imported when it is called."""

    module: str
    extra: str  # of pyproject.toml, with the packages that it needs
    words: str


VERBS = {
    "drift": Verb(
        "drift.command", "monitor", "compare what is served with validation; status 1 where it has drifted"
    ),
    "app": Verb("app.application", "app", "serve without TorchServe, by FastAPI and uvicorn"),
    "tune": Verb("tuning.tune", "deploy", "find the settings that suit this machine"),
    "rollout": Verb(
        "torchserve.rollout",
        "deploy",
        "change the version that servers answer with, and back if it is worse",
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] in VERBS:
        return _module(argv[0]).main(argv[1:])
    others = "; ".join(f"{name}: {verb.words}" for name, verb in VERBS.items())
    parser = argparse.ArgumentParser(prog="python -m deploy", description=__doc__, epilog=others)
    commands = parser.add_subparsers(required=True)
    common = argparse.ArgumentParser(add_help=False)
    default = Path(os.environ.get("TS_CONFIG_FILE", server.CONFIG))
    common.add_argument("--config", type=Path, default=default, help="default: %(default)s")
    start = commands.add_parser("start", parents=[common], help="start TorchServe and wait until it answers")
    start.add_argument("--name", default="hate", help="of the model; serves <name>.mar; default: %(default)s")
    add_trusted_key(start)
    start.set_defaults(command=_start)
    stop = commands.add_parser("stop", parents=[common], help="stop it and wait until it has gone")
    stop.set_defaults(command=_stop)
    status = commands.add_parser(
        "status", parents=[common], help="ports, Java, and whether it answers; status 1 where it hangs"
    )
    status.add_argument("--name", default="hate", help="of the model; default: %(default)s")
    status.set_defaults(command=_status)
    arguments = parser.parse_args(argv)
    return arguments.command(arguments)


def _module(name: str) -> ModuleType:
    verb = VERBS[name]
    try:
        return import_module(f"deploy.{verb.module}")
    except ImportError as error:
        what, remedy = f"a package that {name} needs is not installed", f"pip install '.[{verb.extra}]'"
        raise UserError(what, seen=error.name, remedy=remedy) from error


def _start(arguments: argparse.Namespace) -> int:
    public = read_config(arguments.config)
    server.start(public, arguments.name, trusted_key=arguments.trusted_key)
    body = """'{"text": "text to classify"}'"""
    say(f"ready. Ask it:\n  curl {public.url}/predictions/{arguments.name} --json {body}")
    if public.speaks_tls("inference_address") and public["certificate_file"]:
        say(f"  with --cacert {public['certificate_file']}, if no authority signed it")
    if public.wants_tokens:
        say(f'  with -H "Authorization: Bearer KEY": the key is that of "inference" in {KEY_FILE}')
    if public["enable_model_api"].lower() == "true" and not public.wants_tokens:
        say("its model API is open without tokens: any page in a browser on this machine can register code")
    return 0


def _stop(arguments: argparse.Namespace) -> int:
    public = read_config(arguments.config)
    stopped = server.stop(public)
    if taken := [str(port) for port in public.ports if is_taken(port)]:
        answers = Access.of(arguments.config).is_healthy()
        what = "a TorchServe that is no process of yours" if answers else "no TorchServe that you may stop"
        done = "stopped one, but" if stopped else "nothing was stopped:"
        say(f"{done} {', '.join(taken)} in use by {what}")
        return 1
    say("stopped" if stopped else "TorchServe was not running")
    return 0


def _status(arguments: argparse.Namespace) -> int:
    public, access = read_config(arguments.config), Access.of(arguments.config)
    ports = {port: "in use" if is_taken(port) else "free" for port in public.ports}
    runs = bool(server.serving(public))
    found = {
        "healthy": access.is_healthy(),
        "worker": access.worker_status(arguments.name),
        "answers": access.answers(arguments.name),
        "ports": ports,
        "java_home": java_home(),
    }
    if note := read_note(note_file(access, arguments.name)):
        found["rollout"] = str(note)
        say(str(note))
    emit(found)
    if not runs or found["answers"]:
        return 0
    if server.is_alive(access, arguments.name):
        say("its worker is at work, and answers late")
        return 0
    seen = f"no worker of {arguments.name} answers or is at work"
    say(f"TorchServe runs, but {seen}. Restart it: make stop serve")
    return 1


if __name__ == "__main__":
    run(main)
