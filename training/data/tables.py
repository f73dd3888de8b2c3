"""Tables of your own: CSV, JSONL, Parquet, Hugging Face data sets, and plain texts without labels.

A table is read row by row, so that it may be larger than memory.
"""

from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from common.commands import say
from common.tables.lines import is_valid
from handler.errors import UserError
from training.data import demo, rows
from training.data.labels import UNLABELLED_ROWS, Faults, label_columns, names_of
from training.data.rows import Row
from training.data.sources import Columns, Raw, Request, own_columns, source
from training.data.splits import Split, digests, own_groups
from training.data.texts import TextWriter, pick

UNLABELLED = "texts:embedded"  # what stands in for the data of a model that came without any
FILE_NAMES = {
    "train": ("train",),
    "validation": ("validation", "val", "valid", "dev"),
    "gate": ("gate",),
    "test": ("test",),
}
MOST_BROKEN = 0.5  # of a file's rows: with more, the file is not what its name says
PATIENCE_S = 2.0  # before a reading shows its progress


def _read_files(
    request: Request, suffix: str, read: Callable[[Path, Sequence[str], str], Iterator[Row]], remedy: str
) -> Raw:
    argument, query, columns = own_columns(request)
    path = Path(argument).expanduser().absolute()
    wanted = _wanted(columns)
    tables = {
        split: (str(file), read(file, wanted, columns.encoding))
        for split, file in _files(path, suffix).items()
    }
    return _read(tables | _gate(columns, wanted), columns, str(path) + query, remedy)


def _wanted(columns: Columns) -> tuple[str, ...]:
    """The columns to read: text, labels, and the group where there is one."""
    return (columns.text, *names_of(columns), *([columns.group] if columns.group else []))


def _gate(columns: Columns, wanted: Sequence[str]) -> dict[str, tuple[str, Iterator[Row]]]:
    """The gate's table, where one was named."""
    if not columns.gate:
        return {}
    file = Path(columns.gate)
    if file.suffix not in READERS or not file.is_file():
        raise UserError(
            "the table of gate texts does not exist, or is of another format",
            seen=file,
            remedy=f"Name a file that ends with {' or '.join(READERS)}",
        )
    return {"gate": (str(file), READERS[file.suffix](file, wanted, columns.encoding))}


READERS = {".csv": rows.csv_rows, ".jsonl": rows.jsonl_rows, ".parquet": rows.parquet_rows}
for _form, _summary, _remedy in (
    (
        "csv",
        "a CSV file with a text and a label column, or a folder of train.csv, test.csv …",
        "Check that it is CSV with commas, and its encoding (--encoding).",
    ),
    (
        "jsonl",
        "a file of one JSON object per line, or a folder of train.jsonl, test.jsonl …",
        'Write one object per line, such as {"text": "…", "label": "hate"}.',
    ),
    (
        "parquet",
        "a Parquet file with such columns, or a folder of train.parquet, test.parquet …",
        "Check the text and label columns.",
    ),
):
    source(f"{_form}:PATH", _summary)(
        partial(_read_files, suffix=f".{_form}", read=READERS[f".{_form}"], remedy=_remedy)
    )


@source(
    "hub:NAME[:CONFIG]", "a Hugging Face data set with such columns, by its name on the hub or its folder"
)
def read_hub(request: Request) -> Raw:
    argument, query, columns = own_columns(request)
    path = Path(argument).expanduser()
    name, _, config = (argument, "", "") if path.is_dir() else argument.partition(":")
    found = rows.hub_splits(name, config or None)
    chosen = _hub_names(name, list(found))
    unused = [given for given in found if given not in chosen.values()]
    if unused:
        say(f"hub:{argument}: splits that are not used: {', '.join(unused)}")
    wanted = _wanted(columns)
    tables = {
        split: (f"{given} of hub:{argument}", rows.hub_rows(f"hub:{argument}", found[given], wanted))
        for split, given in chosen.items()
    }
    order = {column: rows.class_names(found[chosen["train"]], column) for column in names_of(columns)}
    where = str(path.absolute()) if path.is_dir() else argument
    tables |= _gate(columns, wanted)
    return _read(tables, columns, where + query, "Check the text and label columns.", order)


def _hub_names(name: str, given: Sequence[str]) -> dict[str, str]:
    """Our splits, and what the data set calls them; what has one split alone is for training."""
    if len(given) == 1:
        return {"train": given[0]}
    known = {split: [stem for stem in stems if stem in given] for split, stems in FILE_NAMES.items()}
    if not known["train"]:
        raise UserError(
            f"The data set {name!r} has no train split", seen=", ".join(given), remedy="Choose another."
        )
    return {split: stems[0] for split, stems in known.items() if stems}


