"""The drop in macro-F1 from a labelled gate and unlabelled texts, of which only those that flip get labels.

Texts on which fp32 and the variant agree count only through how often each label is right there, which the
gate says. docs/flips.md has the derivation, and what it assumes.
"""

from dataclasses import dataclass

import numpy as np

from handler.errors import UserError
from training.measures.noninferiority import (
    DRAWS,
    LEAST_RESAMPLES,
    MOST_RESAMPLES,
    Drop,
    kinds_of_cells,
    one_more,
)
from training.measures.statistics import macro_f1_drop

MOST_LABELS = 10  # a thousand cells, 80 MB of each array of draws
# Beyond half of what a labeller who guesses gets wrong, the correction would be larger than what it corrects.
MOST_WRONG = 0.5


@dataclass(frozen=True)
class Checked:
    """Of `texts` whose labels were known, how many the labeller gave another label, `wrong`."""

    texts: int = 0
    wrong: int = 0


TRUSTED = Checked()


@dataclass(frozen=True)
class FlipSample:
    """What was counted, of exclusive labels.

    `gate`: labelled texts by (truth, fp32's label, the variant's) `[labels, labels, labels]`. `unlabelled`:
    other texts of the same population by (fp32's label, the variant's) `[labels, labels]`. `labelled`: those
    of them that flip and were given a label, by (that label, fp32's, the variant's). Where not all flips are
    labelled, those that are must be a random sample. `checked` is what the labeller got wrong elsewhere.
    """

    gate: np.ndarray
    unlabelled: np.ndarray
    labelled: np.ndarray
    checked: Checked = TRUSTED

    @property
    def labels(self) -> int:
        return len(self.unlabelled)

    @property
    def texts(self) -> int:
        return int(self.unlabelled.sum() + self.gate.sum())


def drop_of_flips(sample: FlipSample, resamples: int | None = None) -> Drop:
    """fp32's macro-F1 minus the variant's, drawn as `noninferiority.drop_of` draws it: without unlabelled
    texts it is the same.

    Pairs of answers are drawn by the counts of all texts; the truth of a pair by the texts of that pair that
    have a label (Little and Rubin, 2019, section 13.2: with a truth missing by the pair alone, the likelihood
    is the product of the two). Labels from a labeller who errs are corrected (Rogan and Gladen, 1978,
    https://doi.org/10.1093/oxfordjournals.aje.a112510); each end of the interval is the farther one, with the
    correction or without it. Raises `UserError` where the gate says nothing of some label.
    """
    _check(sample)
    expected = expected_cells(sample).ravel()
    labels = sample.labels
    truth, theirs, ours = np.indices((labels, labels, labels)).reshape(3, -1)
    harmed = (theirs == truth) & (ours != truth)
    helped = (theirs != truth) & (ours == truth)
    kinds = kinds_of_cells(labels, np.arange(labels**3))
    most, least = (
        _drawn(sample, one_more(expected, labels, np.flatnonzero(ways), sign), sign, kinds, resamples)
        for ways, sign in ((harmed, 1), (helped, -1))
    )
    return Drop(sample.texts, float(macro_f1_drop(expected[None], kinds)[0]), most, least)


def expected_cells(sample: FlipSample) -> np.ndarray:
    """All texts by (truth, fp32's label, the variant's) `[labels, labels, labels]`: known where they have a
    label, and shared out as the texts of the same pair are where not. A pair of which no text has a label is
    shared between its two labels."""
    known = sample.gate + sample.labelled
    pairs = sample.unlabelled + sample.gate.sum(axis=0)
    of_pair = known.sum(axis=0)
    each = np.eye(sample.labels)
    either = (each[:, :, None] + each[:, None, :]) / 2
    shares = np.where(of_pair > 0, known / np.maximum(of_pair, 1), either)
    return np.asarray(shares * pairs)


def _drawn(
    sample: FlipSample, more: np.ndarray, sign: int, kinds: np.ndarray, resamples: int | None
) -> np.ndarray:
    """Draws `[resamples]` of the drop, with the shares `more` `[cells]` of the one that is added."""
    labels = sample.labels
    added = more.reshape(labels, labels, labels)
    if resamples is None:
        resamples = max(LEAST_RESAMPLES, min(MOST_RESAMPLES, DRAWS // len(more)))
    rng = np.random.default_rng(0)
    pairs = rng.standard_gamma(
        sample.unlabelled + (sample.gate + added).sum(axis=0), (resamples, labels, labels)
    )
    known = rng.standard_gamma(sample.gate + added, (resamples, *added.shape))
    given = rng.standard_gamma(sample.labelled, (resamples, *added.shape))

    def drops(wrong: np.ndarray) -> np.ndarray:
        total = given.sum(axis=1, keepdims=True)
        # Each wrong label is as likely as the others.
        astray = wrong[:, None, None, None] / (labels - 1)
        truly = known + (given - astray * total) / (1 - labels * astray)
        of_pair = truly.sum(axis=1, keepdims=True)
        shares = np.divide(truly, of_pair, out=np.zeros_like(truly), where=of_pair > 0)
        return macro_f1_drop((shares * pairs[:, None]).reshape(resamples, -1), kinds)

    found = drops(np.zeros(resamples))
    checked = sample.checked
    if not checked.texts:
        return found
    # As in Clopper and Pearson's upper end, one more is wrong than was seen.
    wrong = rng.beta(checked.wrong + 1, checked.texts - checked.wrong, resamples)
    corrected = drops(np.minimum(wrong, MOST_WRONG * (labels - 1) / labels))
    return np.asarray(sign * np.maximum(sign * found, sign * corrected))


def _check(sample: FlipSample) -> None:
    """Raises `UserError` for what the counts cannot answer."""
    labels = sample.labels
    if labels > MOST_LABELS:
        raise UserError(
            "there are too many labels for a verdict from flips",
            seen=f"{labels} labels, at most {MOST_LABELS}",
            remedy="Label a gate instead",
        )
    agreeing = np.einsum("taa->ta", sample.gate)
    silent = [place for place in range(labels) if not agreeing[:, place].sum() or not agreeing[place].sum()]
    if silent:
        raise UserError(
            "the gate is too small for a verdict from flips: of some labels it has no text on which fp32 and "
            "the variant agree",
            seen=f"labels at place {', '.join(map(str, silent))} of {labels}",
            remedy="Use a larger gate",
        )
    checked = sample.checked
    if checked.texts and checked.wrong / checked.texts >= MOST_WRONG * (labels - 1) / labels:
        raise UserError(
            "the labeller's labels differ too often from the known ones",
            seen=f"{checked.wrong} of {checked.texts} check texts",
            remedy="Agree on the meaning of the labels, then label the file again",
        )
