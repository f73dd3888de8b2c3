"""Where texts come from: one function for each data set or file format, found by its name.

Covers: the registry, the embedded corpus, TweetEval, and CSV and JSONL with named columns. A further set
is one function under `@source`. Leaves out: what may stand in which split (`splits`), joining several
sets, soft targets, and streaming of files that do not fit in memory.
"""

import csv
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import TextIO

import numpy as np

from handler.errors import UserError
from training import demo
from training.pinned import PinnedFiles, fetch
from training.splits import Split

HATE_LABELS = ("not-hate", "hate")
MOST_LABELS = 30  # more distinct values than this are ids or texts, not labels
NOT_HATE = {"0", "0.0", "false", "no", "not-hate", "nothate", "no-hate", "nohate", "non-hate", "normal"}
HATE = {"1", "1.0", "true", "yes", "hate", "hateful"}
UNLABELLED = "texts:embedded"  # what stands in for the data of a model that came without any
FILE_NAMES = {"train": ("train",), "validation": ("validation", "val", "valid", "dev"), "test": ("test",)}

TWEETEVAL_COMMIT = "4fbd22cd78421f05b1ecdb4fc5725bc7a7bd8f66"
TWEETEVAL = PinnedFiles(
    name="tweeteval",
    folder="tweeteval/hate",
    url=f"https://raw.githubusercontent.com/cardiffnlp/tweeteval/{TWEETEVAL_COMMIT}/datasets/hate",
    page=f"https://github.com/cardiffnlp/tweeteval/tree/{TWEETEVAL_COMMIT}/datasets/hate",
    sha256={
        "mapping.txt": "3fc75504ffae64ddc82e13afb5790af7798cd3167d7d35790abe78b39b991896",
        "train_text.txt": "6572bb3a42143128a5dfa99af8debeb0668e637c34b2d1e3140dac47316fe2c2",
        "train_labels.txt": "4e8fde025a453a25c94632794254131dedeac4e57228ad64157c41571cc88f71",
        "val_text.txt": "1ff78b1ed4c5ce43284b9eba32eb7d60c6d45d0d1b3b4d6df456ae01640764f1",
        "val_labels.txt": "5092badf1a0e70036ea6264bcd0b78afc07d0f4a512fa6af34c2c4973600656b",
        "test_text.txt": "bc4762876a8dd8baa55c3cd7b03108e3231a5d691e80b8b1ef97c5be31b9da9a",
        "test_labels.txt": "c14adca6b3627616a835c5ccea8a1cceb0235cd79417257f093eb0e16a69c62f",
    },
)


@dataclass(frozen=True)
class Columns:
    """Which columns of a table hold text and label; `labels` fixes the order of the label names."""

    text: str = "text"
    label: str = "label"
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Request:
    """What a source is asked for: `argument` is what follows the colon of the spec."""

    argument: str
    data_dir: Path
    columns: Columns = Columns()
    seed: int = 0