@source("texts:PATH", "a text file, one text a line, without labels (PATH embedded: the demo's texts)")
def read_texts(request: Request) -> Raw:
    """Texts without labels, for a model that was trained elsewhere: `--labels` are the model's. Every text
    gets an arbitrary label, so that the splits hold them all; none of them means anything."""
    if not request.columns.labels:
        raise UserError(
            "Training needs labels, and these texts have none",
            seen=request.argument,
            remedy="Give labelled data (csv: or jsonl:)",
        )
    faults = Faults()
    if request.argument == "embedded":
        texts = [example.text for split in demo.corpus(request.seed).values() for example in split]
        argument = request.argument
    else:
        path = Path(request.argument).expanduser().absolute()
        texts = []
        argument = str(path)
        encoding = request.columns.encoding
        for record in rows.text_rows(path, encoding):
            fault = record.fault or ("" if is_valid(record.values) else f"not valid {encoding.upper()}")
            if fault:
                faults.note("train", fault, record.line)
            else:
                texts.append(record.values)
        _check_broken(str(path), len(texts), faults, "train", "Give --encoding.")
    texts = list(dict.fromkeys(texts))  # copies would be given labels that disagree
    labels = np.arange(len(texts)) % len(request.columns.labels)
    raw = _raw(request.columns.labels, {"train": Split(texts, labels)}, argument, faults)
    return replace(raw, made_up=request.argument == "embedded")


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


def _read(
    tables: Mapping[str, tuple[str, Iterator[Row]]],
    columns: Columns,
    argument: str,
    remedy: str,
    order: Mapping[str, Sequence[str]] | None = None,
) -> Raw:
    """Splits of tables, each with its name for people; `order` has the classes of label columns."""
    labels = label_columns(columns, order)
    invalid = f"not valid {columns.encoding.upper()}"
    faults = Faults()
    texts = {}
    groups = {}
    held = 1 + len(names_of(columns))  # text and labels; the group comes last
    for split, (what, table) in tables.items():
        writer = TextWriter()
        ids = array("Q")
        for row in tqdm(
            table, what, unit=" rows", unit_scale=True, delay=PATIENCE_S, disable=None, leave=False
        ):
            values = row.values[:held]
            reason = row.fault or _fault(values, invalid) or labels.add(split, row.line, values[1:])
            if reason:
                faults.note(split, reason, row.line)
            else:
                writer.append(values[0].strip())
                if columns.group:
                    ids.append(_group(row.values[held], values[0]))
        texts[split], groups[split] = writer.finish(), ids
        _check_broken(what, len(texts[split]), faults, split, remedy)
    names, found = labels.finish(tables, faults)
    splits = {}
    for split, (what, _) in tables.items():
        kept = found[split]
        taken = texts[split]
        few = len(kept.rows) < len(taken)
        splits[split] = Split(
            pick(taken, kept.rows) if few else taken,
            kept.labels,
            soft=kept.soft,
            groups=np.array(groups[split], np.uint64)[kept.rows] if columns.group else None,
        )
        counts = _check_broken(what, len(kept.rows), faults, split, remedy)
        if split != "train" and not len(kept.rows) and any(counts[reason] for reason in UNLABELLED_ROWS):
            say(f"{what}: no row has a label; {split} is carved from train instead")
            del splits[split]
        if counts[invalid]:
            say(
                f"{what}: {counts[invalid]:,} rows are {invalid}: give the file's encoding with --encoding "
                "(such as cp1252), or fix the rows"
            )
    return replace(_raw(names, splits, argument, faults), positive_label=columns.positive_label)


def _group(value: Any, text: str) -> int:
    """A number for the group; a text without one is a group of its own."""
    return int(digests([str(value)])[0]) if value not in (None, "") else int(own_groups([text])[0])


def _fault(values: Sequence[Any], invalid: str) -> str:
    """What is wrong with a text and its labels, before anything is known of what they mean."""
    text = values[0]
    if not isinstance(text, str):
        return "no text"
    if not all(is_valid(value) for value in values if isinstance(value, str)):
        return invalid
    return "" if text.strip() else "empty text"


def _check_broken(what: str, usable: int, faults: Faults, split: str, remedy: str) -> Counter[str]:
    """How many rows of a split have each fault; `UserError` where most of `what` has."""
    counts = faults.counts.get(split, Counter())
    broken = {reason: count for reason, count in counts.most_common() if reason not in UNLABELLED_ROWS}
    total = usable + counts.total()
    if sum(broken.values()) <= MOST_BROKEN * total:
        return counts
    first = faults.lines[split]
    seen = "; ".join(
        f"{count:,} {reason}" + (f" (line {', '.join(map(str, first[reason]))})" if first[reason] else "")
        for reason, count in broken.items()
    )
    raise UserError(f"Over half of the {total:,} rows of {what} cannot be used", seen=seen, remedy=remedy)


def _raw(labels: tuple[str, ...], splits: dict[str, Split], argument: str, faults: Faults) -> Raw:
    dropped = {split: dict(counts) for split, counts in faults.counts.items()}
    return Raw(labels, splits, argument, dropped, faults.lines)
