"""`python -m deploy drift`: has the traffic moved away from the texts on which the classifier was judged?"""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from common.atomic import recover
from common.commands import emit, positive_float, positive_int, say, share
from common.signing import add_trusted_key, verify
from deploy.drift import sources
from deploy.drift.exporter import DriftCollector, listen
from deploy.drift.judge import Distribution, Rule, assess, record, references, replaced, table
from handler.artifact import DESCRIPTION, Artifact, archived_artifact, described, read_json
from handler.errors import UserError

METRICS = "http://127.0.0.1:8082/metrics"
UNITS_S = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}
HOUR_S = 3600.0


def drift_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--artifact",
        type=Path,
        default=Path("model_store/hate.mar"),
        help="what is served: a folder or an archive; default: %(default)s",
    )
    add_trusted_key(parser)
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--metrics", metavar="URL", default=METRICS, help="of TorchServe; default: %(default)s"
    )
    source.add_argument("--prometheus", metavar="URL", help="what it has scraped, of all servers together")
    source.add_argument("--file", help="what python -m handler predict wrote")
    parser.add_argument("--reference", metavar="FILE", help="compare with these predictions, not validation")
    parser.add_argument("--name", default="hate", help="of the model, in the metrics; default: %(default)s")
    parser.add_argument(
        "--window",
        type=_seconds,
        help="such as 90s, 15m, 1h; default: since the server's start, 1h of --prometheus and --listen",
    )
    parser.add_argument(
        "--listen", metavar="HOST:PORT", type=_address, help="go on, as metrics for Prometheus"
    )
    parser.add_argument(
        "--psi", type=positive_float, default=0.1, help="least that matters; default: %(default)s"
    )
    parser.add_argument(
        "--ks", type=positive_float, default=0.1, help="least that matters; default: %(default)s"
    )
    parser.add_argument(
        "--alpha", type=share, default=0.01, help="false alarms of a look; default: %(default)s"
    )
    parser.add_argument("--least-texts", type=positive_int, default=200, help="default: %(default)s")


def drift(arguments: argparse.Namespace) -> int:
    """Exit status 1 where a distribution has drifted."""
    recover(arguments.artifact)
    verify(arguments.artifact, arguments.trusted_key)
    artifact = _artifact(arguments.artifact)
    rule = Rule(arguments.psi, arguments.ks, arguments.alpha, arguments.least_texts)
    reference = references(artifact)
    if arguments.reference:
        reference = replaced(reference, sources.written(arguments.reference, artifact))
    if arguments.listen:
        return _listen(arguments, reference, rule)
    if arguments.file and arguments.window:
        raise UserError("a file has no window", remedy="Leave out --window")
    if arguments.file:
        found = sources.written(arguments.file, artifact)
    elif arguments.prometheus:
        found = sources.recorded(arguments.prometheus, arguments.name, arguments.window or HOUR_S)
    elif arguments.window:
        found = sources.watched(arguments.metrics, arguments.name, arguments.window)
    else:
        found = sources.served(arguments.metrics, arguments.name)
    verdicts = assess(reference, found, rule)
    say(table(verdicts))
    result = record(verdicts, rule)
    emit({"artifact": artifact.name, **result})
    return int(result["verdict"] == "drift")


def _listen(arguments: argparse.Namespace, reference: Sequence[Distribution], rule: Rule) -> int:
    """Until it is interrupted."""
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
        return Artifact(path, described(read_json(path / DESCRIPTION)))
    except (OSError, ValueError) as error:
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
