"""Functional cases: short texts that each ask one thing of a hate-speech classifier, with the right answer.

Covers our own templates (`functional_templates`), a user's copy of HateCheck (Röttger et al., 2021,
https://aclanthology.org/2021.acl-long.4), accuracy by functionality, and how ranking differs between target
groups (Borkan et al., 2019, https://arxiv.org/abs/1903.04561). Cases are for evaluation: nothing is trained
on them or tuned to them, HateCheck's own least of all. Leaves out other labels than not-hate and hate.
"""

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Formatter
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from handler.errors import UserError
from training.functional_templates import FILLERS, GROUPS, HATEFUL, MISSPELT, NOT_HATEFUL

LABELS = ("not-hate", "hate")
HATECHECK_LABELS = {"non-hateful": 0, "hateful": 1}
HATECHECK_COLUMNS = ("functionality", "test_case", "label_gold", "target_ident")
MOST_BYTES = 50_000_000
LEET = str.maketrans("aeiosAEIOS", "4310543105")


@dataclass(frozen=True)
class Cases:
    """Texts, right answers as label indices `[n]`, what each asks, and whom it is about (None: nobody)."""

    texts: list[str]
    labels: np.ndarray
    functionality: list[str]
    group: list[str | None]


def applies_to(labels: Sequence[str]) -> bool:
    """Whether a classifier of these labels can be asked."""
    return tuple(labels) == LABELS


def templates() -> Cases:
    """The cases of our own templates, in the same order every time."""
    rows = [*_expand(HATEFUL, 1), *_misspelt(), *_expand(NOT_HATEFUL, 0)]
    texts, labels, functionality, group = zip(*rows, strict=True)
    return Cases(list(texts), np.array(labels), list(functionality), list(group))


def _expand(of: dict[str, tuple[str, ...]], label: int) -> Iterator[tuple[str, int, str, str | None]]:
    for functionality, sentences in of.items():
        for sentence in sentences:
            (slot,) = {name for _, name, _, _ in Formatter().parse(sentence) if name}
            for filler in GROUPS if slot == "group" else FILLERS[slot]:
                text = sentence.format(**{slot: filler})
                group = filler if slot == "group" else None
                yield text[0].upper() + text[1:], label, functionality, group


def _misspelt() -> Iterator[tuple[str, int, str, str | None]]:
    plain = list(_expand({name: HATEFUL[name] for name in MISSPELT}, 1))
    for way, misspell in MISSPELLINGS.items():
        for text, label, _, group in plain:
            yield misspell(text), label, f"hate, {way}", group


def _longest(change: Callable[[str], str]) -> Callable[[str], str]:
    """Misspell the longest word; of several, the first."""

    def misspell(text: str) -> str:
        words = text.split(" ")
        place = max(range(len(words)), key=lambda row: len(words[row].strip(".,")))
        words[place] = change(words[place])
        return " ".join(words)

    return misspell


MISSPELLINGS: dict[str, Callable[[str], str]] = {
    "letters swapped": _longest(lambda word: word[:3] + word[4] + word[3] + word[5:]),
    "a letter missing": _longest(lambda word: word[:2] + word[3:]),
    "spaces within a word": _longest(lambda word: " ".join(word)),
    "spaces missing": lambda text: text.replace(" ", ""),
    "leetspeak": lambda text: text.translate(LEET),
}


