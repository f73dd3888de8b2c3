"""`python -m deploy drift`: has the traffic moved away from the validation texts?"""

import argparse
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from common.atomic import recover
from common.commands import emit, positive_float, positive_int, say, share
from common.signing import add_trusted_key, verify
from deploy.drift import sources
from deploy.drift.exporter import DriftCollector, listen
from deploy.drift.judge import (
    Counts,
    Distribution,
    Rule,
    Verdict,
    assess,
    references,
    table,
    without_nan,
    worst,
)
from deploy.drift.shares import Share, look, looks_table, shares_of
from deploy.drift.watch import Watch
from handler.artifact import DESCRIPTION, Artifact, archived_artifact, described, read_json
from handler.errors import UserError

METRICS = "http://127.0.0.1:8082/metrics"
UNITS_S = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}
HOUR_S = 3600.0
STATE = Path("build/drift.json")  # of --listen


def drift_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--artifact",
        type=Path,
        default=Path("model_store/hate.mar"),
        help="the served artifact: a folder or an archive; default: %(default)s",
    )
    add_trusted_key(parser)
    _source_arguments(parser)
    _rule_arguments(parser)


def _source_arguments(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--metrics", metavar="URL", default=METRICS, help="use TorchServe's metrics; default: %(default)s"
    )
    source.add_argument("--prometheus", metavar="URL", help="use its samples, of all servers together")
    source.add_argument("--file", help="use the output of python -m handler predict")
    parser.add_argument("--reference", metavar="FILE", help="compare with these predictions, not validation")
    parser.add_argument("--name", default="hate", help="model name in the metrics; default: %(default)s")
    parser.add_argument(
        "--window",
        type=_seconds,
        help="such as 90s, 15m, 1h; default: since the server's start; with --prometheus or --listen: 1h",
    )
    parser.add_argument(
        "--listen", metavar="HOST:PORT", type=_address, help="keep running, with metrics for Prometheus"
    )


def _rule_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--min-shift",
        type=share,
        default=Rule.min_shift,
        help="smallest change of a label's share of texts that matters; default: %(default)s",
    )
    parser.add_argument(
        "--psi", type=positive_float, default=Rule.psi, help="smallest PSI that matters; default: %(default)s"
    )
    parser.add_argument(
        "--ks",
        type=positive_float,
        default=Rule.ks,
        help="smallest change of the share of texts up to a score or length; default: %(default)s",
    )
    parser.add_argument(
        "--fp32", metavar="FILE", help="fp32's predictions for the rows of --file, to test for flips as well"
    )
    parser.add_argument(
        "--max-flip", type=share, default=Rule.max_flip, help="allowed share of flips; default: %(default)s"
    )
    parser.add_argument(
        "--alpha",
        type=share,
        default=Rule.alpha,
        help="chance of a false alarm in a single look; default: %(default)s",
    )
    parser.add_argument(
        "--state",
        type=Path,
        help=f"file that keeps the evidence between looks; --listen uses {STATE}; default: a single look",
    )
    parser.add_argument(
        "--texts-per-alarm",
        type=positive_int,
        default=Rule.texts_per_alarm,
        help="with --state: least average number of texts between false alarms; default: %(default)s",
    )
    parser.add_argument(
        "--least-texts",
        type=positive_int,
        default=Rule.least_texts,
        help="fewest texts for a verdict; default: %(default)s",
    )


