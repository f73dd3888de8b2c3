import os
import threading
from pathlib import Path

import pytest

from common.tables.texts import read_texts
from handler.errors import UserError


def test_a_text_ends_where_its_line_does_and_nowhere_else(tmp_path: Path) -> None:
    place = tmp_path / "texts.txt"
    place.write_text("one\n\n two \nand\u2028another\r\nwith\x0ba\x85few\r", encoding="utf-8-sig", newline="")
    assert read_texts(place) == ["one", "two", "and\u2028another", "with\x0ba\x85few"]
    assert read_texts(place, 2) == ["one", "two"]


def test_a_line_that_is_no_text_costs_no_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "texts.txt"
    place.write_bytes("one\ntwö\nthree\n".encode("cp1252"))
    assert read_texts(place) == ["one", "three"]
    assert "skipped 1 lines that are not valid text, first line 2" in capsys.readouterr().err


def test_texts_come_through_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=("one\ntwo\n",))
    writer.start()
    assert read_texts(pipe) == ["one", "two"]
    writer.join()


def test_a_file_without_texts_is_a_sentence(tmp_path: Path) -> None:
    place = tmp_path / "texts.txt"
    place.write_text("\n \n")
    with pytest.raises(UserError, match="the file has no texts"):
        read_texts(place)
    with pytest.raises(UserError, match=r"cannot be read.*No such file"):
        read_texts(tmp_path / "none.txt")
    with pytest.raises(UserError, match="cannot be read"):
        read_texts(tmp_path)
