"""A quote that never closes costs its own row, and rows that are odd in other ways say why."""

import pytest

from common.tables.layout import look
from common.tables.records import MOST_LINES, OPEN_QUOTE, records
from tests.reading import score, scored


def test_an_open_quote_costs_its_own_row(tmp_path) -> None:
    lines = [f"{n},sentence number {n}" for n in range(1, 9)]
    lines[2] = '3,"a quote that never closes'
    rows = scored("\n".join(["id,text", *lines, ""]).encode(), tmp_path)
    assert [row["id"] for row in rows] == [*"12345678"]
    assert [row["label"] for row in rows if not row["error"]] == [
        f"sentence number {n}" for n in (1, 2, 4, 5, 6, 7, 8)
    ]
    assert rows[2]["error"] == "unclosed quote (line 4)"


@pytest.mark.parametrize("part_rows", [1, 7, 10_000])
def test_open_quotes_in_a_long_file_cost_as_many_rows_however_it_is_cut(tmp_path, part_rows) -> None:
    source = tmp_path / "in.csv"
    bad = {10: '10,"open', 15_000: '15000,a",b,"c'}
    with source.open("w") as file:
        file.write("id,text\n")
        file.writelines(f"{bad.get(n, f'{n},text {n}')}\n" for n in range(20_000 if part_rows > 7 else 40))
    done = score(source, tmp_path / "out.csv", part_rows)
    expected = sum(n < done["rows"] for n in bad)
    assert done["rows"] == (20_000 if part_rows > 7 else 40)
    assert done["rejected_now"] == expected


def test_a_text_of_several_lines_is_one_row_also_behind_an_open_quote(tmp_path) -> None:
    rows = scored(b'id,text\n1,"open\n2,"two\nlines, ""really"""\n3,c\n', tmp_path)
    assert [(row["id"], row["label"]) for row in rows] == [
        ("1", ""),
        ("2", 'two\nlines, "really"'),
        ("3", "c"),
    ]


def test_every_line_may_open_a_quote_and_reading_takes_no_longer(tmp_path) -> None:
    source = tmp_path / "in.csv"
    source.write_text("a,text,c\n" + 'a",b,"c\n' * 20_000)
    with source.open("rb") as file:
        found = list(records(file, look(file, "in.csv", "csv", "text")))
    assert len(found) == 20_000
    assert {record.fault for record in found} == {OPEN_QUOTE}


def test_a_quoted_text_longer_than_a_row_may_be_is_named_line_by_line(tmp_path) -> None:
    text = '"' + "line\n" * (MOST_LINES + 1) + '"'
    rows = scored(f"text\nfirst\n{text}\nlast\n".encode(), tmp_path)
    assert rows[0]["label"] == "first"
    assert rows[1]["error"].startswith(OPEN_QUOTE)
    assert rows[-1]["label"] == "last"


@pytest.mark.parametrize(
    ("line", "label", "error"),
    [
        (b"1,a,b", "", "the row has 3 values, but the header has 2: quote the text (line 2)"),
        (b"1", "", "the row has 1 values, but the header has 2 (line 2)"),
        (b"1,", "", "the text is empty"),
        (b"1,5", "5", ""),
        (b'1,"he said "hi" there"', 'he said hi" there"', ""),
        (b"1,a\0b", "a\0b", ""),
        ("1,a\u2028b".encode(), "a\u2028b", ""),
    ],
    ids=["too many", "too few", "empty", "number", "stray quotes", "NUL", "U+2028"],
)
def test_an_odd_row_is_answered_or_named(tmp_path, line, label, error) -> None:
    rows = scored(b"id,text\n" + line + b"\n2,good\n", tmp_path)
    assert [(row["label"], row["error"]) for row in rows] == [(label, error), ("good", "")]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["unix", "windows", "old mac"])
@pytest.mark.parametrize(
    ("name", "comma"), [("in.csv", ","), ("in.csv", ";"), ("in.csv", "\t"), ("in.tsv", "\t")]
)
def test_lines_and_columns_are_parted_as_other_tools_do(tmp_path, end, name, comma) -> None:
    lines = ["id,text".replace(",", comma), f"1{comma}a", "", f"2{comma}b"]
    assert [row["label"] for row in scored(end.join(lines).encode(), tmp_path, name)] == ["a", "b"]


def test_an_index_without_a_name_and_a_hint_for_spreadsheets_are_known(tmp_path) -> None:
    rows = scored(b",text,\n0,a,x\n", tmp_path)
    assert (rows[0]["column_1"], rows[0]["label"], rows[0]["column_3"]) == ("0", "a", "x")
    (tmp_path / "out.csv").unlink()
    assert scored(b",text\n0,a\n", tmp_path)[0][""] == "0"
    (tmp_path / "out.csv").unlink()
    assert scored(b"sep=;\r\nid;text\r\n1;a, b\r\n", tmp_path)[0]["label"] == "a, b"


def test_a_backslash_before_quotes_is_found_and_said_and_can_be_chosen(tmp_path, capsys) -> None:
    content = b'id,text\n1,"she said \\"no, never\\", twice"\n2,b\n'
    assert scored(content, tmp_path)[0]["label"] == 'she said "no, never", twice'
    assert "backslash" in capsys.readouterr().err
    (tmp_path / "out.csv").unlink()
    assert scored(content, tmp_path, escape="")[0]["error"]
    (tmp_path / "out.csv").unlink()
    assert scored(b'id,text\n1,"C:\\dir\\"\n', tmp_path)[0]["label"] == "C:\\dir\\"


def test_a_header_alone_is_no_row(tmp_path) -> None:
    assert scored(b"id,text\n", tmp_path) == []
