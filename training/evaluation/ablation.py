"""`python -m training ablation CHECKPOINT…`: what each part of a recipe gives, from evaluated checkpoints.

It reads what `python -m training evaluate` wrote for each, and measures nothing itself.
"""

import argparse
from collections.abc import Iterable
from pathlib import Path

from common.atomic import write_json
from common.commands import emit, say
from common.options import BUILD
from common.records import plain
from handler.errors import UserError
from training.data.sources import parse
from training.evaluation.records import Evaluation, Suite
from training.measures.ablation import KINDS, NAME, Ablation, Passed, Row, table
from training.measures.suites import TEMPLATES
from training.runs import META_FILE, evaluated, opened


def ablation_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoints", nargs="+", type=Path, metavar="CHECKPOINT", help="evaluated checkpoints"
    )
    parser.add_argument(
        "--split", choices=("validation", "gate", "test"), default="validation", help="default: %(default)s"
    )
    parser.add_argument(
        "--output", type=Path, default=BUILD / NAME, help="folder for the document (default: %(default)s)"
    )


def ablation(options: argparse.Namespace) -> int:
    found = Ablation(options.split, [_row(folder, options.split) for folder in options.checkpoints])
    _check_one_corpus(found)
    write_json(options.output / f"{NAME}.json", plain(found))
    say(table(found))
    emit(plain(found))
    return 0


def _row(folder: Path, split: str) -> Row:
    meta = opened(folder / META_FILE)
    evaluation = evaluated(folder, split)
    suite = evaluation.functional.get(TEMPLATES)
    return Row(
        name=folder.name,
        data=meta.data.spec,
        base=meta.base,
        macro_f1=_by_corpus(meta.data.spec, evaluation),
        passed=_by_kind(suite) if suite else {},
        subgroup_auc=_lowest(group.subgroup_auc for group in suite.groups) if suite else None,
        background_auc=_lowest(group.bpsn_auc for group in suite.groups) if suite else None,
    )


def _by_corpus(spec: str, evaluation: Evaluation) -> dict[str, float]:
    """The first corpus is what the split is of; the others' held-out texts are measured beside it."""
    others = {name: figures.macro_f1 for name, figures in evaluation.others.items()}
    return {_first(spec): evaluation.figures.macro_f1} | others


def _first(spec: str) -> str:
    return parse(spec)[0].spec


def _by_kind(suite: Suite) -> dict[str, Passed]:
    cases = {case.functionality: case for case in suite.functionalities}
    return {
        kind: Passed(
            n=sum(cases[name].n for name in names),
            passed=sum(cases[name].passed for name in names),
        )
        for kind, names in KINDS.items()
    }


def _lowest(areas: Iterable[float | None]) -> float | None:
    return min((area for area in areas if area is not None), default=None)


def _check_one_corpus(found: Ablation) -> None:
    firsts = dict.fromkeys(_first(row.data) for row in found.rows)
    if len(firsts) > 1:
        raise UserError(
            "The checkpoints are not judged on the same texts",
            seen=", ".join(firsts),
            remedy="Give checkpoints whose data begins with the same corpus.",
        )
