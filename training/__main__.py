"""`python -m training`: from a data name and a base model to `build/checkpoint/`; and `training runs|search`.

Covers: options (flags over YAML over defaults), the tables for people on stderr, and `checkpoint.json`
for machines on stdout. Leaves out: the work itself (`pipeline`).
"""

import argparse
import dataclasses
import os
import re
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from tabulate import tabulate

from common.commands import (
    emit,
    not_negative_float,
    not_negative_int,
    positive_float,
    positive_int,
    run,
    say,
    share,
)
from handler.errors import UserError
from training import data, processes
from training.data import sources
from training.recipe import Recipe, default_recipe
from training.recipe import options as recipe_options


def _dropout(text: str) -> float:
    """A share, or -1 for the base model's own."""
    return -1.0 if float(text) == -1 else share(text)


def _trackers(text: str) -> tuple[str, ...]:
    """Names parted by commas, or `none`."""
    names = tuple(name.strip() for name in text.split(",") if name.strip() not in ("", "none"))
    for name in names:
        if name not in TRACKERS:
            raise argparse.ArgumentTypeError(f"{name} is none of {', '.join(TRACKERS)}")
    return names


def _name(text: str) -> str:
    if not re.fullmatch(r"[\w .+-]{1,100}", text):
        raise argparse.ArgumentTypeError("takes letters, digits, spaces and . + - _")
    return text


TRACKERS = ("tensorboard", "mlflow", "wandb")  # the classes of `tracking`, which takes seconds to import
COMMANDS = ("runs", "search")
KINDS = {
    "seed": not_negative_int,
    "dropout": _dropout,
    "label_smoothing": share,
    "teacher_weight": share,
    "teacher_temperature": positive_float,
    "warmup_share": share,
    "learning_rate": positive_float,
    "head_learning_rate": positive_float,
    "lora_rank": not_negative_int,
}
DEFAULT_KINDS: dict[Any, Any] = {int: positive_int, float: not_negative_float, str: str}


def parser() -> argparse.ArgumentParser:
    known = ", ".join(source.form for source in sources.SOURCES.values())
    parser = argparse.ArgumentParser(prog="python -m training", description="Train a text classifier.")
    parser.add_argument("--data", default="demo", help=f"{known} (default: demo)")
    parser.add_argument("--base", default="minilm", help="minilm, a hub name, a folder, random:… (minilm)")
    parser.add_argument(
        "--data-dir",
        type=Path,
        default=os.environ.get("DATA_DIR") or "data",
        help="holds a folder for each named data set (default: DATA_DIR, or data)",
    )
    parser.add_argument("--text-column", default="text", help="of a table (default: text)")
    parser.add_argument(
        "--label-column",
        default="label",
        help="of a table; several parted by commas are independent labels (label)",
    )
    parser.add_argument(
        "--labels", default="", help="label names, in order, parted by commas; others are dropped"
    )
    parser.add_argument(
        "--positive-label",
        default="",
        help="the one of the labels that is looked for (default: a guess, said)",
    )
    parser.add_argument("--encoding", default="utf-8", help="of csv: and jsonl: (utf-8)")
    for option in recipe_options():
        _add(parser, option)
    parser.add_argument("--split-seed", type=not_negative_int, default=0, help="of the splits (default: 0)")
    parser.add_argument("--threads", type=positive_int, help="of torch (default: its own choice)")
    parser.add_argument(
        "--trust-remote-code",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="run the code that a base model brings along, where transformers has none for it",
    )
    parser.add_argument("--config", type=Path, help="YAML with these options; flags override it")
    return parser


