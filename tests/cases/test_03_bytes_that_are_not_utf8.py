"""Bytes that are not of the encoding are named or kept, never replaced in silence."""

import codecs

import pytest

from common.tables.lines import BLOCK, MOST_LINE
from common.tables.records import TOO_LONG
from handler.errors import UserError
from tests.reading import scored
from training import data
from training.data.sources import Columns

NOT_UTF8 = "the text is not valid UTF-8: set its encoding with --encoding"
LATIN = "id,city,text\n1,Zürich,café déjà vu\n2,Köln,naïve\n3,Ulm,plain\n4,Würzburg,plain\n".encode("cp1252")


def test_without_an_encoding_such_texts_are_named_and_other_columns_keep_their_bytes(tmp_path) -> None:
    rows = scored(LATIN, tmp_path)
    assert [row["city"].encode("utf-8", "surrogateescape") for row in rows] == [
        "Zürich".encode("cp1252"),
        "Köln".encode("cp1252"),
        b"Ulm",
        "Würzburg".encode("cp1252"),
    ]
    assert [row["error"] for row in rows] == [f"{NOT_UTF8} (line 2)", f"{NOT_UTF8} (line 3)", "", ""]
    assert rows[0]["text"].encode("utf-8", "surrogateescape") == "café déjà vu".encode("cp1252")
    assert "\ufffd" not in (tmp_path / "out.csv").read_text(encoding="utf-8", errors="surrogateescape")


@pytest.mark.parametrize("written", ["jsonl", "parquet"])
def test_a_value_that_the_output_cannot_hold_costs_its_row(tmp_path, written) -> None:
    rows = scored(LATIN, tmp_path, written=written)
    assert [row["id"] for row in rows] == [*"1234"]
    assert [row["label"] for row in rows] == [None, None, "plain", None]
    assert rows[3]["city"] is None
    assert rows[3]["error"] == f"the value of city cannot be written as .{written}"


def test_with_its_encoding_a_file_is_read_and_written_as_utf8(tmp_path) -> None:
    rows = scored(LATIN, tmp_path, encoding="cp1252")
    assert [(row["city"], row["label"]) for row in rows][:2] == [
        ("Zürich", "café déjà vu"),
        ("Köln", "naïve"),
    ]
    with pytest.raises(UserError, match="Unknown encoding: klingon"):
        scored(LATIN, tmp_path, name="in2.csv", encoding="klingon")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be", "utf-32", "utf-32-be"])
