"""How far a classifier's scores and labels move when its texts are perturbed.

Every registered perturbation is tried on a seeded sample of a split.
"""

import numpy as np

from common.shares import share_interval
from training.data import Split
from training.evaluation.classifier import Classifier
from training.evaluation.perturbations import PERTURBATIONS, perturb
from training.evaluation.records import Perturbed, Robustness
from training.measures.statistics import compare, macro_f1


def robustness(
    classifier: Classifier, split: Split, scores: np.ndarray, most: int, seed: int = 0
) -> Robustness:
    """Each perturbation's moves, flips and drop in macro-F1, on up to `most` texts of `split`, whose
    unchanged `scores` [n, labels] are known.

    A move is the largest change of any score of a text, 0 to 1. Moves and flips are over the texts that the
    perturbation `changed`, None if it changed none; for `seen` of these the model's tokens differ. Macro-F1
    is over all `n`.
    """
    rows = np.arange(len(split))
    if most < len(split):
        rows = np.sort(np.random.default_rng(seed).choice(len(split), most, replace=False))
    texts = list(split.take(rows).texts)
    scores = scores[rows]
    truth = classifier.indicators(np.asarray(split.labels)[rows])
    found = [_measure(classifier, name, texts, truth, scores, seed) for name in PERTURBATIONS]
    clean = classifier.indicators(classifier.given(scores))
    return Robustness(n=len(rows), seed=seed, macro_f1=macro_f1(truth, clean), perturbations=found)


def _measure(
    classifier: Classifier, name: str, texts: list[str], truth: np.ndarray, clean: np.ndarray, seed: int
) -> Perturbed:
    written = perturb(name, texts, seed)
    changed = np.flatnonzero([new != old for new, old in zip(written, texts, strict=True)])
    # The tokenizer undoes many changes (an uncased one sees no capitals): then there is nothing to compute.
    pairs = zip(classifier.token_ids(written), classifier.token_ids(texts), strict=True)
    seen = np.flatnonzero([new != old for new, old in pairs])
    scores = clean.copy()
    scores[seen] = classifier.scores([written[row] for row in seen], f"robustness, {name}")
    before, after = (classifier.indicators(classifier.given(values)) for values in (clean, scores))
    moves = np.abs(scores - clean).max(axis=1)[changed]
    flips = int((before != after).any(axis=1).sum())
    low, high = share_interval(flips, len(changed)) if len(changed) else (None, None)
    compared = compare(truth, before, after, truth.shape[1], seed=seed)
    one = PERTURBATIONS[name]
    return Perturbed(
        name=name,
        does=one.does,
        keeps=one.keeps,
        changed=len(changed),
        seen=len(seen),
        mean_move=float(moves.mean()) if len(changed) else None,
        max_move=float(moves.max()) if len(changed) else None,
        flips=flips,
        flip_rate=flips / len(changed) if len(changed) else None,
        flip_rate_low=low,
        flip_rate_high=high,
        macro_f1=compared.candidate_macro_f1,
        macro_f1_drop=compared.drop,
        macro_f1_drop_low=compared.low,
        macro_f1_drop_high=compared.high,
    )
