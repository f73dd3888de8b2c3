"""Options shared by every command that trains: flags override `--config`, which overrides defaults."""

import argparse
import dataclasses
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from common.commands import (
    did_you_mean,
    not_negative_float,
    not_negative_int,
    positive_float,
    positive_int,
    share,
)
from common.options import add_data_dir, add_threads
from handler.errors import UserError, first_line, refusals
from training import data
from training.data import sources
from training.recipe import Recipe, default_recipe
from training.recipe import options as recipe_options


def _dropout(text: str) -> float:
    """A share, or -1 for the base model's own."""
    return -1.0 if float(text) == -1 else share(text)


KINDS = {
    "seed": not_negative_int,
    "dropout": _dropout,
    "pretrained_share": share,
    "label_smoothing": share,
    "teacher_weight": share,
    "teacher_temperature": positive_float,
    "warmup_share": share,
    "learning_rate": positive_float,
    "head_learning_rate": positive_float,
    "lora_rank": not_negative_int,
}
DEFAULT_KINDS: dict[Any, Any] = {int: positive_int, float: not_negative_float, str: str}


class SettingsParser(argparse.ArgumentParser):
    """Reads options that no flag sets from the YAML that `--config` names."""

    def parse_args(  # type: ignore[override] # without its overloads
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> Any:
        options = super().parse_args(args, namespace)
        if getattr(options, "config", None) is None:
            return options
        self.set_defaults(**_settings(self, options.config))
        return super().parse_args(args, namespace)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options for data, base model and recipe, which every training command takes."""
    known = ", ".join(source.form for source in sources.SOURCES.values())
    parser.add_argument("--data", default="demo", help=f"{known} (default: demo)")
    parser.add_argument(
        "--base",
        default="minilm",
        help="base model: minilm, a hub name, a folder, or random:… (default: minilm)",
    )
    add_data_dir(parser)
    parser.add_argument("--text-column", default="text", help="text column of a table (default: text)")
    parser.add_argument(
        "--label-column",
        default="label",
        help="label column of a table; comma-separated columns are independent labels (default: label)",
    )
    parser.add_argument(
        "--labels",
        default="",
        help="label names in order, separated by commas; rows with other labels are dropped",
    )
    parser.add_argument(
        "--positive-label",
        default="",
        help="the label to detect (default: a guess, which is shown)",
    )
    parser.add_argument(
        "--group-column",
        default="",
        help="group column of a table: rows with the same value (author, thread, template) stay in one split",
    )
    parser.add_argument("--encoding", default="utf-8", help="encoding of csv: and jsonl: (default: utf-8)")
    for option in recipe_options():
        _add(parser, option)
    parser.add_argument(
        "--split-seed", type=not_negative_int, default=0, help="random seed of the splits (default: 0)"
    )
    add_threads(parser, "torch's own choice")
    parser.add_argument(
        "--trust-remote-code",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="run the code that a base model ships, if transformers does not support the model itself",
    )
    parser.add_argument("--config", type=Path, help="YAML file with these options; flags override it")


def _add(parser: argparse.ArgumentParser, option: dataclasses.Field[Any]) -> None:
    """A flag for a field of the recipe; if it is not given, the field keeps its default."""
    words = option.metadata["words"]
    choices = option.metadata["choices"]
    shown = "3, and 0 for random: bases" if option.name == "epochs" else option.default
    settings: dict[str, Any] = {"help": f"{words} (default: {shown or 'none'})", "default": None}
    if isinstance(option.default, bool):
        settings["action"] = argparse.BooleanOptionalAction
    elif choices:
        settings["choices"] = choices
    else:
        settings["type"] = KINDS.get(option.name, DEFAULT_KINDS[option.type])
    parser.add_argument(f"--{option.name.replace('_', '-')}", **settings)


def load(options: argparse.Namespace) -> data.Dataset:
    """The data that the options name."""
    if options.data.startswith("texts:"):
        raise UserError(
            "Training needs labels, and these texts have none",
            seen=options.data,
            remedy="Give labelled data (csv: or jsonl:)",
        )
    return data.load(options.data, options.data_dir, options.split_seed, columns(options))


def prepare(options: argparse.Namespace) -> None:
    """Set the number of threads, keep freed memory, and let libraries report errors only."""
    from training import pipeline

    quieten()
    pipeline.use_threads(options.threads)
    pipeline.keep_freed_memory()


def _settings(parser: argparse.ArgumentParser, config: Path) -> dict[str, Any]:
    """The settings of a YAML file, checked like flags; `UserError` for those that `parser` does not know."""
    known = {
        action.dest: action
        for action in parser._actions
        if action.option_strings and action.dest not in ("help", "config")
    }
    defaults: dict[str, Any] = {}
    for name, value in read_config(config).items():
        dest = str(name).replace("-", "_")
        if dest not in known:
            meant = did_you_mean(dest, known) or f"Known: {', '.join(known)}."
            raise UserError(f"Unknown setting in {config}", seen=name, remedy=meant.strip())
        _check_kind(config, name, value, known[dest])
        # argparse converts and checks string defaults like flags, except for choices.
        defaults[dest] = value if isinstance(value, bool) else _as_flag(dest, value)
        choices = known[dest].choices
        if choices and defaults[dest] not in choices:
            remedy = f"Choose {' or '.join(map(str, choices))}."
            raise UserError(f"{config} sets {name} to an invalid value", seen=value, remedy=remedy)
    return defaults


def _check_kind(config: Path, name: str, value: Any, action: argparse.Action) -> None:
    """A setting must be a boolean exactly if its flag is one: the string "false" would count as true."""
    wanted = isinstance(action, argparse.BooleanOptionalAction | argparse._StoreTrueAction)
    if value is None or wanted != isinstance(value, bool):
        remedy = "Write true or false." if wanted else "Write a value, or remove the line."
        seen = "nothing" if value is None else repr(value)
        raise UserError(f"{config} sets {name} to an invalid value", seen=seen, remedy=remedy)


def _as_flag(name: str, value: Any) -> str:
    """A value as written on the command line: sets of `data` are joined by +, other lists by commas."""
    return ("+" if name == "data" else ",").join(map(str, value)) if isinstance(value, list) else str(value)


def columns(options: argparse.Namespace) -> sources.Columns:
    labels = tuple(label.strip() for label in options.labels.split(",") if label.strip())
    return sources.Columns(
        options.text_column,
        options.label_column,
        labels,
        options.encoding,
        options.positive_label,
        group=options.group_column,
    )


def recipe(options: argparse.Namespace) -> Recipe:
    names = [option.name for option in recipe_options()]
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    return dataclasses.replace(default_recipe(options.base), **given)


def read_config(path: Path) -> dict[Any, Any]:
    """The settings in a YAML file."""
    try:
        with refusals("The settings cannot be read", path, "Check the path."):
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not YAML", seen=first_line(error), remedy="Fix its syntax.") from error
    if not isinstance(content, dict):
        seen = type(content).__name__
        raise UserError(f"{path} contains no settings", seen=seen, remedy="Write lines such as `epochs: 3`.")
    return content


def quieten() -> None:
    """Leave the terminal to this program: libraries report errors only."""
    from huggingface_hub.utils import logging as of_hub
    from transformers.utils import logging as of_transformers

    of_hub.set_verbosity_error()
    of_transformers.set_verbosity_error()
    warnings.filterwarnings("ignore", category=UserWarning, module="torch|transformers|accelerate|peft")
