"""A baseline without a transformer: TF-IDF and logistic regression by scikit-learn.

Fitted to the checkpoint's own training texts, it tells what the transformer adds.
"""

import json
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:  # this project's own code stays out of a baseline's process
    from training.checkpoint import Checkpoint
    from training.data import Dataset

WORDS = "words.json"
WEIGHTS = "weights.npz"
COUNTED: dict[str, Any] = {"ngram_range": (1, 2)}  # single words and pairs
LEAST_TEXTS = 2  # with a word, or it is dropped
STRENGTHS = (0.3, 1.0, 3.0, 10.0, 30.0)  # C of logistic regression; validation chooses
NEVER = -30.0  # the logit of a label that no training text has


class Terms(NamedTuple):
    """The known words and pairs of a text, as often as they occur in it."""

    ids: list[int]


class Scored(NamedTuple):
    """Probabilities of one text, float64 [labels]."""

    scores: np.ndarray


class BagOfWords:
    """What a worker times, as `in_process.Classifier`; its "tokens" are known words and pairs of words."""

    device = "cpu"

    def __init__(self, folder: Path) -> None:
        from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer

        facts = json.loads((folder / WORDS).read_text(encoding="utf-8"))
        weights = np.load(folder / WEIGHTS)  # refuses pickles
        self.labels: list[str] = facts["labels"]
        self._independent: bool = facts["independent"]
        self._counter = CountVectorizer(vocabulary=facts["words"], **COUNTED)
        self._analyse = self._counter.build_analyzer()
        self._places = {word: place for place, word in enumerate(facts["words"])}
        self._weigher = TfidfTransformer(sublinear_tf=True)
        self._weigher.idf_ = weights["idf"]
        self._coefficients = weights["coefficients"]
        self._intercepts = weights["intercepts"]

    def warm(self) -> int:
        return 0

    def encode(self, texts: Sequence[str]) -> list[Terms]:
        known = self._places
        return [Terms([known[term] for term in self._analyse(text) if term in known]) for text in texts]

    def logits(self, encodings: Sequence[Any]) -> np.ndarray:
        """Logits [texts, labels] of texts whose terms are known."""
        from scipy.sparse import csr_matrix

        ids = np.fromiter(chain.from_iterable(terms.ids for terms in encodings), np.int64)
        ends = np.cumsum([0, *(len(terms.ids) for terms in encodings)])
        shape = (len(encodings), len(self._places))
        return self._of_counts(csr_matrix((np.ones(len(ids)), ids, ends), shape))

    def predict(self, texts: Sequence[str]) -> list[Scored]:
        from scipy.special import expit, softmax

        logits = self._of_counts(self._counter.transform(list(texts)))
        return [Scored(row) for row in (expit(logits) if self._independent else softmax(logits, axis=1))]

    def answer(self, prediction: Scored) -> dict[str, Any]:
        best = int(prediction.scores.argmax())
        return {"label": self.labels[best], "score": float(prediction.scores[best])}

    def _of_counts(self, counts: Any) -> np.ndarray:
        counts.sum_duplicates()
        return np.asarray(self._weigher.transform(counts) @ self._coefficients + self._intercepts)


def lacks(checkpoint: "Checkpoint", dataset: "Dataset") -> str | None:
    """Why it cannot be fitted, in words; None where it can."""
    from training.data.records import KEPT_APART

    if not checkpoint.judged:
        return "its texts have no labels that mean something"
    if dataset.unseen not in (None, KEPT_APART):
        return "the texts that the checkpoint was trained on are not at hand"
    return None


def fit(checkpoint: "Checkpoint", dataset: "Dataset", folder: Path) -> None:
    """Fit to train, choose the strength and the thresholds on validation, and write both files.

    A report judges every row at the checkpoint's temperature and thresholds. So the logits are moved until
    these decide as the fitted thresholds would.
    """
    from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer

    from training.measures.calibration import calibrate

    train = dataset.splits["train"]
    validation = dataset.splits["validation"]
    labels = tuple(dataset.labels)
    counter = CountVectorizer(min_df=LEAST_TEXTS, **COUNTED)
    weigher = TfidfTransformer(sublinear_tf=True)
    features = weigher.fit_transform(counter.fit_transform(list(train.texts)))
    seen = weigher.transform(counter.transform(list(validation.texts)))
    tried = [_linear(features, train.labels, len(labels), train.weights, strength) for strength in STRENGTHS]
    losses = [
        _loss(seen @ coefficients + intercepts, validation.labels) for coefficients, intercepts in tried
    ]
    coefficients, intercepts = tried[int(np.argmin(losses))]
    own = calibrate(seen @ coefficients + intercepts, validation.labels, labels, checkpoint.positive_label)
    meta = checkpoint.meta
    moved = [_logit(meta.thresholds.get(name)) - _logit(own.thresholds.get(name)) for name in labels]
    scale = meta.temperature / own.temperature
    words = counter.get_feature_names_out().tolist()
    facts = {"words": words, "labels": labels, "independent": dataset.multi_label}
    (folder / WORDS).write_text(json.dumps(facts), encoding="utf-8")
    np.savez(
        folder / WEIGHTS,
        idf=weigher.idf_,
        coefficients=scale * coefficients,
        intercepts=scale * intercepts + meta.temperature * np.array(moved),
    )


def _linear(
    features: Any, truth: np.ndarray, labels: int, weights: np.ndarray | None, strength: float
) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients [features, labels] and intercepts [labels], whose softmax (of independent labels,
    sigmoids) are probabilities."""
    coefficients = np.zeros((features.shape[1], labels))
    intercepts = np.full(labels, NEVER)
    if truth.ndim == 2:
        for place, column in enumerate(truth.T):
            if column.all():
                intercepts[place] = -NEVER
            elif column.any():
                fitted = _regression(strength).fit(features, column, weights)
                coefficients[:, place] = fitted.coef_[0]
                intercepts[place] = fitted.intercept_[0]
        return coefficients, intercepts
    fitted = _regression(strength).fit(features, truth, weights)
    if len(fitted.classes_) == 2:  # one row, of the second: the first is at 0
        first, second = fitted.classes_
        intercepts[first] = 0.0
        coefficients[:, second] = fitted.coef_[0]
        intercepts[second] = fitted.intercept_[0]
    else:
        coefficients[:, fitted.classes_] = fitted.coef_.T
        intercepts[fitted.classes_] = fitted.intercept_
    return coefficients, intercepts


def _regression(strength: float) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=strength, max_iter=1000)


def _loss(logits: np.ndarray, truth: np.ndarray) -> float:
    """Mean cross-entropy of the true labels."""
    from scipy.special import log_softmax

    if truth.ndim == 2:
        return float((np.logaddexp(0, logits) - truth * logits).mean())
    return float(-log_softmax(logits, axis=1)[np.arange(len(truth)), truth].mean())


def _logit(threshold: float | None) -> float:
    """0 for a label without a threshold."""
    if threshold is None:
        return 0.0
    inside = min(max(threshold, 1e-6), 1 - 1e-6)
    return float(np.log(inside / (1 - inside)))
