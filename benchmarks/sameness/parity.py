"""How a variant's answers differ from fp32's on the same texts: labels, scores, ranking, and in which slices.

A text flips if its label changes, or any of its independent labels does; reports have its row number, never
the text. Texts without labels count for agreement and flips.
"""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import norm

from benchmarks import records
from benchmarks.records import Flipped, Interval, Parity, Rate, Slice
from benchmarks.sameness.decisions import decided as bands_decided
from benchmarks.sameness.scores import Scores
from benchmarks.samples import by_length
from common.flips import ARROW, mcnemar, opposite
from common.shares import share_interval
from handler.artifact import Artifact
from handler.predictor import decide
from training.data.splits import Split
from training.measures.metrics import brier_of_texts
from training.measures.noninferiority import ALPHA, Drop, cells_of, counts_of, share_of_groups
from training.measures.outcomes import AlikeGroups, Outcomes, drop_of_counts
from training.measures.statistics import (
    alike_groups,
    compare_ranking,
    discordant,
    indicators,
    macro_f1,
    outcome_of_each,
    same_labels,
)

MOST_FLIPPED = 200  # of one variant and split
MOST_RANKED = 100  # labels whose rankings are compared
NONE = "(none)"  # of the independent labels


def parity(
    artifact: Artifact,
    scores: Scores,
    reference: Artifact,
    reference_scores: Scores,
    labelled: Mapping[str, Split],
    tokens: Mapping[str, np.ndarray],
    is_reference: bool = False,
) -> dict[str, Parity]:
    """By split: how `scores` differ from fp32's; what needs labels only for the `labelled` splits."""
    by_split: dict[str, Parity] = {}
    for name, values in scores.items():
        theirs = reference_scores[name]
        difference = np.abs(values - theirs).max(axis=1)
        given, wanted = decided(artifact, values), decided(reference, theirs)
        truth = labelled[name].labels if name in labelled else None
        groups = labelled[name].groups if name in labelled else None
        ways = flipped_ways(wanted, given, artifact.labels)
        same = same_labels(given, wanted)
        found = by_split[name] = Parity(
            n=len(values),
            label_agreement=float(same.mean()),
            flips={way: int(texts.sum()) for way, texts in ways.items()},
            flip_rates=flip_rates({"any": ~same, **ways}, groups),
            max_prob_diff=float(difference.max()),
            mean_prob_diff=float(difference.mean()),
            macro_f1_drop=None,
            slices=slices(tokens[name], truth, wanted, given, len(artifact.labels)),
        )
        found.decided = bands_decided(artifact, values, reference, theirs, truth, groups)
        if truth is not None or reference.meta.training.trained:
            counted = outcomes_of(truth, wanted, given, len(artifact.labels), groups)
            found.cells = counted.cells
            found.kinds = counted.kinds
            found.groups = counted.groups
            found.unlabelled_flips = counted.unlabelled_flips
            found.decisions = counted.decisions
        if truth is not None:
            if groups is not None:
                found.group_flips = group_flips(ways, groups)
            drawn = drop_of_counts(found, len(artifact.labels))
            assert drawn is not None
            found.macro_f1_drop = drop(drawn, truth, wanted, given, is_reference, groups)
            ranked = ranking_drops(truth, theirs, values, artifact.positive, groups)
            found.auroc_drop = ranked.get("auroc")
            found.average_precision_drop = ranked.get("average_precision")
            found.brier_drop = brier_drop(truth, theirs, values, groups)
    return by_split


def decided(artifact: Artifact, scores: np.ndarray) -> np.ndarray:
    """Label indices by the artifact's own thresholds, or independent labels, 0 and 1, [texts, labels]."""
    return decide(scores, artifact.labels, artifact.meta.thresholds, artifact.multi_label)


