"""`python -m deploy start|stop|status|drift`: the public server, as `config.properties` describes it, and
whether its traffic still looks like the texts on which it was judged."""

import argparse
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

from deploy import server
from handler.artifact import DESCRIPTION, Artifact, archived_artifact, checked
from handler.commands import emit, positive_float, positive_int, run, say, share
from handler.errors import UnsupportedError, UserError
from handler.torchserve import is_taken, java_home, read_config

METRICS = "http://127.0.0.1:8082/metrics"
UNITS_S = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}
HOUR_S = 3600.0


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
    _add_drift(commands)
    arguments = parser.parse_args(argv)
    return arguments.command(arguments)


def _add_drift(commands) -> None:
    drift = commands.add_parser(
        "drift", help="compare what is served with validation; exit status 1 where it has drifted"
    )
    drift.add_argument(
        "--artifact",
        type=Path,
        default=Path("model_store/hate.mar"),
        help="what is served: a folder or an archive; default: %(default)s",
    )
    source = drift.add_mutually_exclusive_group()
    source.add_argument(
        "--metrics", metavar="URL", default=METRICS, help="of TorchServe; default: %(default)s"
    )
    source.add_argument("--prometheus", metavar="URL", help="what it has scraped, of all servers together")
    source.add_argument("--file", help="what python -m handler predict wrote")
    drift.add_argument("--reference", metavar="FILE", help="compare with these predictions, not validation")
    drift.add_argument("--name", default="hate", help="of the model, in the metrics; default: %(default)s")
    drift.add_argument(
        "--window",
        type=_seconds,
        help="such as 90s, 15m, 1h; default: since the server's start, 1h of --prometheus and --listen",
    )
    drift.add_argument(
        "--listen", metavar="HOST:PORT", type=_address, help="go on, as metrics for Prometheus"
    )
    drift.add_argument(
        "--psi", type=positive_float, default=0.1, help="least that matters; default: %(default)s"
    )
    drift.add_argument(
        "--ks", type=positive_float, default=0.1, help="least that matters; default: %(default)s"
    )
    drift.add_argument(
        "--alpha", type=share, default=0.01, help="false alarms of a look; default: %(default)s"
    )
    drift.add_argument("--least-texts", type=positive_int, default=200, help="default: %(default)s")
    drift.set_defaults(command=_drift)


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


def _drift(arguments: argparse.Namespace) -> int:
    """Exit status 1 where a distribution has drifted."""
    try:
        from deploy import counts, drift  # scipy and Prometheus' client, which serving does not need
    except ImportError as error:
        raise UnsupportedError(
            "what drift is computed with is not installed",
            seen=error.name,
            remedy="Install it: .venv/bin/pip install prometheus-client scipy tabulate",
        ) from error
    artifact = _artifact(arguments.artifact)
    rule = drift.Rule(arguments.psi, arguments.ks, arguments.alpha, arguments.least_texts)
    reference = drift.references(artifact)
    if arguments.reference:
        reference = drift.replaced(reference, counts.written(arguments.reference, artifact))
    if arguments.listen:
        return _listen(arguments, reference, rule)
    if arguments.file and arguments.window:
        raise UserError("a file has no window", remedy="Leave out --window")
    if arguments.file:
        found = counts.written(arguments.file, artifact)
    elif arguments.prometheus:
        found = counts.recorded(arguments.prometheus, arguments.name, arguments.window or HOUR_S)
    elif arguments.window:
        found = counts.watched(arguments.metrics, arguments.name, arguments.window)
    else:
        found = counts.served(arguments.metrics, arguments.name)
    verdicts = drift.assess(reference, found, rule)
    say(drift.table(verdicts))
    result = drift.record(verdicts, rule)
    emit({"artifact": artifact.name, **result})
    return int(result["verdict"] == "drift")


def _listen(arguments: argparse.Namespace, reference: Sequence, rule) -> int:
    """Until it is interrupted."""
    from deploy.exporter import DriftCollector, listen

    if arguments.file or arguments.prometheus:
        raise UserError("--listen watches a server", remedy="Give --metrics, or leave out --listen")
    host, port = arguments.listen
    window_s = arguments.window or HOUR_S
    collector = DriftCollector(arguments.metrics, arguments.name, reference, rule, window_s)
    thread = listen(collector, host, port)
    say(f"drift of the last {window_s:,.0f} s at http://{host}:{port}/metrics; end with Ctrl-C")
    thread.join()
    return 0


def _artifact(path: Path) -> Artifact:
    """The description in a folder or an archive: whoever watches need not be able to run the model."""
    if not path.is_dir():
        return archived_artifact(path)
    try:
        return Artifact(path, checked(json.loads((path / DESCRIPTION).read_text(encoding="utf-8"))))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError("this is no artifact", seen=path, remedy="Name what is served: --artifact") from error


def _seconds(text: str) -> float:
    """A duration such as 90s, 15m, 1h or 7d; seconds where no unit is given; a week at most."""
    match = re.fullmatch(r"(\d+)([smhd]?)", text)
    seconds = int(match[1]) * UNITS_S[match[2]] if match else 0
    if not 1 <= seconds <= 7 * UNITS_S["d"]:
        raise argparse.ArgumentTypeError(f"{text} is not a time such as 90s, 15m or 1h, of a week at most")
    return float(seconds)


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"{text} is not an address such as 127.0.0.1:9109")
    return host.strip("[]"), int(port)


if __name__ == "__main__":
    run(main)
