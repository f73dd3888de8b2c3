"""`python -m training evaluate`: from a checkpoint to `evaluation/<split>/` and its model card."""

import argparse
from pathlib import Path

from common.commands import emit, not_negative_int, say
from common.options import add_checkpoint, add_threads
from common.records import plain
from handler.errors import UserError, refusals
from training.evaluation.records import FOLDER
from training.measures.suites import PUBLISHED, add_suites, copies

SAMPLE = 500  # texts that are written differently: a flip rate of a tenth is then known to about 3 points


def evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    add_checkpoint(parser)
    parser.add_argument(
        "--data-dir", type=Path, help="folder of named data sets (default: DATA_DIR, or as recorded)"
    )
    parser.add_argument(
        "--split",
        choices=("validation", "gate", "test"),
        default="validation",
        help="test is for published figures: read it once, after everything is decided (default: validation)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        help="where to write a folder for the split (default: CHECKPOINT/evaluation)",
    )
    add_suites(parser)
    parser.add_argument(
        "--predictions",
        type=Path,
        metavar="FILE",
        help="write one label index per line, in the order of the published split, for TweetEval's script",
    )
    parser.add_argument(
        "--sample",
        type=not_negative_int,
        default=SAMPLE,
        help=f"texts for measuring robustness; 0 skips it (default: {SAMPLE})",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="random seed of the sample and the perturbations (default: 0)",
    )
    add_threads(parser, "torch's own choice")


def evaluate(options: argparse.Namespace) -> int:
    # Here, after the options were checked: torch and transformers take seconds.
    from training.checkpoint import load_data, open_checkpoint
    from training.evaluation.card import write_card
    from training.evaluation.classifier import load_classifier
    from training.evaluation.document import evaluate_checkpoint
    from training.evaluation.page import markdown, terminal
    from training.evaluation.published import check_published, write_predictions
    from training.measures.functional import read_published
    from training.options import quieten
    from training.pipeline import use_threads

    use_threads(options.threads)
    checkpoint = open_checkpoint(options.checkpoint)
    _check(checkpoint.meta.data.spec)
    dataset = load_data(checkpoint, options.data_dir)
    for name, path in copies(options).items():
        read_published(PUBLISHED[name], path)  # before minutes are spent
    if options.predictions:
        check_published(dataset, options.split)
    output = options.output or checkpoint.folder / FOLDER
    folder = output / options.split
    with refusals("The evaluation cannot be written", folder, "Choose another --output."):
        folder.mkdir(parents=True, exist_ok=True)
    quieten()
    classifier = load_classifier(checkpoint)
    if not checkpoint.trained:
        say("the weights are random: the figures mean nothing")
    done = evaluate_checkpoint(
        checkpoint,
        dataset,
        classifier,
        options.split,
        folder,
        sample=options.sample,
        seed=options.seed,
        copies=copies(options),
    )
    (folder / "evaluation.md").write_text(markdown(done.document, folder), encoding="utf-8")
    say(terminal(done.document))
    if options.predictions:
        count = write_predictions(options.predictions, classifier, dataset, options.split, done.scores)
        say(f"wrote {count:,} labels to {options.predictions}")
    # A card in a checkpoint must not refer to results outside it.
    inside = output.resolve().is_relative_to(checkpoint.folder.resolve())
    card = write_card(checkpoint, output, None if inside else output)
    say(f"wrote {folder} and {card} in {done.document.seconds:.0f} s")
    emit(plain(done.document))
    return 0


def _check(spec: str) -> None:
    if spec.startswith("texts:"):
        raise UserError(
            "Quality cannot be measured on texts without labels",
            seen=spec,
            remedy="Give labelled data when you adopt the model: python -m export build --data …",
        )
