"""`python -m training train`: from a data name and a base model to `build/checkpoint/`."""

import argparse
import dataclasses
import re
import time
from importlib.util import find_spec
from pathlib import Path

from common.commands import emit, positive_float, say
from common.options import CHECKPOINT
from common.records import plain
from training import processes
from training.options import add_options, load, prepare, recipe
from training.summary import summary, table

TRACKERS = ("tensorboard", "mlflow", "wandb")  # the classes of `tracking`, which takes seconds to import


def _trackers(text: str) -> tuple[str, ...]:
    """Comma-separated names, or `none`."""
    names = tuple(name.strip() for name in text.split(",") if name.strip() not in ("", "none"))
    for name in names:
        if name not in TRACKERS:
            raise argparse.ArgumentTypeError(f"{name} is not one of {', '.join(TRACKERS)}")
    return names


def _name(text: str) -> str:
    if not re.fullmatch(r"[\w .+-]{1,100}", text):
        raise argparse.ArgumentTypeError("use 1 to 100 letters, digits, spaces and . + - _")
    return text


def train_arguments(parser: argparse.ArgumentParser) -> None:
    add_options(parser)
    parser.add_argument("--output", type=Path, default=CHECKPOINT, help="default: %(default)s")
    parser.add_argument("--resume", action="store_true", help="continue an interrupted run")
    parser.add_argument(
        "--test",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="report figures on the test split; use --no-test while you compare recipes",
    )
    parser.add_argument(
        "--save-minutes",
        type=positive_float,
        default=10.0,
        help="minutes between the saves within an epoch that --resume needs (default: 10)",
    )
    parser.add_argument(
        "--profile",
        action="store_true",
        help="profile one training step: print a table and write a trace to --track-folder",
    )
    parser.add_argument(
        "--track",
        type=_trackers,
        default="tensorboard" if find_spec("tensorboard") else "none",
        help="tensorboard, mlflow, wandb, several of them, or none (default: tensorboard, if installed)",
    )
    parser.add_argument(
        "--track-folder", type=Path, help="where trackers write (default: runs, next to --output)"
    )
    parser.add_argument(
        "--experiment", type=_name, help="experiment name for the trackers (default: the data's name)"
    )
    parser.add_argument("--run-name", help="name of this run for the trackers (default: the current time)")


def train(options: argparse.Namespace) -> int:
    with processes.together():
        return _train(options)


def _train(options: argparse.Namespace) -> int:
    processes.check_batch(recipe(options).batch_size)
    dataset = load(options)
    say(table(dataset))
    chosen = recipe(options)
    if not chosen.epochs:
        say(f"{options.base} is not trained: its head stays random, which is enough for latency work")
    # Imported after the options were checked: torch and transformers take seconds.
    from training import pipeline
    from training.profiling import Profile
    from training.tracking import tracked

    prepare(options)
    folder = options.track_folder or options.output.parent / "runs"
    name = options.run_name or time.strftime("%Y%m%d-%H%M%S")
    settings = {"data": dataset.spec, "base": options.base, **dataclasses.asdict(chosen)}
    settings["data_sha256"] = dataset.sha256
    experiment = options.experiment or re.sub(r"[^\w.+-]+", "-", dataset.spec)[-100:]
    is_profiled = options.profile and processes.is_first()
    profiles = [Profile(folder / f"{name}.trace.json")] if is_profiled else []
    trackers = options.track if processes.is_first() else ()
    with tracked(trackers, name, folder, experiment, settings) as tracking:
        checkpoint = pipeline.train(
            dataset,
            options.base,
            chosen,
            options.output,
            resume=options.resume,
            trust_remote_code=options.trust_remote_code,
            test=options.test,
            callbacks=[tracking, *profiles],
            save_minutes=options.save_minutes,
        )
        if checkpoint is None:  # the first of several processes has it
            return 0
        tracking.finish(plain(checkpoint.meta.metrics), checkpoint.folder)
    say(summary(checkpoint.meta))
    say(f"wrote {options.output} in {checkpoint.meta.seconds:.0f} s")
    emit(plain(checkpoint.meta))
    return 0