def _parser() -> argparse.ArgumentParser:
    """What one training takes beyond what every use of a recipe does."""
    one = parser()
    one.add_argument("--output", type=Path, default="build/checkpoint", help="default: build/checkpoint")
    one.add_argument("--resume", action="store_true", help="continue an interrupted run")
    one.add_argument(
        "--test",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="figures on test; --no-test while choosing between recipes, so that test decides nothing",
    )
    one.add_argument(
        "--save-minutes",
        type=positive_float,
        default=10.0,
        help="within an epoch, how often what --resume needs is saved (default: 10)",
    )
    one.add_argument(
        "--profile", action="store_true", help="of one step: a table, and a trace beside --track"
    )
    one.add_argument(
        "--track",
        type=_trackers,
        default="tensorboard" if find_spec("tensorboard") else "none",
        help="tensorboard, mlflow, wandb, several parted by commas, or none (default: tensorboard, if there)",
    )
    one.add_argument("--track-folder", type=Path, help="of what they write (default: runs, beside --output)")
    one.add_argument("--experiment", type=_name, help="that a run belongs to (default: the data's name)")
    one.add_argument("--run-name", help="default: the time")
    return one


def _add(parser: argparse.ArgumentParser, option: dataclasses.Field) -> None:
    """A flag for a field of the recipe; without it, the field keeps its default."""
    words, choices = option.metadata["words"], option.metadata["choices"]
    shown = "3, and 0 for random: bases" if option.name == "epochs" else option.default
    settings: dict[str, Any] = {"help": f"{words} (default: {shown or 'none'})", "default": None}
    if isinstance(option.default, bool):
        settings["action"] = argparse.BooleanOptionalAction
    elif choices:
        settings["choices"] = choices
    else:
        settings["type"] = KINDS.get(option.name, DEFAULT_KINDS[option.type])
    parser.add_argument(f"--{option.name.replace('_', '-')}", **settings)


