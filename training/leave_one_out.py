"""`python -m training leave-one-out`: compare recipes on corpora that they were not trained on.

Each recipe is trained on all of its corpora but one, and judged on the validation split of the one that was
left out. The recipe with the highest mean macro-F1 over all corpora wins; no test split is read.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from common.atomic import write_json
from common.commands import emit, say
from common.options import add_data_dir, add_threads
from common.records import plain
from handler.errors import UserError
from training import data
from training.cross_validation import judge_with, key
from training.data import Dataset, Split
from training.data.sources import parse
from training.data.splits import digests
from training.measures.comparison import NAME, Comparison, table
from training.options import SettingsParser, add_options, prepare
from training.options import recipe as recipe_of


def leave_one_out_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipes", nargs="+", type=Path, metavar="CONFIG", help="configurations to compare")
    parser.add_argument(
        "--corpora",
        default="",
        help="corpora to leave out in turn, joined by + (default: those of the first configuration)",
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default="build/leave-one-out",
        help="where finished figures are kept (default: %(default)s)",
    )
    add_data_dir(parser)
    add_threads(parser, "torch's own choice")


def leave_one_out(options: argparse.Namespace) -> int:
    chosen = {path.stem: _settings(path, options) for path in options.recipes}
    corpora = [part.spec for part in parse(options.corpora or next(iter(chosen.values())).data)]
    prepare(options)
    from training.heads import embeddings_kept

    found: dict[str, dict[str, Any]] = {}
    with embeddings_kept():
        for name, settings in chosen.items():
            found[name] = {corpus: _judged(name, settings, corpus, options.folder) for corpus in corpora}
    document = {"corpora": corpora, "recipes": found}
    comparison = msgspec.convert(document, Comparison)
    write_json(options.folder / f"{NAME}.json", plain(comparison))
    winner = comparison.ranked[0]
    say(table(comparison))
    say(f"{winner}: the highest mean macro-F1 over corpora that were left out")
    emit({"winner": winner, **document})
    return 0


def _settings(config: Path, options: argparse.Namespace) -> argparse.Namespace:
    """What `python -m training --config` would take from a file."""
    parser = SettingsParser()
    add_options(parser)
    settings: argparse.Namespace = parser.parse_args(
        ["--config", str(config), "--data-dir", str(options.data_dir)]
    )
    return settings


def _judged(name: str, settings: argparse.Namespace, corpus: str, folder: Path) -> dict[str, Any]:
    """The figures of a recipe on a corpus that it was not trained on, read back if they are known."""
    rest = without(settings.data, corpus)
    dataset = data.load(rest, settings.data_dir, settings.split_seed)
    held_out = data.load(corpus, settings.data_dir, settings.split_seed).splits["validation"]
    held_out = apart(held_out, dataset)
    recipe = recipe_of(settings)
    kept = folder / f"{key(dataset, settings.base, recipe, data.fingerprint(held_out))}.json"
    if not kept.is_file():
        say(f"{name}: training on {rest}, judged on {corpus}")
        figures = judge_with(dataset, {corpus: held_out}, settings.base, recipe)[corpus]
        write_json(kept, plain(figures))
    figures_found: dict[str, Any] = json.loads(kept.read_text())
    say(f"{name}, {corpus} left out: macro-F1 {figures_found['macro_f1']:.3f}")
    return figures_found


def without(spec: str, corpus: str) -> str:
    """The spec's corpora without one of them, whatever its weight."""
    kept = [part for part in parse(spec) if part.spec != corpus]
    if not kept:
        raise UserError(
            f"Without {corpus} the recipe has nothing to train on",
            seen=spec,
            remedy="Compare recipes that train on two corpora or more.",
        )
    return "+".join(map(str, kept))


def apart(split: Split, dataset: Dataset) -> Split:
    """The texts of a split that no split of the data holds."""
    known = np.concatenate([digests(part.texts) for part in dataset.splits.values()])
    return split.take(np.flatnonzero(~np.isin(digests(split.texts), known)))