@dataclass(frozen=True)
class Raw:
    """What a source brought, before any rule; `argument` is the request's, made independent of the
    working folder; `dropped[split][reason]` counts rows that could not be read as text and label."""

    labels: tuple[str, ...]
    splits: dict[str, Split]
    argument: str = ""
    dropped: dict[str, dict[str, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    form: str
    summary: str
    read: Callable[[Request], Raw]


SOURCES: dict[str, Source] = {}


def source(form: str, summary: str) -> Callable[[Callable[[Request], Raw]], Callable[[Request], Raw]]:
    """Register a source under the name before the colon of `form` (`tweeteval`, `csv:PATH`)."""

    def register(read: Callable[[Request], Raw]) -> Callable[[Request], Raw]:
        SOURCES[form.partition(":")[0]] = Source(form, summary, read)
        return read

    return register


def find(spec: str) -> tuple[Source, str]:
    """The source that a spec names, and the spec's argument."""
    name, _, argument = spec.partition(":")
    if name not in SOURCES:
        close = get_close_matches(name, SOURCES, n=1)
        meant = f" Did you mean {close[0]}?" if close else ""
        known = ", ".join(source.form for source in SOURCES.values())
        raise UserError("Unknown data", seen=repr(spec), remedy=f"Known: {known}.{meant}")
    found = SOURCES[name]
    takes_argument = ":" in found.form
    if takes_argument != bool(argument):
        raise UserError("Data is not well named", seen=repr(spec), remedy=f"Write it as {found.form}.")
    return found, argument


@source("demo", "embedded synthetic corpus, for trying the tool out")
def read_demo(request: Request) -> Raw:
    splits = {}
    for name, examples in demo.corpus(request.seed).items():
        labels = np.array([example.label for example in examples], dtype=np.int64)
        texts, cases = [example.text for example in examples], tuple(example.case for example in examples)
        splits[name] = Split(texts, labels, cases)
    return Raw(HATE_LABELS, splits)


@source("tweeteval", "HatEval tweets (SemEval-2019 task 5) as packed by TweetEval; research use")
def read_tweeteval(request: Request) -> Raw:
    return tweeteval_from(fetch(TWEETEVAL, request.data_dir))


def tweeteval_from(folder: Path) -> Raw:
    """TweetEval's layout: line N of `*_labels.txt` is the label of line N of `*_text.txt`."""
    splits = {}
    for name, stem in {"train": "train", "validation": "val", "test": "test"}.items():
        # Only "\n" ends a line: tweets hold U+2028 and others that str.splitlines would break at.
        texts = (folder / f"{stem}_text.txt").read_bytes().decode().removesuffix("\n").split("\n")
        labels = np.array((folder / f"{stem}_labels.txt").read_text().split(), dtype=np.int64)
        if len(texts) != len(labels):
            raise UserError(
                f"{folder}/{stem}_text.txt and {stem}_labels.txt do not belong together",
                seen=f"{len(texts)} texts, {len(labels)} labels",
                remedy="Take both files from the same commit of the data set.",
            )
        splits[name] = Split(texts, labels)
    return Raw(HATE_LABELS, splits)


@source("csv:PATH", "a CSV file with a text and a label column, or a folder of train.csv, test.csv …")
def read_csv(request: Request) -> Raw:
    return _read_tables(request, ".csv", _csv_rows)


@source("jsonl:PATH", "a file of one JSON object per line, or a folder of train.jsonl, test.jsonl …")
def read_jsonl(request: Request) -> Raw:
    return _read_tables(request, ".jsonl", _jsonl_rows)


@source("texts:PATH", "a text file, one text a line, without labels (PATH embedded: the demo's texts)")
def read_texts(request: Request) -> Raw:
    """Texts without labels, for a model that was trained elsewhere: `--labels` are the model's. Every text is
    given some label, so that the splits hold them all; none of them means anything."""
    if not request.columns.labels:
        raise UserError(
            "There is nothing to learn from texts without labels",
            seen=request.argument,
            remedy="Give csv: or jsonl:",
        )
    if request.argument == "embedded":
        texts = [example.text for split in demo.corpus(request.seed).values() for example in split]
        argument = request.argument
    else:
        path = Path(request.argument).expanduser().absolute()
        with _opened(path) as lines:
            texts, argument = [line.rstrip("\r\n") for line in lines], str(path)
    texts = list(dict.fromkeys(texts))  # copies would be given labels that disagree
    labels = np.arange(len(texts)) % len(request.columns.labels)
    return Raw(request.columns.labels, {"train": Split(texts, labels)}, argument)


def _read_tables(request: Request, suffix: str, rows: Callable[[Path], Iterator[dict]]) -> Raw:
    path = Path(request.argument).expanduser().absolute()
    texts: dict[str, list[str]] = {}
    names: dict[str, list[str]] = {}
    dropped: dict[str, Counter] = {}
    for split, file in _files(path, suffix).items():
        dropped[split] = Counter()
        texts[split], names[split] = _pairs(rows(file), file, request.columns, dropped[split])
    canonical = _canonical_labels(names, request.columns)
    labels = request.columns.labels or tuple(dict.fromkeys(canonical.values()))
    index = {name: labels.index(label) for name, label in canonical.items()}
    splits = {
        split: Split(texts[split], np.array([index[name] for name in names[split]], dtype=np.int64))
        for split in texts
    }
    return Raw(labels, splits, str(path), {split: dict(counts) for split, counts in dropped.items()})


def _files(path: Path, suffix: str) -> dict[str, Path]:
    if path.is_file():
        return {"train": path}
    if not path.exists():
        raise UserError("There is no such data file", seen=path, remedy="Check the path after the colon.")
    found = {
        split: path / f"{stem}{suffix}"
        for split, stems in FILE_NAMES.items()
        for stem in stems
        if (path / f"{stem}{suffix}").is_file()
    }
    if "train" not in found:
        raise UserError(
            f"The folder holds no train{suffix}", seen=path, remedy=f"Name a file, or add train{suffix}."
        )
    return found


def _pairs(rows: Iterator[dict], file: Path, columns: Columns, dropped: Counter) -> tuple[list, list]:
    texts: list[str] = []
    names: list[str] = []
    for row in rows:
        for option, column in (("--text-column", columns.text), ("--label-column", columns.label)):
            if column not in row:
                seen = ", ".join(str(name) for name in row if name)
                raise UserError(
                    f"{file} has no column {column!r}", seen=seen, remedy=f"Name one of these with {option}."
                )
        text, label = row[columns.text], row[columns.label]
        name = "" if label is None else str(label).strip()
        if not isinstance(text, str):
            dropped["no text"] += 1
        elif not name:
            dropped["no label"] += 1
        elif columns.labels and name not in columns.labels:
            dropped["label not asked for"] += 1
        else:
            texts.append(text)
            names.append(name)
    return texts, names


def _canonical_labels(names: Mapping[str, list[str]], columns: Columns) -> dict[str, str]:
    """Map the file's label values to label names, in the order that the labels are to have."""
    seen = sorted({name for split in names.values() for name in split}, key=_label_order)
    if columns.labels:
        return {name: name for name in columns.labels}
    if not 2 <= len(seen) <= MOST_LABELS:
        raise UserError(
            f"Column {columns.label!r} must hold between 2 and {MOST_LABELS} different labels",
            seen=f"{len(seen)} different values",
            remedy="Name the right one with --label-column.",
        )
    lowered = {name: name.lower().replace("_", "-").replace(" ", "-") for name in seen}
    if all(name in NOT_HATE | HATE for name in lowered.values()):
        return {name: HATE_LABELS[lowered[name] in HATE] for name in seen}
    return {name: name for name in seen}


def _label_order(name: str) -> tuple:
    number = int(name) if name.isdecimal() else sys.maxsize
    return name.lower().replace("_", "-").replace(" ", "-") not in NOT_HATE, number, name


def _csv_rows(file: Path) -> Iterator[dict]:
    csv.field_size_limit(sys.maxsize)
    with _opened(file) as lines:
        try:
            yield from csv.DictReader(lines)
        except csv.Error as error:
            raise UserError(f"{file} is not CSV", seen=error, remedy="Save it as CSV in UTF-8.") from error


def _jsonl_rows(file: Path) -> Iterator[dict]:
    with _opened(file) as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(
                    f"Line {number} of {file} is not JSON", seen=error.msg, remedy="Mend or remove it."
                ) from error
            if not isinstance(row, dict):
                raise UserError(
                    f"Line {number} of {file} is not a JSON object",
                    seen=type(row).__name__,
                    remedy='Write one object per line, such as {"text": "…", "label": "hate"}.',
                )
            yield row


@contextmanager
def _opened(file: Path) -> Iterator[TextIO]:
    """A text file in UTF-8, with or without a byte order mark; bad bytes are the user's to mend."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            yield stream
    except UnicodeDecodeError as error:
        seen = f"byte 0x{error.object[error.start]:02x}"
        raise UserError(f"{file} is not UTF-8", seen=seen, remedy="Save it in UTF-8.") from error
    except OSError as error:
        remedy = "Check the path and its rights."
        raise UserError(f"Cannot read {file}", seen=error.strerror, remedy=remedy) from error