def main(argv: Sequence[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] in COMMANDS:
        return import_module(f"training.{argv[0]}").main(argv[1:])
    options = parse(argv)
    with processes.together():
        return _train(options)


def _train(options: argparse.Namespace) -> int:
    processes.check_batch(recipe(options).batch_size)
    dataset = load(options)
    say(table(dataset))
    chosen = recipe(options)
    if not chosen.epochs:
        say(f"{options.base} is not trained: its head stays random, which serves latency work alone")
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
        tracking.finish(checkpoint.meta["metrics"], checkpoint.folder)
    say(summary(checkpoint.meta))
    say(f"wrote {options.output} in {checkpoint.meta['seconds']:.0f} s")
    emit(checkpoint.meta)
    return 0


def load(options: argparse.Namespace) -> data.Dataset:
    """The data that the options name."""
    if options.data.startswith("texts:"):
        raise UserError(
            "There is nothing to learn from texts without labels",
            seen=options.data,
            remedy="Give csv: or jsonl:",
        )
    return data.load(options.data, options.data_dir, options.split_seed, columns(options))


def prepare(options: argparse.Namespace) -> None:
    """Threads as asked for, freed memory kept, and libraries that speak up about errors alone."""
    from training import pipeline

    _quieten()
    pipeline.use_threads(options.threads)
    pipeline.keep_freed_memory()


def parse(argv: Sequence[str] | None, flags: argparse.ArgumentParser | None = None) -> argparse.Namespace:
    """Options from flags, then from the YAML that `--config` names, then defaults."""
    flags = flags or _parser()
    options = flags.parse_args(argv)
    if options.config is None:
        return options
    known = {action.dest: action for action in flags._actions if action.dest not in ("help", "config")}
    defaults: dict[str, Any] = {}
    for name, value in read_config(options.config).items():
        dest = str(name).replace("-", "_")
        if dest not in known:
            close = get_close_matches(dest, known, n=1)
            meant = f"Did you mean {close[0]}?" if close else f"Known: {', '.join(known)}."
            raise UserError(f"Unknown setting in {options.config}", seen=name, remedy=meant)
        _check_kind(options.config, name, value, known[dest])
        # As strings, argparse converts and checks them the way it does the flags; but for choices.
        defaults[dest] = value if isinstance(value, bool) else _as_flag(dest, value)
        choices = known[dest].choices
        if choices and defaults[dest] not in choices:
            remedy = f"Choose {' or '.join(map(str, choices))}."
            raise UserError(f"{options.config} sets {name} to what it cannot be", seen=value, remedy=remedy)
    flags.set_defaults(**defaults)
    return flags.parse_args(argv)


def _check_kind(config: Path, name: str, value: Any, action: argparse.Action) -> None:
    """A setting is yes or no exactly where its flag is: the string "false" would count as yes."""
    wanted = isinstance(action, argparse.BooleanOptionalAction | argparse._StoreTrueAction)
    if value is None or wanted != isinstance(value, bool):
        remedy = "Write true or false." if wanted else "Write a value, or leave the line out."
        seen = "nothing" if value is None else repr(value)
        raise UserError(f"{config} sets {name} to what it cannot be", seen=seen, remedy=remedy)


def _as_flag(name: str, value: Any) -> str:
    """As it is written on the command line: sets of `data` are joined by +, other lists by commas."""
    return ("+" if name == "data" else ",").join(map(str, value)) if isinstance(value, list) else str(value)


def table(dataset: data.Dataset) -> str:
    """Texts of each label in each split, the positive one, and what was left out and why."""
    counts = dataset.counts()
    lines = [
        tabulate(
            [[name, len(split), *counts[name].values()] for name, split in dataset.splits.items()],
            ["split", "texts", *dataset.labels],
            intfmt=",",
        )
    ]
    lines += [str(dataset.positive), *dataset.warnings()]
    for name, reasons in dataset.dropped.items():
        told = dataset.lines.get(name, {})
        counted = (f"{n:,} {why}{places(n, told.get(why, []))}" for why, n in reasons.items())
        lines.append(f"dropped from {name}: " + ", ".join(counted))
    for name, leak in dataset.leaks.items():
        lines.append(
            f"{leak['texts']:,} texts of {name} stood in train too, {leak['other_label']:,} of them with "
            "another label: dropped from train"
        )
    return "\n".join(lines)


def places(count: int, lines: Sequence[int]) -> str:
    """Where in the file the first of `count` rows stand, in words; nothing where that is not known."""
    more = ", …" if count > len(lines) else ""
    return f" (line {', '.join(map(str, lines))}{more})" if lines else ""


def summary(meta: dict[str, Any]) -> str:
    """The final figures, one row a split."""
    rows = ["macro_f1", "accuracy", "auroc", "average_precision", "brier", "ece"]
    if meta["task"] == "multi-label":
        rows.insert(1, "micro_f1")
    figures = [
        [name.replace("_", " ") if name == "test_without_leaks" else name, *(split[row] for row in rows)]
        for name, split in meta["metrics"].items()
    ]
    calibration = ", ".join(f"{label} from {value:.3f}" for label, value in meta["thresholds"].items())
    return (
        tabulate(figures, ["split", *rows], floatfmt=".3f", missingval="–")
        + f"\ntemperature {meta['temperature']:.3f}"
        + (f"; {calibration}" if calibration else "")
    )


def columns(options: argparse.Namespace) -> sources.Columns:
    labels = tuple(label.strip() for label in options.labels.split(",") if label.strip())
    return sources.Columns(
        options.text_column, options.label_column, labels, options.encoding, options.positive_label
    )


def recipe(options: argparse.Namespace) -> Recipe:
    names = [option.name for option in recipe_options()]
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    return replace(default_recipe(options.base), **given)


def read_config(path: Path) -> dict[Any, Any]:
    """The settings in a YAML file."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"Cannot read {path}", seen=error.strerror, remedy="Check the path.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        seen = str(error).split("\n")[0]
        raise UserError(f"{path} is not YAML", seen=seen, remedy="Mend it.") from error
    if not isinstance(content, dict):
        seen = type(content).__name__
        raise UserError(f"{path} holds no settings", seen=seen, remedy="Write lines such as `epochs: 3`.")
    return content


def _quieten() -> None:
    """Leave the terminal to us: libraries speak up about errors alone."""
    import huggingface_hub
    import transformers

    transformers.utils.logging.set_verbosity_error()
    huggingface_hub.utils.logging.set_verbosity_error()
    warnings.filterwarnings("ignore", category=UserWarning, module="torch|transformers|accelerate|peft")


if __name__ == "__main__":
    run(main)