def outcomes_of(
    truth: np.ndarray | None,
    reference: np.ndarray,
    candidate: np.ndarray,
    labels: int,
    groups: np.ndarray | None = None,
) -> Outcomes:
    """The counts of label indices `[n]`, or independent labels `[n, labels]`; of texts without a `truth`,
    those that flip."""
    if truth is None:
        return Outcomes(
            n=len(candidate),
            decisions=digest_of(reference, candidate),
            unlabelled_flips=_most_flips(reference, candidate),
        )
    cells, kinds = counts_of(truth, reference, candidate, labels)
    return Outcomes(
        n=len(candidate),
        decisions=digest_of(truth, reference, candidate),
        cells=cells,
        kinds=kinds,
        groups=None if groups is None else alike_of(truth, reference, candidate, labels, groups),
    )


def alike_of(
    truth: np.ndarray, reference: np.ndarray, candidate: np.ndarray, labels: int, groups: np.ndarray
) -> list[AlikeGroups]:
    """The same by group: those that are alike once, with their number."""
    if truth.ndim == 1:
        names = list(map(str, range(labels**3)))
        which = cells_of(truth, reference, candidate, labels)
    else:
        kinds, which = outcome_of_each(truth, reference, candidate)
        names = ["".join(map(str, kind)) for kind in kinds]
    return [
        AlikeGroups(groups=number, texts={names[kind]: count for kind, count in counts})
        for counts, number in alike_groups(which, groups).items()
    ]


def digest_of(*decisions: np.ndarray) -> str:
    """sha256 of labels `[n]` or `[n, labels]`, several vectors of them."""
    return hashlib.sha256(np.stack(decisions).astype("<i4").tobytes()).hexdigest()


def _most_flips(reference: np.ndarray, candidate: np.ndarray) -> int:
    """Texts with another label; of independent labels, in the label where they are the most."""
    return int((reference != candidate).reshape(len(reference), -1).sum(axis=0).max())


def flipped_ways(
    reference: np.ndarray, candidate: np.ndarray, labels: Sequence[str]
) -> dict[str, np.ndarray]:
    """Which texts flip in each direction, bool `[n]`, such as `{"hate -> not-hate": …, …}`; of independent
    labels `{"insult -> no insult": …, …}`, and a text may flip in several."""
    if reference.ndim == 2:
        return {
            f"{before}{ARROW}{after}": (reference[:, place] == was) & (candidate[:, place] != was)
            for place, label in enumerate(labels)
            for was, before, after in ((1, label, f"no {label}"), (0, f"no {label}", label))
        }
    return {
        f"{before}{ARROW}{after}": (reference == row) & (candidate == column)
        for row, before in enumerate(labels)
        for column, after in enumerate(labels)
        if row != column
    }


def group_flips(ways: Mapping[str, np.ndarray], groups: np.ndarray) -> dict[str, int]:
    """By direction, the groups that flip oftener that way than back."""
    return {way: discordant(texts, ways[opposite(way)], groups)[0] for way, texts in ways.items()}


def flip_rates(ways: Mapping[str, np.ndarray], groups: np.ndarray | None = None) -> dict[str, Rate]:
    """Share of all texts that flipped, at all and by direction, from booleans `[n]`, with 95 % intervals:
    exact ones, or those of `groups` `[n]`."""
    found = {}
    for name, texts in ways.items():
        count, n = int(texts.sum()), len(texts)
        low, high = share_interval(count, n) if groups is None else share_of_groups(texts, groups)
        found[name] = Rate(n=count, rate=count / n, low=low, high=high)
    return found


def drop(
    found: Drop,
    truth: np.ndarray,
    reference: np.ndarray,
    candidate: np.ndarray,
    is_reference: bool,
    groups: np.ndarray | None = None,
) -> records.Drop:
    """fp32's macro-F1 minus the variant's on the same texts, with its interval, and McNemar's p-value; that
    of groups is a sign test of which of the two is right in more of a group's texts."""
    theirs, ours = same_labels(reference, truth), same_labels(candidate, truth)
    return records.Drop(
        drop=found.drop,
        # Of fp32 itself the drop is known: an interval is of what is not.
        low=0.0 if is_reference else found.low,
        high=0.0 if is_reference else found.high,
        confidence=1 - 2 * ALPHA,
        mcnemar_p=mcnemar(*discordant(theirs, ours, groups)),
    )


