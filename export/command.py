"""`python -m export list|build`: list the variants that can be built here, and build them."""

import argparse
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tabulate import tabulate

from common.commands import emit, positive_int, positive_share, say
from common.options import CHECKPOINT, add_artifacts, add_unlabelled
from export.registry import VARIANTS, RefusedError, Variant, choose, kind_of
from handler.artifact import Artifact
from handler.errors import UnsupportedError, UserError

if TYPE_CHECKING:
    from export.source import Source
    from training.checkpoint import Checkpoint
    from training.data import Dataset


def list_variants_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--list", action="store_true", help="show every variant, which is the default")


def list_variants(_: argparse.Namespace) -> int:
    import export.variants  # noqa: F401 - registers the variants

    rows = [
        {
            "variant": variant.name,
            "runtime": variant.runtime,
            "devices": ", ".join(variant.devices),
            "parent": variant.parent or "",
            "what it is": variant.summary,
            "by default": "yes" if variant.default else "in ship" if variant.tried else "",
            "can be built and run here": "; ".join(lacking) if (lacking := variant.lacks()) else "yes",
        }
        for variant in sorted(
            VARIANTS.values(), key=lambda variant: variant.parent is not None
        )  # the reference first
    ]
    say(tabulate(rows, headers="keys"))
    return 0


def build_arguments(parser: argparse.ArgumentParser) -> None:
    add_artifacts(parser)
    parser.add_argument(
        "variants", nargs="*", help="names, or default, ship, all, cpu, gpu; default: default"
    )
    parser.add_argument(
        "--checkpoint",
        help="a checkpoint of this project, or a folder or hub name of any fine-tuned encoder classifier; "
        "default: build/checkpoint",
    )
    parser.add_argument(
        "--keep",
        type=positive_share,
        default=0.5,
        help="share of the encoder's arithmetic that pruning keeps; default: %(default)s",
    )
    add_unlabelled(parser)
    parser.add_argument(
        "--may-turn",
        type=positive_share,
        default=0.01,
        metavar="SHARE",
        help="at most this share of texts may get another label from a cascade's first stage than from fp32, "
        "with 95 %% confidence; default: %(default)s",
    )
    parser.add_argument(
        "--portable",
        action="store_true",
        help="int8 with weights of seven bits and the rest in fp32: the same scores on CPUs without VNNI, "
        "whose sums of products of eight bits overflow, and without bf16 (OpenVINO, ONNX Runtime)",
    )
    _adoption_arguments(parser.add_argument_group("for a classifier that was not trained here"))


def _adoption_arguments(elsewhere: argparse._ArgumentGroup) -> None:
    elsewhere.add_argument("--data", help="data to judge it on, as in training; default: unlabelled texts")
    elsewhere.add_argument(
        "--gate",
        type=Path,
        metavar="FILE",
        help="a table of texts that the model was not trained on, for the verdicts on its variants",
    )
    elsewhere.add_argument(
        "--unseen",
        action="store_true",
        help="state that the model was trained on none of the texts of --data",
    )
    elsewhere.add_argument(
        "--data-dir", default=os.environ.get("DATA_DIR") or "data", help="folder of named data sets"
    )
    elsewhere.add_argument("--text-column", default="text", help="text column; default: %(default)s")
    elsewhere.add_argument("--label-column", default="label", help="label column; default: %(default)s")
    elsewhere.add_argument(
        "--group-column",
        default="",
        help="group column: rows with the same value (author, thread, template) are weighed as one",
    )
    elsewhere.add_argument(
        "--labels", default="", help="label names in the model's order, separated by commas"
    )
    elsewhere.add_argument(
        "--positive-label", default="", help="the label to detect; default: a guess, which is shown"
    )
    elsewhere.add_argument(
        "--max-length", type=positive_int, help="in tokens; default: 128, or less if the model reads less"
    )
    elsewhere.add_argument(
        "--task",
        choices=("single-label", "multi-label"),
        help="whether a text has one label or several, if the model's configuration does not say",
    )


