"""Write predictions in the order of the published split, for the data set's own evaluation script.

TweetEval's evaluation script reads `predictions/hate.txt`: the label's index, one a line, in the order of
`test_text.txt`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from handler.errors import UserError, refusals
from training.data import Dataset, sources
from training.evaluation.classifier import Classifier


def write_predictions(
    path: Path, classifier: Classifier, dataset: Dataset, split: str, scores: np.ndarray
) -> int:
    """Write one label index a line for every text of the published `split` of the first set, and return how
    many; `scores` [n, labels] are those of our split.

    Of the texts that our rules dropped from the split, those that stand elsewhere too are classified like any
    other, and a text without letters gets index 0: nothing was said. Raises UserError for independent labels,
    for a set that does not publish the split, and where the file cannot be written.
    """
    if classifier.multi_label:
        raise UserError(
            "Prediction files hold one label per text",
            seen="independent labels",
            remedy="Leave out --predictions.",
        )
    texts = _published(dataset, split)
    given = dict(zip(dataset.splits[split].texts, classifier.given(scores).tolist(), strict=True))
    dropped = [text for text in dict.fromkeys(texts) if text and text not in given]
    more: Sequence[int] | np.ndarray = (
        classifier.given(classifier.scores(dropped, "texts dropped from the split")) if dropped else []
    )
    given |= {text: int(label) for text, label in zip(dropped, more, strict=True)}
    lines = [str(given.get(text, 0)) for text in texts]
    with refusals("The predictions cannot be written", path, "Choose another --predictions."):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{line}\n" for line in lines), encoding="ascii")
    return len(lines)


def check_published(dataset: Dataset, split: str) -> None:
    """Raises UserError where the first set does not bring the split: before anything is computed."""
    _published(dataset, split)


def _published(dataset: Dataset, split: str) -> list[str]:
    first = sources.parse(dataset.spec)[0]
    request = sources.Request(first.argument, dataset.data_dir, dataset.columns, dataset.seed)
    raw: Mapping[str, Any] = sources.SOURCES[first.name].read(request).splits
    if split not in raw:
        raise UserError(
            f"{first.spec} publishes no {split} split: ours was carved from its training texts",
            seen=", ".join(raw),
            remedy="Leave out --predictions.",
        )
    return [text.strip() for text in raw[split].texts]
