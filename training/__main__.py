"""`python -m training <verb>`: from texts with labels to a checkpoint, and how good it is."""

from common.commands import run
from common.programs import Program, Verb
from training.options import SettingsParser

VERBS = (
    Verb("train", "train a text classifier", "training.command:train"),
    Verb(
        "data",
        "show what training would read: splits, labels, lengths, leaks, and which rows are left out and why",
        "training.data.describe:describe_data",
    ),
    Verb("evaluate", "measure a checkpoint and write its model card", "training.evaluation.command:evaluate"),
    Verb("decide", "choose the scores from which on to act and to review", "training.decide:decide"),
    Verb(
        "cross-validate",
        "measure a recipe on a data set that is too small for a test split",
        "training.cross_validation:cross_validate",
    ),
    Verb(
        "compare",
        "compare recipes on validation texts, or on corpora that they were not trained on",
        "training.compare:compare",
    ),
    Verb("seeds", "compare trainings that differ in their seed alone", "training.seeds:seeds"),
    Verb(
        "ablation",
        "compare what checkpoints of several recipes get right",
        "training.evaluation.ablation:ablation",
    ),
    Verb("search", "search for the best recipe with Optuna", "training.search:search"),
    Verb("runs", "compare the checkpoints in one or more folders, best first", "training.runs:runs"),
)
PROGRAM = Program(
    "training",
    VERBS,
    extras="serve,train,track",
    default="train",
    parser_class=SettingsParser,
)
main = PROGRAM.main

if __name__ == "__main__":
    run(main)