def build(arguments: argparse.Namespace) -> int:
    """Exit status 1 where a variant failed, or one that was named is refused by its own rule."""
    import export.variants  # noqa: F401 - registers the variants

    choose(arguments.variants)  # an unknown name is refused before anything is loaded
    from export.source import Source
    from training.checkpoint import load_data

    checkpoint = _checkpoint(arguments)
    kind = kind_of(json.loads((checkpoint.folder / "config.json").read_text()))
    dataset = load_data(checkpoint)
    unlabelled, traffic = _more_texts(arguments, dataset)
    seen = len(dataset.splits["validation"].texts) + len(traffic)
    chosen, left_out = choose(arguments.variants, kind, _few_texts(seen, arguments.may_turn))
    for name, lacking in left_out.items():
        say(f"{name}: left out, because it needs {'; '.join(lacking)}")
    source = Source(
        checkpoint,
        dataset,
        arguments.artifacts,
        keep=arguments.keep,
        unlabelled=unlabelled,
        traffic=traffic,
        may_turn=arguments.may_turn,
        portable=arguments.portable,
    )
    built, failed = _build_all(chosen, source, arguments.variants)
    say(f"\n{_checks(built)}\n\n{_proofs(built)}")
    checks = {artifact.name: artifact.meta.check for artifact in built}
    for note in dict.fromkeys(check.note for check in checks.values() if check.equal):
        say(f"({note})")
    for name, check in checks.items():
        if not check.equal:
            say(f"{name} is {check.note}")
    for name, message in failed.items():
        say(f"{name} failed: {message}")
    emit(
        {
            artifact.name: {"folder": str(artifact.folder), "check": checks[artifact.name]}
            for artifact in built
        }
    )
    return 1 if failed else 0


