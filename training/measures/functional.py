"""The functional suite: what a hate-speech classifier gets right, by kind of case.

A figure over a whole test set hides what a model cannot do. After HateCheck (Röttger et al., 2021,
https://aclanthology.org/2021.acl-long.4) each functionality here is one kind of case with one right label.
"""

import csv
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Formatter
from typing import Any

import numpy as np

from handler.errors import UserError
from handler.predictor import decide
from training.data.sources import HATE_LABELS
from training.measures.functional_templates import DISGUISED, FILLERS, GROUPS, HATEFUL, NOT_HATEFUL
from training.measures.records import Functional, Functionality, Gaps, Group
from training.measures.suites import MOST_BYTES, Published

# All of these cases are for evaluation; nothing may be trained or tuned on them.


AUCS = Gaps.__struct_fields__
LEET = str.maketrans("aeios", "43105")


@dataclass(frozen=True)
class Cases:
    """Texts with their right labels, int64 [n] (0 not-hate, 1 hate), functionality, and the group that each
    is about, or None."""

    texts: list[str]
    labels: np.ndarray
    functionality: list[str]
    group: list[str | None]

    def __len__(self) -> int:
        return len(self.texts)


Row = tuple[str, int, str, str | None]
"""Text, label, functionality, group."""


def applies_to(labels: Sequence[str]) -> bool:
    """Whether a model with these labels can be asked: the cases know not-hate and hate, in this order."""
    return tuple(labels) == HATE_LABELS


def templates() -> Cases:
    """The project's own cases, always the same ones, in the same order."""
    return _cases([*_filled(HATEFUL, 1), *_respelt(), *_filled(NOT_HATEFUL, 0)])


def _filled(functionalities: Mapping[str, Sequence[str]], label: int) -> Iterator[Row]:
    for functionality, sentences in functionalities.items():
        for template in sentences:
            for text, group in _expand(template):
                yield text, label, functionality, group


def _respelt() -> Iterator[Row]:
    """The same sentences in every spelling, so that accuracies differ by the spelling alone."""
    for functionality, spell in SPELLINGS.items():
        for plain, word in DISGUISED.items():
            for text, group in _expand(HATEFUL[plain][0]):
                yield text.replace(f" {word} ", spell(f" {word} ")), 1, functionality, group


def _expand(template: str) -> list[tuple[str, str | None]]:
    """The template's texts, each with its group: one for each group or, without one, for each filler."""
    slots = {slot for _, slot, _, _ in Formatter().parse(template) if slot}
    if slots & {"group", "member"}:
        texts = [(template.format(group=group, member=GROUPS[group]), group) for group in GROUPS]
        return [(_upright(text), group) for text, group in texts]
    fillings = [{slot: filler} for slot in slots for filler in FILLERS[slot]] or [{}]
    return [(_upright(template.format(**filling)), None) for filling in fillings]


def _upright(text: str) -> str:
    return text[0].upper() + text[1:]


def swap_letters(passage: str) -> str:
    """The two letters in the middle change places."""
    middle = len(passage) // 2
    return passage[: middle - 1] + passage[middle] + passage[middle - 1] + passage[middle + 1 :]


def drop_vowel(passage: str) -> str:
    """The first vowel inside the word is missing."""
    return re.sub(r"(?<=\w)[aeiou](?=\w)", "", passage, count=1)


def drop_spaces(passage: str) -> str:
    """The word runs into those beside it."""
    return passage.replace(" ", "")


def add_spaces(passage: str) -> str:
    """The letters stand apart."""
    return re.sub(r"(?<=\w)(?=\w)", " ", passage)


def write_leet(passage: str) -> str:
    """Digits stand for letters that look like them."""
    return passage.translate(LEET)


SPELLINGS: dict[str, Callable[[str], str]] = {
    "spelling: letters swapped": swap_letters,
    "spelling: letter missing": drop_vowel,
    "spelling: spaces missing": drop_spaces,
    "spelling: spaces added": add_spaces,
    "spelling: leetspeak": write_leet,
}
"""By functionality: how a word, given with the space on either side, is respelt."""


def read_published(suite: Published, path: str | Path) -> Cases:
    """The user's copy of a published suite, for evaluation only: a model that was trained or tuned on its
    cases is no longer tested by them.

    Raises UserError where the file is missing, too large, not UTF-8, not CSV or not the suite's; the message
    names the line and never holds a text.
    """
    file = Path(path).expanduser()
    rows = []
    labels: dict[str, int] = {}
    for line, row in _table(suite, file):
        text, label, functionality, group = _checked(suite, row, f"Line {line} of {file}")
        if labels.setdefault(functionality, label) != label:
            raise UserError(
                f"Line {line} of {file} gives its functionality a different label from the lines before",
                seen=_shown(row[suite.label]),
                remedy=f"A functionality has one right label. {suite.remedy}",
            )
        rows.append((text, label, functionality, group))
    if not rows:
        raise UserError(f"{file} contains no cases", seen="only a header", remedy=suite.remedy)
    return _cases(rows)


