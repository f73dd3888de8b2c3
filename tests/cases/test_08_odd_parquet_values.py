"""A value of Parquet that Python cannot hold, or a format cannot, costs its row at most."""

import io
from datetime import date
from decimal import Decimal

import pyarrow as pa
import pytest
from pyarrow import parquet

from common.tables.parquet import MOST_PAGE, Table, as_type, row_bytes, values
from handler.errors import UserError
from tests.reading import rows_of, score

TEXTS = ["hello there", "good day"]
OUT_OF_RANGE = (1 << 63) - 1


def not_utf8(*each: bytes) -> pa.Array:
    raw = pa.array(each, pa.binary())
    return pa.Array.from_buffers(pa.string(), len(each), raw.buffers())


BEFORE_YEAR_1 = pa.array([-62135596800000001, 1], pa.timestamp("us"))
NOT_UTF8 = ([None, "ok"], ["the text is not valid UTF-8 (row 1)", None])
ODD = {
    "bytes in a text": (not_utf8(b"ca\xe9", b"ok"), ["ca\udce9", "ok"]),
    "before year 1": (
        BEFORE_YEAR_1,
        ["0000-12-31 23:59:59.999999", "1970-01-01 00:00:00.000001"],
    ),
    "nanoseconds": (pa.array([1, None], pa.timestamp("ns")), ["1970-01-01 00:00:00.000000001", ""]),
    "duration": (pa.array([1, 2], pa.duration("ns")), ["1", "2"]),
    "decimal": (pa.array([Decimal("1.20"), None]), ["1.20", ""]),
    "binary": (pa.array([b"\x00\xff", b""], pa.binary()), ["AP8=", ""]),
    "fixed binary": (pa.array([b"\x00\xff", b"ab"], pa.binary(2)), ["AP8=", "YWI="]),
    "lists": (pa.array([["x", None], None]), ["['x', None]", ""]),
    "structs": (pa.array([{"a": 1}, None]), ["{'a': 1}", ""]),
    "maps": (pa.array([[("k", 1)], []], pa.map_(pa.string(), pa.int8())), ["[('k', 1)]", "[]"]),
    "categories": (pa.array(["a", None]).dictionary_encode(), ["a", ""]),
    "views": (pa.array(["a", "b"], pa.string_view()), ["a", "b"]),
    "nulls": (pa.nulls(2), ["", ""]),
    "dates": (pa.array([date(2020, 1, 2), None]), ["2020-01-02", ""]),
}


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("written", ["csv", "jsonl", "parquet"])
def test_an_odd_value_that_is_carried_along_ends_no_job(tmp_path, kind, written) -> None:
    column, as_csv = ODD[kind]
    parquet.write_table(pa.table({"odd": column, "text": TEXTS}), tmp_path / "in.parquet")
    output = tmp_path / f"out.{written}"
    done = score(tmp_path / "in.parquet", output)
    if written == "parquet":
        found = parquet.read_table(output)
        assert (
            found.column("odd")
            .combine_chunks()
            .equals(parquet.read_table(tmp_path / "in.parquet").column("odd").combine_chunks())
        )
        assert found.column("label").to_pylist() == TEXTS
        return
    rows = rows_of(output)
    if written == "jsonl" and kind == "bytes in a text":
        assert done["rejected_now"] == 1
        assert [(row["odd"], row["label"]) for row in rows] == [(None, None), ("ok", "good day")]
        assert rows[0]["error"] == "the value of odd cannot be written as .jsonl"
        return
    assert done["rejected_now"] == 0
    assert [row["label"] for row in rows] == TEXTS
    if written == "csv":
        assert [row["odd"] for row in rows] == as_csv


@pytest.mark.parametrize("written", ["csv", "jsonl"])
def test_what_has_no_form_as_text_costs_its_row(tmp_path, written) -> None:
    odd = pa.array([OUT_OF_RANGE, 1], pa.timestamp("us"))
    parquet.write_table(pa.table({"odd": odd, "text": TEXTS}), tmp_path / "in.parquet")
    assert score(tmp_path / "in.parquet", tmp_path / f"out.{written}")["rejected_now"] == 1
    rows = rows_of(tmp_path / f"out.{written}")
    assert [row["text"] for row in rows] == TEXTS
    assert [row["error"] or "" for row in rows] == [
        f"the value of odd cannot be written as .{written}",
        "",
    ]