def ranking_drops(
    truth: np.ndarray,
    reference: np.ndarray,
    candidate: np.ndarray,
    positive: int | None,
    groups: np.ndarray | None = None,
) -> dict[str, Interval | None]:
    """The drops of `auroc` and `average_precision` of the positive one of two labels, or of the mean over
    more, independent or each against the rest. None for two of which neither is looked for, and for more than
    `MOST_RANKED` labels: they would take minutes."""
    if truth.ndim == 1 and reference.shape[1] == 2:
        if positive is None:
            return {}
        truth = truth == positive
        reference = reference[:, positive]
        candidate = candidate[:, positive]
    elif reference.shape[1] > MOST_RANKED:
        return {}
    else:
        truth = indicators(truth, reference.shape[1])
    found = compare_ranking(truth, reference, candidate, groups=groups)
    return {name: Interval(**vars(interval)) if interval else None for name, interval in found.items()}


def brier_drop(
    truth: np.ndarray, reference: np.ndarray, candidate: np.ndarray, groups: np.ndarray | None = None
) -> Interval:
    """fp32's Brier score minus the variant's on the same texts: below zero, the variant is worse."""
    differences = brier_of_texts(reference, truth) - brier_of_texts(candidate, truth)
    mean = float(differences.mean())
    apart = differences - mean
    if groups is not None:  # the texts of a group err together
        apart = np.bincount(np.unique(groups, return_inverse=True)[1], weights=apart)
    error = float(np.sqrt((apart**2).sum())) / len(differences)
    half = float(norm.isf(ALPHA)) * error
    return Interval(drop=mean, low=mean - half, high=mean + half)


def slices(
    tokens: np.ndarray, truth: np.ndarray | None, reference: np.ndarray, candidate: np.ndarray, labels: int
) -> list[Slice]:
    """Agreement and both macro-F1s by length in tokens."""
    found = []
    for end, rows in by_length(tokens).items():
        ours, theirs = (
            None if truth is None else _macro_f1(truth[rows], given[rows], labels)
            for given in (candidate, reference)
        )
        found.append(
            Slice(
                up_to=end,
                n=len(rows),
                label_agreement=float(same_labels(reference[rows], candidate[rows]).mean()),
                macro_f1=ours,
                reference_macro_f1=theirs,
            )
        )
    return found


def _macro_f1(truth: np.ndarray, given: np.ndarray, labels: int) -> float | None:
    """None where a label is absent: the mean would be over other labels than in its slices."""
    held = indicators(truth, labels)
    return macro_f1(held, indicators(given, labels)) if held.any(axis=0).all() else None


def flipped(
    artifact: Artifact,
    scores: Scores,
    reference: Artifact,
    reference_scores: Scores,
    labelled: Mapping[str, Split],
    tokens: Mapping[str, np.ndarray],
) -> list[Flipped]:
    """The texts whose label is not fp32's, by split and place among those scored; farthest moved first. The
    scores told are those of the positive label, or else of the one that moved the farthest."""
    found = []
    for name, values in scores.items():
        theirs = reference_scores[name]
        given, wanted = decided(artifact, values), decided(reference, theirs)
        rows = np.flatnonzero(~same_labels(given, wanted))
        moved = np.abs(values[rows] - theirs[rows]).max(axis=1)
        for row in rows[np.argsort(-moved, kind="stable")][:MOST_FLIPPED].tolist():
            truth = _words(artifact, labelled[name].labels[row]) if name in labelled else None
            moved_most = int(np.abs(values[row] - theirs[row]).argmax())
            told = moved_most if artifact.positive is None else artifact.positive
            found.append(
                Flipped(
                    split=name,
                    row=row,
                    tokens=int(tokens[name][row]),
                    truth=truth,
                    before=_words(artifact, wanted[row]),
                    after=_words(artifact, given[row]),
                    score_before=float(theirs[row, told]),
                    score_after=float(values[row, told]),
                )
            )
    return found


def _words(artifact: Artifact, decision: np.ndarray) -> str:
    """The label, or all of the independent ones that are held."""
    if not artifact.multi_label:
        return artifact.labels[int(decision)]
    held = [label for label, holds in zip(artifact.labels, decision, strict=True) if holds]
    return ", ".join(held) or NONE