def _table(suite: Published, file: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows with the line that each ends on."""
    reader = csv.reader(io.StringIO(_content(suite, file), newline=""), strict=True)
    try:
        header = next(reader, [])
        if missing := [column for column in suite.columns if column not in header]:
            raise UserError(
                f"{file} lacks columns of {suite.name} ({', '.join(missing)})",
                seen=f"{len(header)} cells in line 1",  # not their words: without a header they are a case
                remedy=suite.remedy,
            )
        for cells in filter(None, reader):
            if len(cells) != len(header):
                raise UserError(
                    f"Line {reader.line_num} of {file} does not fit the header",
                    seen=f"{len(cells)} cells for {len(header)} columns",
                    remedy=f"A text with a comma needs quotes. {suite.remedy}",
                )
            yield reader.line_num, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        seen = f"{error}, line {reader.line_num}"
        raise UserError(f"{file} is not CSV", seen=seen, remedy=suite.remedy) from error


def _content(suite: Published, file: Path) -> str:
    try:
        with file.open("rb") as stream:
            content = stream.read(MOST_BYTES + 1)
    except FileNotFoundError as error:
        raise UserError(f"The {suite.name} file does not exist", seen=file, remedy=suite.remedy) from error
    except OSError as error:
        remedy = "Check the path and its permissions."
        raise UserError(f"Cannot read {file}", seen=error.strerror, remedy=remedy) from error
    if len(content) > MOST_BYTES:
        seen = f"more than {MOST_BYTES // 1_000_000} MB"
        raise UserError(f"{file} is too large for {suite.name}", seen=seen, remedy=suite.remedy)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        seen = f"byte 0x{error.object[error.start]:02x}"
        raise UserError(
            f"Line {line} of {file} is not UTF-8", seen=seen, remedy="Save the file in UTF-8."
        ) from error


def _checked(suite: Published, row: Mapping[str, str], place: str) -> Row:
    text, label, functionality, group = (
        row[column].strip() for column in (suite.text, suite.label, suite.functionality, suite.group)
    )
    if label not in suite.labels:
        raise UserError(
            f"{place} has an unknown label in {suite.label}",
            seen=_shown(label),
            remedy=f"Known: {', '.join(suite.labels)}. {suite.remedy}",
        )
    for column, value in ((suite.text, text), (suite.functionality, functionality)):
        if not value:
            raise UserError(f"{place} has an empty {column}", seen="no characters", remedy=suite.remedy)
    if suite.part:
        functionality = f"{functionality}, {row[suite.part].strip()}, {HATE_LABELS[suite.labels[label]]}"
    return text, suite.labels[label], functionality, group or None


def _shown(value: str) -> str:
    """A label to be quoted; where a column has slipped, it is a text and only its length is given."""
    return repr(value) if re.fullmatch(r"[\w.-]{0,20}", value) else f"{len(value)} characters"


def _cases(rows: Sequence[Row]) -> Cases:
    texts, labels, functionality, group = zip(*rows, strict=True)
    return Cases(list(texts), np.array(labels, dtype=np.int64), list(functionality), list(group))


def evaluate_cases(
    cases: Cases,
    scores: np.ndarray,
    reference_scores: np.ndarray,
    thresholds: Mapping[str, float],
    reference_thresholds: Mapping[str, float],
) -> Functional:
    """Accuracy and flips by functionality and ranking by group.

    `scores` and fp32's `reference_scores` are calibrated, float64 [n, 2]; each is decided by its own
    threshold of `hate`. Flips are cases that the two decide differently. Ranking is that of `scores`.
    """
    given = decide(scores, HATE_LABELS, thresholds)
    wanted = decide(reference_scores, HATE_LABELS, reference_thresholds)
    functionality = np.array(cases.functionality)

    def answers(rows: np.ndarray) -> dict[str, Any]:
        truth = cases.labels[rows]
        return {
            "n": len(truth),
            "accuracy": float((given[rows] == truth).mean()),
            "reference_accuracy": float((wanted[rows] == truth).mean()),
            "flips": int((given != wanted)[rows].sum()),
        }

    kinds = {name: functionality == name for name in dict.fromkeys(cases.functionality)}
    groups = [_ranking(cases, scores[:, 1], group) for group in dict.fromkeys(cases.group) if group]
    return Functional(
        functionalities=[
            Functionality(functionality=name, label=HATE_LABELS[cases.labels[rows][0]], **answers(rows))
            for name, rows in kinds.items()
        ],
        groups=groups,
        gaps=Gaps(**{figure: _gap([getattr(group, figure) for group in groups]) for figure in AUCS}),
        **answers(np.full(len(cases), True)),
    )


def _ranking(cases: Cases, hate: np.ndarray, group: str) -> Group:
    """The three AUCs of Borkan et al. (2019); background is every case that is not about this group."""
    inside = np.array([held == group for held in cases.group])
    hateful = cases.labels == 1
    return Group(
        group=group,
        n=int(inside.sum()),
        subgroup_auc=_auc(hateful, hate, inside),
        bpsn_auc=_auc(hateful, hate, inside != hateful),
        bnsp_auc=_auc(hateful, hate, inside == hateful),
    )


def _auc(hateful: np.ndarray, hate: np.ndarray, rows: np.ndarray) -> float | None:
    """None where the rows hold one label alone."""
    from sklearn.metrics import (
        roc_auc_score,  # it takes seconds, and a command's help lists the kinds of case
    )

    if len(np.unique(hateful[rows])) < 2:
        return None
    return float(roc_auc_score(hateful[rows], hate[rows]))


def _gap(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return max(known) - min(known) if len(known) > 1 else None
