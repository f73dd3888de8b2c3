"""`python -m deploy start|stop|status`: the public TorchServe, as `config.properties` describes it.

`python -m deploy app`: the same answers without TorchServe.
"""

import argparse
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from deploy import server
from handler.commands import emit, not_negative_float, not_negative_int, positive_int, run, say
from handler.errors import UserError
from handler.torchserve import is_taken, java_home, read_config


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m deploy", description=__doc__)
    commands = parser.add_subparsers(required=True)
    common = argparse.ArgumentParser(add_help=False)
    default = Path(os.environ.get("TS_CONFIG_FILE", server.CONFIG))
    common.add_argument("--config", type=Path, default=default, help="default: %(default)s")
    start = commands.add_parser("start", parents=[common], help="start TorchServe and wait until it answers")
    start.add_argument("--name", default="hate", help="of the model; serves <name>.mar; default: %(default)s")
    start.set_defaults(command=_start)
    stop = commands.add_parser("stop", parents=[common], help="stop it and wait until it has gone")
    stop.set_defaults(command=_stop)
    status = commands.add_parser("status", parents=[common], help="ports, Java, and whether it answers")
    status.set_defaults(command=_status)
    _add_app(commands)
    arguments = parser.parse_args(argv)
    return arguments.command(arguments)


def _start(arguments: argparse.Namespace) -> int:
    public = read_config(arguments.config)
    server.start(public, arguments.name)
    body = """'{"text": "text to classify"}'"""
    say(f"ready. Ask it:\n  curl {public.url}/predictions/{arguments.name} --json {body}")
    return 0


def _stop(arguments: argparse.Namespace) -> int:
    say("stopped" if server.stop(read_config(arguments.config)) else "TorchServe was not running")
    return 0


def _status(arguments: argparse.Namespace) -> int:
    public = read_config(arguments.config)
    ports = {port: "in use" if is_taken(port) else "free" for port in public.ports}
    emit({"healthy": server.is_healthy(public.ports[0]), "ports": ports, "java_home": java_home()})
    return 0


def _add_app(commands) -> None:
    app = commands.add_parser("app", help="serve without TorchServe, by FastAPI and uvicorn")
    served = app.add_mutually_exclusive_group(required=True)
    served.add_argument("--artifact", type=Path, help="a folder, such as build/artifacts/openvino-int8")
    served.add_argument("--archive", type=Path, help="such as model_store/hate.mar; its settings hold")
    app.add_argument("--host", default="127.0.0.1", help="there are no tokens; default: %(default)s")
    app.add_argument(
        "--port", type=not_negative_int, default=8080, help="0: a free one; default: %(default)s"
    )
    app.add_argument("--threads", type=positive_int, help="default: the archive's, or all CPUs")
    app.add_argument("--batch-size", type=positive_int, help="default: the archive's, or 32")
    app.add_argument("--batch-delay-ms", type=not_negative_float, help="default: the archive's, or 1")
    app.add_argument("--queue-size", type=positive_int, default=256, help="default: %(default)s")
    app.add_argument(
        "--drain-s",
        type=not_negative_float,
        default=0.0,
        help="answer so long after SIGTERM, with 503 at /ready; default: %(default)g",
    )
    app.set_defaults(command=_app)


def _app(arguments: argparse.Namespace) -> int:
    try:
        from deploy.app import Model, serve
    except ImportError as error:
        remedy = "pip install '.[app]'"
        raise UserError("a package of the app is not installed", seen=error.name, remedy=remedy) from error
    with tempfile.TemporaryDirectory(prefix="app-") as scratch:
        if arguments.archive is None:
            model = Model.of_artifact(arguments.artifact)
        else:
            model = Model.of_archive(arguments.archive, Path(scratch))
        delay_s = None if arguments.batch_delay_ms is None else arguments.batch_delay_ms / 1000
        batching = model.batching(arguments.batch_size, delay_s, arguments.queue_size)
        serve(model, batching, arguments.host, arguments.port, arguments.threads, arguments.drain_s)
    return 0


if __name__ == "__main__":
    run(main)
