"""Options that several verbs share, each said once."""

import argparse
import os
from pathlib import Path

from common.commands import not_negative_float, positive_int

ARTIFACTS = Path("build/artifacts")
CHECKPOINT = Path("build/checkpoint")
STORE = Path("model_store")
ARCHIVE = STORE / "hate.mar"
RESULTS = Path("benchmarks/results")
CONFIG = Path("config.properties")


def add_artifacts(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--artifacts", type=Path, default=ARTIFACTS, help="default: %(default)s")


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT, help="default: %(default)s")


def add_archive(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--archive", type=Path, default=ARCHIVE, help="default: %(default)s")


def add_store(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--store", type=Path, default=STORE, help="the folder of the archives; default: %(default)s"
    )


def add_name(parser: argparse.ArgumentParser, of: str = "the model and its archives") -> None:
    parser.add_argument("--name", default="hate", help=f"of {of}; default: %(default)s")


def add_results(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--results", type=Path, default=RESULTS, help="the folder of the reports; default: %(default)s"
    )


def add_threads(parser: argparse.ArgumentParser, default: str = "all CPUs of this process") -> None:
    parser.add_argument("--threads", type=positive_int, help=f"default: {default}")


def add_texts(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--texts",
        type=Path,
        help="a file of texts, one a line, of the lengths to expect; default: as long as validation's",
    )


def default_config() -> Path:
    """TorchServe's configuration: what TS_CONFIG_FILE names, or config.properties in the working folder."""
    return Path(os.environ.get("TS_CONFIG_FILE") or CONFIG)


def add_config(parser: argparse.ArgumentParser, what: str = "TorchServe's configuration") -> None:
    default = default_config()
    parser.add_argument("--config", type=Path, default=default, help=f"{what}; default: %(default)s")


def add_data_dir(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data-dir",
        type=Path,
        default=os.environ.get("DATA_DIR") or "data",
        help="holds a folder for each named data set; default: $DATA_DIR, or data",
    )


def add_prices(parser: argparse.ArgumentParser, *kinds: str) -> None:
    for kind in kinds:
        parser.add_argument(
            f"--price-{kind}-hour",
            type=not_negative_float,
            help="in your currency; without prices no cost is given",
        )