def drift(arguments: argparse.Namespace) -> int:
    """Exit status 1 where a distribution has drifted."""
    recover(arguments.artifact)
    verify(arguments.artifact, arguments.trusted_key)
    artifact = _artifact(arguments.artifact)
    rule = Rule(**{name: getattr(arguments, name) for name in Rule.__dataclass_fields__})
    other = sources.written(arguments.reference, artifact) if arguments.reference else None
    reference = references(artifact, other)
    if arguments.file:  # predict does not write which stage answered
        reference = tuple(
            distribution for distribution in reference if not distribution.name.startswith("asked:")
        )
    if not any(distribution.name.startswith("label:") for distribution in reference):
        remedy = "build it again, or give --reference"
        say(f"{arguments.artifact} does not record how often it gave each label: skipping labels; {remedy}")
    if arguments.fp32 and not arguments.file:
        raise UserError("--fp32 needs a file", remedy="Give --file and --fp32")
    shares = shares_of(reference, rule, artifact if arguments.fp32 else None)
    if arguments.listen:
        watch = Watch(shares, rule, artifact.sha256, arguments.state or STATE)
        return _listen(arguments, reference, watch)
    if arguments.state and not arguments.file and (arguments.prometheus or not arguments.window):
        remedy = "Give --file, --window of --metrics, or --listen"
        raise UserError("with --state, a text must not count twice", remedy=remedy)
    found = _counts(arguments, artifact)
    verdicts = assess(reference, found, rule)
    if arguments.state:
        watch = Watch(shares, rule, artifact.sha256, arguments.state)
        watch.add(found)
        say(watch.table())
        result = watch.record()
    else:
        result = _single_look(verdicts, shares, found, rule)
    emit({"artifact": artifact.name, **result})
    return int(result["verdict"] == "drift")


def _counts(arguments: argparse.Namespace, artifact: Artifact) -> Counts:
    """The counts to judge, from their source."""
    if arguments.file and arguments.window:
        raise UserError("--window cannot be used with --file", remedy="Leave out --window")
    if arguments.file:
        found = sources.written(arguments.file, artifact)
        if arguments.fp32:
            found.update(sources.flipped(arguments.file, arguments.fp32, artifact))
        return found
    if arguments.prometheus:
        return sources.recorded(arguments.prometheus, arguments.name, arguments.window or HOUR_S)
    if arguments.window:
        return sources.watched(arguments.metrics, arguments.name, arguments.window)
    return sources.served(arguments.metrics, arguments.name)


def _single_look(
    verdicts: Sequence[Verdict], shares: Sequence[Share], found: Counts, rule: Rule
) -> dict[str, Any]:
    looks = [look(share, found, rule) for share in shares if share.is_of_decisions]
    say(table(verdicts))
    if looks:
        say(looks_table(looks))
    return {
        "verdict": worst([*verdicts, *looks]),
        "rule": asdict(rule),
        "distributions": [without_nan(verdict) for verdict in verdicts],
        "shares": [without_nan(share) for share in looks],
    }


def _listen(arguments: argparse.Namespace, reference: Sequence[Distribution], watch: Watch) -> int:
    """Until it is interrupted."""
    if arguments.file or arguments.prometheus:
        raise UserError("--listen needs a server to watch", remedy="Give --metrics, or leave out --listen")
    host, port = arguments.listen
    window_s = arguments.window or HOUR_S
    collector = DriftCollector(arguments.metrics, arguments.name, reference, watch, window_s)
    thread = listen(collector, host, port)
    say(f"{watch.path} has counted {watch.texts:,} texts so far")
    say(f"drift at http://{host}:{port}/metrics, distances of the last {window_s:,.0f} s; end with Ctrl-C")
    thread.join()
    return 0


def _artifact(path: Path) -> Artifact:
    """The description in a folder or an archive; the machine need not be able to run the model."""
    if not path.is_dir():
        return archived_artifact(path)
    try:
        return Artifact(path, described(read_json(path / DESCRIPTION)))
    except (OSError, ValueError) as error:
        raise UserError("this is not an artifact", seen=path, remedy="Check --artifact") from error


def _seconds(text: str) -> float:
    """A duration such as 90s, 15m, 1h or 7d; seconds where no unit is given; a week at most."""
    match = re.fullmatch(r"(\d+)([smhd]?)", text)
    seconds = int(match[1]) * UNITS_S[match[2]] if match else 0
    if not 1 <= seconds <= 7 * UNITS_S["d"]:
        raise argparse.ArgumentTypeError(f"{text} is not a time such as 90s, 15m or 1h, up to a week")
    return float(seconds)


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"{text} is not an address such as 127.0.0.1:9109")
    return host.strip("[]"), int(port)
