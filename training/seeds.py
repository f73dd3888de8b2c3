"""`python -m training seeds CHECKPOINT…`: trainings with several seeds side by side, with their median.

It reads what `python -m training evaluate` wrote for each checkpoint, and measures nothing itself.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from common.atomic import write_json
from common.commands import emit, say
from common.options import BUILD
from common.records import plain
from handler.errors import UserError
from training.description import Description
from training.measures.records import Figures
from training.measures.seeds import NAME, Measured, Run, Seeds, table
from training.runs import META_FILE, evaluated, opened


def seeds_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoints", nargs="+", type=Path, metavar="CHECKPOINT", help="evaluated checkpoints"
    )
    parser.add_argument(
        "--split", choices=("validation", "gate", "test"), default="validation", help="default: %(default)s"
    )
    parser.add_argument(
        "--output", type=Path, default=BUILD / NAME, help="folder for the document (default: %(default)s)"
    )


def seeds(options: argparse.Namespace) -> int:
    descriptions = {folder: opened(folder / META_FILE) for folder in options.checkpoints}
    _check_one_recipe(descriptions)
    first = next(iter(descriptions.values()))
    found = Seeds(
        data=first.data.spec,
        base=first.base,
        split=options.split,
        recipe={name: value for name, value in first.recipe.items() if name != "seed"},
        runs=[
            Run(folder.name, meta.seed, dict(_figures(folder, options.split)))
            for folder, meta in descriptions.items()
        ],
    )
    write_json(options.output / f"{NAME}.json", plain(found))
    say(table(found))
    emit(plain(found))
    return 0


def _check_one_recipe(descriptions: dict[Path, Description]) -> None:
    """The checkpoints differ in their seed alone."""
    recipes = {
        folder: {"base": meta.base, "data": meta.data.spec, **meta.recipe, "seed": None}
        for folder, meta in descriptions.items()
    }
    first = next(iter(recipes.values()))
    for folder, recipe in recipes.items():
        differing = [name for name in recipe if recipe[name] != first.get(name)]
        if differing:
            raise UserError(
                "The checkpoints differ in more than their seed",
                seen=f"{folder}: {', '.join(differing)}",
                remedy="Give checkpoints of one recipe; python -m training runs compares others.",
            )


def _figures(folder: Path, split: str) -> Iterator[tuple[str, Measured]]:
    document = evaluated(folder, split)
    yield split, _measured(document.figures)
    if document.without_leaks:
        yield f"{split}, without texts of train", _measured(document.without_leaks)
    own = "test" if split == "test" else "validation"
    for name, figures in document.others.items():
        yield f"{own} of {name}", _measured(figures)


def _measured(figures: Figures) -> Measured:
    return Measured(
        figures.n,
        figures.macro_f1,
        figures.macro_f1_low,
        figures.macro_f1_high,
        figures.accuracy,
        figures.auroc,
    )
