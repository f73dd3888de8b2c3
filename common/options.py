"""Options that several verbs share."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from common.commands import not_negative_float, positive_int, share
from handler.self_check import CHOICES, FLIPS, ON_MISMATCH, VARIABLES, Tolerance

BUILD = Path("build")
ARTIFACTS = BUILD / "artifacts"
CHECKPOINT = BUILD / "checkpoint"
STORE = Path("model_store")
ARCHIVE = STORE / "hate.mar"
RESULTS = Path("benchmarks/results")
CONFIG = Path("config.properties")
LEDGER = "gate-ledger.json"


def _path(flag: str, default: Path, of: str = "") -> Callable[[argparse.ArgumentParser], None]:
    """What adds an option that names a file or a folder."""

    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument(flag, type=Path, default=default, help=f"{of}default: %(default)s")

    return add


add_artifacts = _path("--artifacts", ARTIFACTS)
add_checkpoint = _path("--checkpoint", CHECKPOINT)
add_archive = _path("--archive", ARCHIVE)
add_store = _path("--store", STORE, "the folder of the archives; ")
add_baselines = _path("--baselines-folder", BUILD / "baselines", "where the baselines are kept; ")
add_results = _path("--results", RESULTS, "the folder of the reports; ")


def add_ledger(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--ledger", type=Path, help=f"record of the gate's earlier use; default: {LEDGER} next to --artifacts"
    )


def ledger_of(arguments: argparse.Namespace) -> Path:
    """The ledger that is named, or that of the build which the artifacts belong to."""
    own: Path = arguments.artifacts.parent / LEDGER
    return own if arguments.ledger is None else arguments.ledger


def add_name(parser: argparse.ArgumentParser, of: str = "the model and its archives") -> None:
    parser.add_argument("--name", default="hate", help=f"name of {of}; default: %(default)s")


def add_threads(parser: argparse.ArgumentParser, default: str = "all CPUs of this process") -> None:
    parser.add_argument("--threads", type=positive_int, help=f"default: {default}")


def add_self_check(parser: argparse.ArgumentParser, otherwise: str = "default:") -> None:
    """What is done where a model gives other scores than at its export."""
    usual = Tolerance()
    parser.add_argument(
        "--self-check-flips",
        type=share,
        metavar="SHARE",
        help="of labels that may change because this machine computes in another way than the one that built "
        f"the model; {otherwise} {usual.flips} (${VARIABLES[FLIPS]})",
    )
    parser.add_argument(
        "--on-mismatch",
        choices=CHOICES,
        help=f"what to do where more may change; {otherwise} {usual.on_mismatch} (${VARIABLES[ON_MISMATCH]})",
    )


def tolerance_of(arguments: argparse.Namespace) -> Tolerance:
    return Tolerance.of({}, arguments.self_check_flips, arguments.on_mismatch)


def add_texts(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--texts",
        type=Path,
        help="a file with one text per line, as long as those you expect; default: synthetic texts, as long "
        "as the validation texts",
    )


def default_config() -> Path:
    """TorchServe's configuration: what TS_CONFIG_FILE names, or config.properties in the working folder."""
    return Path(os.environ.get("TS_CONFIG_FILE") or CONFIG)


def add_config(parser: argparse.ArgumentParser, what: str = "TorchServe's configuration") -> None:
    _path("--config", default_config(), f"{what}; ")(parser)


def add_data_dir(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data-dir",
        type=Path,
        default=os.environ.get("DATA_DIR") or "data",
        help="the folder with a subfolder for each named data set; default: $DATA_DIR, or data",
    )


def add_prices(parser: argparse.ArgumentParser, *kinds: str) -> None:
    for kind in kinds:
        parser.add_argument(
            f"--price-{kind}-hour",
            type=not_negative_float,
            help="in your currency; without prices, no costs are shown",
        )


def add_unlabelled(parser: argparse.ArgumentParser) -> None:
    """Texts without labels: to learn from, and to fit rules to."""
    parser.add_argument(
        "--unlabelled",
        metavar="FILE|SET",
        help="texts like those you will serve, one per line, or a data set by its name "
        "(tweeteval-sentiment): students also learn from fp32 on these",
    )
    parser.add_argument(
        "--traffic",
        metavar="FILE|SET",
        help="texts like those you will serve, for the rules of cascades and re-checks: no model "
        "learns from them, and the more there are, the more texts a first stage may answer",
    )