@pytest.mark.parametrize(
    ("column", "labels", "errors"),
    [
        (not_utf8(b"ca\xe9", b"ok"), *NOT_UTF8),
        (pa.array([b"ca\xe9", b"ok"]), *NOT_UTF8),
        (
            pa.array([b"ca\xe9", b"ok"]).dictionary_encode(),
            [None, "ok"],
            ["the text is not valid UTF-8 (row 1)", None],
        ),
        (pa.array([5, None]), [None] * 2, ["text is not a string but int", "text is not a string but null"]),
        (pa.array(["a", None]).dictionary_encode(), ["a", None], [None, "text is not a string but null"]),
        (pa.array(["a", "b"], pa.large_string()), ["a", "b"], [None, None]),
    ],
    ids=["not UTF-8", "binary", "binary categories", "numbers", "categories", "large"],
)
def test_a_text_column_of_any_type_is_answered_or_says_why(tmp_path, column, labels, errors) -> None:
    parquet.write_table(pa.table({"text": column}), tmp_path / "in.parquet")
    score(tmp_path / "in.parquet", tmp_path / "out.parquet")
    found = parquet.read_table(tmp_path / "out.parquet", columns=["label", "error"]).to_pylist()
    assert [row["label"] for row in found] == labels
    assert [row["error"] for row in found] == errors


def test_a_dictionary_that_unfolds_to_gigabytes_is_read_in_pieces(tmp_path) -> None:
    table = pa.table({"text": ["x" * (1 << 20)] * 64, "tags": [["y" * (1 << 20)]] * 64})
    parquet.write_table(table, tmp_path / "in.parquet", compression="zstd")
    del table
    before = pa.total_allocated_bytes()
    with (tmp_path / "in.parquet").open("rb") as file:
        read = Table(file, "in.parquet")
        batches = list(read.batches([0], read.fitting([0]), 1024, 8 << 20))
        assert pa.total_allocated_bytes() - before < 16 << 20
    assert sum(map(len, batches)) == 64
    assert max(map(row_bytes, batches)) <= 8 << 20


def test_pages_that_do_not_fit_in_memory_are_a_sentence_before_they_are_unpacked(tmp_path) -> None:
    text = pa.array(["z" * (MOST_PAGE + 1)])
    how = {"compression": "zstd", "use_dictionary": False}
    parquet.write_table(pa.table({"text": text}), tmp_path / "in.parquet", **how)
    assert (tmp_path / "in.parquet").stat().st_size < 1 << 20
    with pytest.raises(UserError, match=r"pages larger than 128 MiB.*write_batch_size"):
        score(tmp_path / "in.parquet", tmp_path / "out.csv")


def test_a_row_of_many_bytes_is_bad_and_others_are_not(tmp_path) -> None:
    texts = ["a", "long " * (2 << 20), "b"]
    parquet.write_table(pa.table({"id": [1, 2, 3], "text": texts}), tmp_path / "in.parquet")
    for written in ("jsonl", "parquet"):
        score(tmp_path / "in.parquet", tmp_path / f"out.{written}")
        rows = rows_of(tmp_path / f"out.{written}")
        assert [row["label"] for row in rows] == ["a", None, "b"]
        assert rows[1]["error"] == "row larger than 8 MiB (row 2)"


def test_many_row_groups_of_many_pages_are_measured_page_by_page() -> None:
    file = io.BytesIO()
    table = pa.table(
        {"text": [f"{row} " * 50 for row in range(5000)], "id": range(5000), "many": [[1, 2]] * 5000}
    )
    parquet.write_table(table, file, row_group_size=1000, data_page_size=1000, write_batch_size=10)
    read = Table(file, "in.parquet")
    assert read.groups == [1000] * 5
    fitting = read.fitting(range(5))
    back = [
        as_type(batch.column("text"), pa.string()) for batch in read.batches(range(5), fitting, 300, 8 << 20)
    ]
    assert [text for each in back for text in values(each)] == table["text"].to_pylist()


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("packing", ["none", "snappy", "gzip", "zstd", "lz4"])
def test_pages_of_every_version_and_packing_are_measured(version, packing) -> None:
    file = io.BytesIO()
    parquet.write_table(
        pa.table({"text": ["some text"] * 9}), file, compression=packing, data_page_version=version
    )
    assert Table(file, "in.parquet").fitting([0]) > 9


def test_a_damaged_parquet_file_is_a_sentence(tmp_path) -> None:
    parquet.write_table(pa.table({"text": [f"text {row}" for row in range(5000)]}), tmp_path / "in.parquet")
    content = bytearray((tmp_path / "in.parquet").read_bytes())
    content[4:2000] = bytes(1996)
    (tmp_path / "in.parquet").write_bytes(content)
    with pytest.raises(UserError, match=r"in\.parquet"):
        score(tmp_path / "in.parquet", tmp_path / "out.csv")