def hatecheck(path: Path) -> Cases:
    """The cases of HateCheck's `test_suite_cases.csv`. Raises `UserError`, which never quotes a text."""

    def refuse(what: str, seen: object) -> UserError:
        remedy = "Give test_suite_cases.csv of github.com/paul-rottger/hatecheck-data as it was published"
        return UserError(what, seen=seen, remedy=remedy)

    try:
        if path.stat().st_size > MOST_BYTES:
            raise refuse("the HateCheck file is too large", f"{path}: {path.stat().st_size:,} bytes")
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            if lacking := [name for name in HATECHECK_COLUMNS if name not in (reader.fieldnames or ())]:
                raise refuse("the HateCheck file lacks columns", f"{path}: no {', '.join(lacking)}")
            rows = list(reader)
    except OSError as error:
        raise refuse("the HateCheck file cannot be read", f"{path}: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise refuse("the HateCheck file is no CSV in UTF-8", path) from error
    for number, row in enumerate(rows, 2):
        if row["label_gold"] not in HATECHECK_LABELS:
            seen = f"{path}, line {number}: label_gold {str(row['label_gold'])[:40]!r}"
            raise refuse("a case is neither hateful nor non-hateful", seen)
        if not (row["test_case"] or "").strip() or not row["functionality"]:
            raise refuse("a case has no text or no functionality", f"{path}, line {number}")
    if not rows:
        raise refuse("the HateCheck file holds no case", path)
    return Cases(
        [row["test_case"] for row in rows],
        np.array([HATECHECK_LABELS[row["label_gold"]] for row in rows]),
        [row["functionality"] for row in rows],
        [row["target_ident"] or None for row in rows],
    )


def evaluate_cases(
    cases: Cases, scores: np.ndarray, given: np.ndarray, reference: np.ndarray
) -> dict[str, Any]:
    """Figures of calibrated scores `[n, 2]` and the label indices `given` by them, beside fp32's labels
    `reference`: accuracy and flips by functionality, AUCs by group and how far the groups lie apart."""
    right, their_right, differ = given == cases.labels, reference == cases.labels, given != reference
    kinds, groups = np.array(cases.functionality), np.array([group or "" for group in cases.group])
    functionalities = []
    for kind in dict.fromkeys(cases.functionality):
        rows = kinds == kind
        functionalities.append(
            {
                "functionality": kind,
                "label": " and ".join(LABELS[label] for label in np.unique(cases.labels[rows])),
                "n": int(rows.sum()),
                "accuracy": float(right[rows].mean()),
                "reference_accuracy": float(their_right[rows].mean()),
                "flips": int(differ[rows].sum()),
            }
        )
    by_group = {
        group: subgroup_aucs(cases.labels, scores[:, 1], groups == group)
        for group in dict.fromkeys(group for group in cases.group if group)
    }
    return {
        "n": len(given),
        "accuracy": float(right.mean()),
        "reference_accuracy": float(their_right.mean()),
        "flips": int(differ.sum()),
        "functionalities": functionalities,
        "groups": [
            {"group": group, "n": int((groups == group).sum()), **aucs} for group, aucs in by_group.items()
        ],
        "gaps": {name: _gap([aucs[name] for aucs in by_group.values()]) for name in AUCS},
    }


AUCS = ("subgroup_auc", "bpsn_auc", "bnsp_auc")


def subgroup_aucs(truth: np.ndarray, scores: np.ndarray, subgroup: np.ndarray) -> dict[str, float | None]:
    """AUC among a group's texts alone; of the group's harmless texts among the others' hateful ones (low: the
    group's name alone reads as hate); and of its hateful texts among the others' harmless ones (low: hate
    against it is missed). None where one of the two kinds of text is absent."""
    hateful = truth == 1
    chosen = (
        subgroup,
        (subgroup & ~hateful) | (~subgroup & hateful),
        (subgroup & hateful) | (~subgroup & ~hateful),
    )
    return {name: _auc(truth[rows], scores[rows]) for name, rows in zip(AUCS, chosen, strict=True)}


def _auc(truth: np.ndarray, scores: np.ndarray) -> float | None:
    return float(roc_auc_score(truth, scores)) if len(np.unique(truth)) == 2 else None


def _gap(values: Sequence[float | None]) -> float | None:
    """Best minus worst."""
    known = [value for value in values if value is not None]
    return max(known) - min(known) if len(known) > 1 else None