def _more_texts(arguments: argparse.Namespace, dataset: "Dataset") -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Texts to learn on and texts to fit rules to, none of which is in the data's own splits; a text that is
    given as both is not learnt on."""
    from training.data.unlabelled import read_unlabelled

    given = arguments.unlabelled, arguments.traffic
    learnt, traffic = (() if spec is None else read_unlabelled(spec, dataset) for spec in given)
    fitted = frozenset(traffic)
    unlabelled = tuple(text for text in learnt if text not in fitted)
    if arguments.unlabelled is not None:
        say(f"{len(unlabelled):,} unlabelled texts to distil on, without those in the data's own splits")
    if arguments.traffic is not None:
        say(f"{len(traffic):,} texts of traffic to fit rules to, without those in the data's own splits")
    return unlabelled, traffic


def _few_texts(seen: int, may_turn: float) -> dict[str, str]:
    """By name, what cascades need where so few texts are `seen` that no rule could be shown."""
    from export.variants.stages import least_texts

    least = least_texts(may_turn)
    if seen >= least:
        return {}
    need = f"{least} texts of validation or traffic, to show that at most {may_turn:.1%} of labels turn"
    need += f" ({seen} were found)"
    return {variant.name: need for variant in VARIANTS.values() if "may_turn" in variant.options}


def _build_all(
    chosen: Sequence[Variant], source: "Source", named: Sequence[str]
) -> tuple[list[Artifact], dict[str, str]]:
    """The artifacts that could be built, and why the others failed. Errors of the reference are raised, since
    there is nothing to compare with without it, and so are those of the only variant. A variant that does not
    suit this classifier, or that its own rule refuses, has failed if it was `named`; else it is left out."""
    from export.build import build as build_one

    built: list[Artifact] = []
    failed: dict[str, str] = {}
    unfit: set[str] = set()

    def leave_out(variant: Variant, why: str) -> None:
        say(f"{variant.name}: left out, {why}")
        if variant.name in named:
            failed[variant.name] = why
        else:
            unfit.add(variant.name)

    for variant in chosen:
        is_essential = variant.parent is None or len(chosen) <= 2
        made_of = (variant.parent, *variant.also)
        if lost := next((name for name in made_of if name in failed), None):
            failed[variant.name] = f"{lost}, which it is made of, failed"
            continue
        if lost := next((name for name in made_of if name in unfit), None):
            leave_out(variant, f"as {lost}, which it is made of, is left out")
            continue
        try:
            built.append(build_one(variant, source, say))
        except (UnsupportedError, RefusedError) as error:  # such as a model of another form
            if is_essential:
                raise
            leave_out(variant, str(error))
        except UserError as error:
            if is_essential:
                raise
            say(f"{variant.name}: FAILED, {error}")
            failed[variant.name] = str(error)
    return built, failed


def _checkpoint(arguments: argparse.Namespace) -> "Checkpoint":
    """The checkpoint to build from; a model that was trained elsewhere is adopted first."""
    from training.checkpoint import META_FILE, checkpoint_in, open_checkpoint
    from training.data.sources import Columns

    place = Path(arguments.checkpoint or CHECKPOINT)
    # A name like owner/model may be the hub's, but what training writes (BUILD=…) is never asked for there;
    # anything else that is no folder is a path that is wrong.
    could_be_hubs = place.name != CHECKPOINT.name and re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", str(place))
    found = checkpoint_in(place)
    is_elsewhere = place.is_dir() or (could_be_hubs and not place.parent.is_dir())
    if (found / META_FILE).is_file() or not is_elsewhere:
        checkpoint = open_checkpoint(found)
        if arguments.positive_label not in ("", checkpoint.positive_label):
            raise UserError(
                "The positive label of a checkpoint was fixed in training, along with its threshold",
                seen=f"{checkpoint.positive_label}, not {arguments.positive_label}",
                remedy="Train or adopt the model again with --positive-label",
            )
        return checkpoint
    from export.adoption.adopt import adopt

    folder = arguments.artifacts.parent / "adopted" / place.name
    labels = tuple(label.strip() for label in arguments.labels.split(",") if label.strip())
    columns = Columns(
        arguments.text_column,
        arguments.label_column,
        labels,
        positive_label=arguments.positive_label,
        gate=str(arguments.gate.expanduser().absolute()) if arguments.gate else "",
        group=arguments.group_column,
    )
    data = (arguments.data, arguments.data_dir, columns)
    checkpoint = adopt(
        arguments.checkpoint, folder, *data, arguments.max_length, arguments.task, arguments.unseen
    )
    say(f"{arguments.checkpoint} is now {folder}; give CHECKPOINT={folder} to the next steps")
    return checkpoint


def _checks(built: Sequence[Artifact]) -> str:
    """What the checks found, one row an artifact."""
    rows = []
    for artifact in built:
        check = artifact.meta.check
        drop = check.macro_f1_drop
        row = {
            "variant": artifact.name,
            "equal": "yes" if check.equal else "NO",
            "labels agree": f"{check.label_agreement:.2%}",
            "macro-F1 drop, 95 %": f"{drop[0]:+.3f} to {drop[1]:+.3f}" if drop else "not proven",
            "max prob. diff": f"{check.max_prob_diff:.4f}",
            "mean": f"{check.mean_prob_diff:.4f}",
            "batch mates": f"{check.batch_mate_diff:.1e}",
        }
        rows.append(row)
    return tabulate(rows, headers="keys")


def _proofs(built: Sequence[Artifact]) -> str:
    """What the runtimes showed, one row an artifact."""
    rows = [
        {
            "variant": artifact.name,
            "proof": artifact.meta.proof["summary"],
            "MB": f"{artifact.bytes / 1e6:.1f}",
            "seconds": f"{artifact.meta.build.seconds:.0f}",
        }
        for artifact in built
    ]
    return tabulate(rows, headers="keys")
