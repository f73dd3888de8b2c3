"""`python -m training compare`: which recipe, and which corpora to train on, by validation texts alone.

A recipe is judged on the first corpus of its data, or with `--leave-one-out` on each of its corpora in turn
after a training on all the others. The highest mean macro-F1 wins; no test split is read.
"""

import argparse
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from common.atomic import write_json
from common.commands import emit, positive_int, say
from common.options import add_data_dir, add_threads
from common.records import plain
from handler.errors import UserError
from training import data
from training.cross_validation import judge_with, key
from training.data import Dataset, Split
from training.data.sources import parse
from training.data.splits import digests
from training.measures.comparison import NAME, Comparison, Judged, table
from training.measures.records import Figures
from training.options import SettingsParser, add_options, prepare
from training.options import recipe as recipe_of
from training.recipe import Recipe


def compare_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipes", nargs="+", type=Path, metavar="CONFIG", help="configurations to compare")
    parser.add_argument(
        "--leave-one-out",
        action="store_true",
        help="train on all corpora but one and judge on that one, for each corpus in turn",
    )
    parser.add_argument(
        "--corpora",
        default="",
        help="corpora to leave out in turn, joined by + (default: those of the first configuration)",
    )
    parser.add_argument(
        "--on",
        action="append",
        default=[],
        metavar="DATA",
        help="train each recipe on this data in place of its own; repeat it to compare several",
    )
    parser.add_argument(
        "--seeds",
        type=positive_int,
        default=1,
        help="train each with this many seeds and take the mean (default: 1)",
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default="build/comparison",
        help="where finished figures are kept (default: %(default)s)",
    )
    add_data_dir(parser)
    add_threads(parser, "torch's own choice")


def compare(options: argparse.Namespace) -> int:
    chosen = {path.stem: _settings(path, options) for path in options.recipes}
    prepare(options)
    from training.heads import embeddings_kept

    with embeddings_kept():
        found = _left_out(chosen, options) if options.leave_one_out else _own(chosen, options)
    write_json(options.folder / f"{NAME}.json", plain(found))
    winner = found.ranked[0]
    say(table(found))
    say(f"{winner}: the highest mean macro-F1")
    emit({"winner": winner, **plain(found)})
    return 0


def _settings(config: Path, options: argparse.Namespace) -> argparse.Namespace:
    """What `python -m training --config` would take from a file."""
    parser = SettingsParser()
    add_options(parser)
    settings: argparse.Namespace = parser.parse_args(
        ["--config", str(config), "--data-dir", str(options.data_dir)]
    )
    return settings


def _left_out(chosen: Mapping[str, argparse.Namespace], options: argparse.Namespace) -> Comparison:
    """Each recipe on each corpus, which it was not trained on."""
    corpora = [part.spec for part in parse(options.corpora or next(iter(chosen.values())).data)]
    found: dict[str, dict[str, Judged]] = {name: {} for name in chosen}
    for name, settings in chosen.items():
        for corpus in corpora:
            dataset = data.load(without(settings.data, corpus), settings.data_dir, settings.split_seed)
            held_out = data.load(corpus, settings.data_dir, settings.split_seed).splits["validation"]
            held_out = apart(held_out, dataset)
            found[name][corpus] = _judged(name, settings, dataset, corpus, held_out, options)
    return Comparison(corpora, found, seeds=options.seeds)


def _own(chosen: Mapping[str, argparse.Namespace], options: argparse.Namespace) -> Comparison:
    """Each recipe on the first corpus of the data that it was trained on."""
    datasets = {
        (name, spec): spec for name, settings in chosen.items() for spec in options.on or [settings.data]
    }
    firsts = list(dict.fromkeys(parse(spec)[0].spec for spec in datasets.values()))
    if len(firsts) > 1:
        raise UserError(
            "The recipes are not judged on the same texts",
            seen=", ".join(firsts),
            remedy="Put the corpus that is to be judged first in all of the data, or use --leave-one-out.",
        )
    found: dict[str, dict[str, Judged]] = {}
    for name, spec in datasets:
        settings = chosen[name]
        dataset = data.load(spec, settings.data_dir, settings.split_seed)
        row = f"{name} on {spec}" if options.on else name
        held_out = dataset.splits["validation"]
        found[row] = {firsts[0]: _judged(row, settings, dataset, firsts[0], held_out, options)}
    return Comparison(firsts, found, left_out=False, seeds=options.seeds)


def _judged(
    name: str,
    settings: argparse.Namespace,
    dataset: Dataset,
    corpus: str,
    held_out: Split,
    options: argparse.Namespace,
) -> Judged:
    """The mean over the seeds of a recipe's figures on held-out texts."""
    recipe = recipe_of(settings)
    figures = []
    for seed in range(recipe.seed, recipe.seed + options.seeds):
        seeded = replace(recipe, seed=seed)
        figures.append(_figures(name, settings.base, seeded, dataset, held_out, options.folder))
    areas = [judged.auroc for judged in figures if judged.auroc is not None]
    found = Judged(
        len(held_out),
        float(np.mean([judged.macro_f1 for judged in figures])),
        float(np.mean(areas)) if areas else None,
    )
    say(f"{name}, on {corpus}: macro-F1 {found.macro_f1:.3f}")
    return found


def _figures(
    name: str, base: str, recipe: Recipe, dataset: Dataset, held_out: Split, folder: Path
) -> Figures:
    """Those of one training, read back if they are known."""
    kept = folder / f"{key(dataset, base, recipe, data.fingerprint(held_out))}.json"
    if not kept.is_file():
        say(f"{name}: training on {dataset.spec}, seed {recipe.seed}")
        write_json(kept, plain(judge_with(dataset, {"": held_out}, base, recipe)[""]))
    known: dict[str, Any] = json.loads(kept.read_text())
    return msgspec.convert(known, Figures)


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