@pytest.mark.parametrize("name", ["in.csv", "in.txt", "in.jsonl"])
def test_a_byte_order_mark_says_the_encoding(tmp_path, encoding, name) -> None:
    mark = codecs.BOM_UTF16_BE if encoding == "utf-16-be" else b""
    mark = codecs.BOM_UTF32_BE if encoding == "utf-32-be" else mark
    texts = [
        "naïve 日本",
        "\u0a0d\u0d0a \U0001f600",
        *["x" * (BLOCK // 4)] * 9,
    ]  # bytes of line ends within characters
    lines = {
        "in.csv": ["text", *texts],
        "in.txt": texts,
        "in.jsonl": [f'{{"text": "{text}"}}' for text in texts],
    }[name]
    rows = scored(mark + "\r\n".join(lines).encode(encoding), tmp_path, name)
    assert [row["label"] for row in rows] == texts


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_wide_characters_without_a_mark_are_a_sentence_and_can_be_asked_for(tmp_path, encoding) -> None:
    content = "one text\nanother\n".encode(encoding)
    with pytest.raises(UserError, match=f"--encoding {encoding}"):
        scored(content, tmp_path, "in.txt")
    assert [row["label"] for row in scored(content, tmp_path, "in.txt", encoding=encoding)] == [
        "one text",
        "another",
    ]


def test_half_a_character_at_the_end_of_wide_ones_costs_its_row(tmp_path) -> None:
    rows = scored("text\na\nb".encode("utf-16") + b"\xd8", tmp_path)
    assert [(row["label"], bool(row["error"])) for row in rows] == [("a", False), ("", True)]


@pytest.mark.parametrize("encoding", ["shift_jis", "gb18030", "big5", "euc_kr", "koi8-r"])
def test_encodings_of_several_bytes_keep_their_rows(tmp_path, encoding) -> None:
    text = {"koi8-r": "привет", "big5": "功能 許功蓋", "euc_kr": "안녕"}.get(encoding, "表示 ソ")
    rows = scored(f'id,text\n1,"{text}\n{text}"\n2,b\n'.encode(encoding), tmp_path, encoding=encoding)
    assert [row["label"] for row in rows] == [f"{text}\n{text}", "b"]


@pytest.mark.parametrize("encoding", ["cp500", "utf-7", "hex"])
def test_encodings_in_which_lines_cannot_be_found_are_refused(tmp_path, encoding) -> None:
    with pytest.raises(UserError, match="Unknown encoding"):
        scored(b"text\na\n", tmp_path, encoding=encoding)


def test_a_header_of_another_encoding_is_a_sentence(tmp_path) -> None:
    with pytest.raises(UserError, match=r"header of .* is not valid UTF-8: Stra\\udcdfe, text.*--encoding"):
        scored("Straße,text\n1,a\n".encode("cp1252"), tmp_path)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"\x1f\x8b\x08\0", "gzip. Unpack"),
        (b"PK\x03\x04", "zip"),
        (b"PAR1", "Parquet"),
        (b'[{"text": "a"},\n {"text": "b"}]\n', "single JSON value.*jq -c"),
        (b'[\n{"text": "a"}\n]', "single JSON value"),
        (b'{\n  "text": "a"\n}\n', "single JSON value"),
    ],
    ids=["gzip", "zip", "parquet", "list", "list over lines", "object over lines"],
)
def test_a_file_that_is_something_else_is_a_sentence(tmp_path, content, sentence) -> None:
    with pytest.raises(UserError, match=sentence):
        scored(content, tmp_path, "in.jsonl")


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b'{"text": "a", "text": "b"}', "duplicate key (line 2)"),
        (b'{"text": "a", "x": {"b": 1, "b" : 2}}', "duplicate key (line 2)"),
        (b'{"text": "a", "\\ud800": 1}', "key that is not valid text (line 2)"),
        (b'{"text": "caf\xe9"}', f"{NOT_UTF8} (line 2)"),
        (b'{"text": 5}', "text is not a string but int"),
        (b'{"text": null}', "text is not a string but null"),
        (b"{}", "text is not a string but null"),
        (b'{"text": "a"} {"text": "b"}', "not JSON (line 2)"),
        (b'{"text": ' + b"[" * 100_000, "not JSON (line 2)"),
        (b'["a"]', "not a JSON object (line 2)"),
        (b'{"n": ' + b"1" * 5000 + b"}", "not JSON (line 2)"),
        (b'{"text": "' + b"a" * MOST_LINE + b'"}', f"{TOO_LONG} (line 2)"),
    ],
    ids=[
        "twice",
        "nested",
        "name",
        "bytes",
        "number",
        "null",
        "none",
        "two",
        "deep",
        "list",
        "digits",
        "long",
    ],
)
def test_a_json_line_that_is_odd_says_why(tmp_path, line, error) -> None:
    content = b'{"text": "first: \\"x\\""}\n' + line + b'\n\n{"text": "last", "n": NaN}\n'
    rows = scored(content, tmp_path, "in.jsonl", "jsonl")
    assert [row["label"] for row in rows] == ['first: "x"', None, "last"]
    assert rows[1]["error"] == error
    assert rows[2]["n"] is None


def test_half_of_a_character_in_json_is_kept_where_the_output_is_json(tmp_path) -> None:
    content = b'{"text": "cut \\ud83d", "id": 1}\n'
    assert scored(content, tmp_path, "in.jsonl", "jsonl")[0]["text"] == "cut \ud83d"
    row = scored(content, tmp_path, "in.jsonl", "csv")[0]
    assert (row["id"], row["text"], row["error"]) == (
        "1",
        "",
        "the value of text cannot be written as .csv",
    )


def test_training_knows_marks_and_counts_what_is_not_of_the_encoding(tmp_path) -> None:
    rows = [f"text {row} é,{row % 2}" for row in range(60)]
    path = tmp_path / "some.csv"
    for encoding in ("utf-8-sig", "utf-16"):
        path.write_bytes("\n".join(["text,label", *rows]).encode(encoding))
        assert not data.load(f"csv:{path}").dropped
    path.write_bytes("\n".join(["text;label", *(row.replace(",", ";") for row in rows)]).encode("cp1252"))
    assert not data.load(f"csv:{path}", columns=Columns(encoding="cp1252")).dropped
    with pytest.raises(UserError, match="60 not valid UTF-8"):
        data.load(f"csv:{path}")
