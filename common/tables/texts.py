"""Texts of a file, one per line: to send to a server, to learn from, or to compare with."""

from pathlib import Path

from common.commands import say
from common.tables.layout import AS_FOUND, look, piped
from common.tables.lines import is_valid
from common.tables.records import records
from handler.errors import UserError, refusals

REMEDY = "Give a UTF-8 file with one text per line"


def read_texts(path: Path, most: int | None = None) -> list[str]:
    """The first `most` lines, or all, that are not empty, without blanks at their ends, in UTF-8 or what the
    file's first bytes say. Lines that cannot be read are left out, which is said.

    Raises `UserError` where the file cannot be read or holds no text.
    """
    texts: list[str] = []
    left_out: list[int] = []
    with refusals("the texts cannot be read", path, REMEDY), path.open("rb") as file:
        layout = look(file, str(path), "txt", "") if file.seekable() else piped(file, AS_FOUND)
        for record in records(file, layout):
            text = record.values.strip()
            if record.fault or not is_valid(text):
                left_out.append(record.line)
            elif text:
                texts.append(text)
            if len(texts) == most:
                break
    if left_out:
        say(f"{path}: skipped {len(left_out)} lines that are not valid text, first line {left_out[0]}")
    if not texts:
        raise UserError("the file has no texts", seen=path, remedy=REMEDY)
    return texts
