"""A body is read for what it is, or refused in a sentence: JSON is never classified as text, braces."""

import codecs
import json

import pytest

from deploy.app import request_bodies
from handler.errors import Rejection
from handler.replies import Arrival, as_json, reply
from handler.requests import MOST_ID, Limits, Row, read
from handler.service import Service

GOOD = '{"text": "good day"}'
FORM = "application/x-www-form-urlencoded"
MARK = codecs.BOM_UTF8


def read_all(body: object, content_type: str = "", **limits: int) -> list[str | int]:
    """The texts of a request, and the codes of what is refused."""
    rows = read({"body": body}, content_type, Limits(**limits)).rows
    return [row.text if isinstance(row, Row) else row.code for row in rows]


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (MARK + GOOD.encode(), ""),
        (MARK + GOOD.encode(), "application/octet-stream"),
        (MARK + GOOD.encode(), "application/json"),
        (MARK + MARK + GOOD.encode(), ""),
        (b"\r\n\t " + GOOD.encode() + b"\n", ""),
        (MARK + b" \n" + GOOD.encode(), ""),
        (b" \n" + MARK + GOOD.encode(), ""),
        (("\u00a0\u2028" + GOOD).encode(), ""),
        (GOOD.encode(), "text/json"),
        (MARK + GOOD.encode(), "text/json; charset=utf-8"),
        (GOOD.encode(), "TEXT/JSON"),
        (GOOD.encode(), "application/x-json"),
        (GOOD.encode(), "application/vnd.api+json"),
        (GOOD.encode(), "text/vnd.mine+json"),
        (GOOD.encode("utf-16"), ""),
        (GOOD.encode("utf-16-le"), ""),
        (GOOD.encode("utf-16-be"), ""),
        (GOOD.encode("utf-32"), ""),
        (GOOD.encode("utf-16"), "application/json"),
        (codecs.BOM_UTF16_BE + GOOD.encode("utf-16-be"), "text/json"),
        (GOOD.encode(), FORM),
        (GOOD.encode(), "multipart/form-data; boundary=x"),
        (b"[" + GOOD.encode() + b"]", ""),
        (MARK + b'["good day"]', ""),
        (MARK + b"good day", "text/plain"),
        (MARK + b"good day", ""),
        (b"good day", "text/plain; charset=UTF8"),
        (b"good day", "text/plain; charset='utf-8'"),
        (b"good day", "text/plain; format=flowed; charset=us-ascii"),
        (b"good day", "text/markdown"),
    ],
)  # fmt: skip
def test_it_is_read_for_what_it_is(body: bytes, content_type: str) -> None:
    assert read_all(body, content_type) == ["good day"]


@pytest.mark.parametrize(
    ("body", "content_type", "code"),
    [
        (GOOD.encode()[:-1], "", 400),
        (GOOD.encode() + b"}", "", 400),
        (b"{'text': 'good day'}", "", 400),
        (b"{", "", 400),
        (b'["good day"', "", 400),
        (b'[{"text": "good day"},]', "", 400),
        (GOOD.encode() + b"\n" + GOOD.encode(), "", 400),
        (b'["good day"]\n["good day"]\n', "", 400),
        (GOOD.encode() + b"\n" + GOOD.encode(), "application/json", 400),
        (GOOD.encode() + b"\n" + GOOD.encode(), "application/x-ndjson", 415),
        (GOOD.encode(), "application/jsonl", 415),
        (b"\xff\xfe" + GOOD.encode(), "", 400),
        (GOOD.encode("utf-16-le")[:-1], "application/json", 400),
        ('{"text": "caf\u00e9"}'.encode("latin-1"), "", 400),
        ('{"text": "caf\u00e9"}'.encode("latin-1"), "application/json", 400),
        (b'{"text": ' + b"1" * 5000 + b"}", "", 400),
        (b'{"text": ' + b"[" * 100_000, "", 400),
        ("good day".encode("utf-16"), "", 400),
        ("good day".encode("utf-16-le"), "", 400),
        ("good day".encode("utf-16-be"), "text/plain", 400),
        ("good day".encode("utf-32"), "text/plain", 400),
        (b"good day", "text/plain; charset=utf-16", 415),
        (b"good day", "text/plain; charset=latin-1", 415),
        (b"good day", "text/plain; charset=windows-1252", 415),
        (GOOD.encode("utf-16"), "application/json; charset=utf-16", 415),
        (b"<p>good day</p>", "text/html", 415),
        (b"<text>good day</text>", "text/xml", 415),
        (b"<text>good day</text>", "application/xml", 415),
        (b"text\ngood day\n", "text/csv", 415),
        (b"\x80\x04\x95", "application/octet-stream", 400),
        (MARK, "", 422),
        (MARK, "text/plain", 422),
        (MARK + b"{}", "", 422),
    ],
)
def test_or_refused_in_a_sentence(body: bytes, content_type: str, code: int) -> None:
    assert read_all(body, content_type) == [code]


def test_a_text_in_brackets_stays_a_text() -> None:
    for text in ("[removed]", "{sigh} what a day", "[1] says who?", " [removed] ", '"quoted"'):
        assert read_all(text.encode()) == [text]
    assert read_all(GOOD.encode(), "text/plain") == [GOOD], "what is declared counts"


def test_a_form_in_a_file_may_begin_with_a_mark() -> None:
    found = request_bodies.read_form(MARK + b"text=good+day", FORM)
    assert not isinstance(found, Rejection)
    for fields in (found[0], {"\ufefftext": b"good day"}, {"text": MARK + b"good day"}):
        (row,) = read(fields, FORM, Limits()).rows
        assert isinstance(row, Row)
        assert row.text == "good day"
    (row,) = read({"text": b"caf\xe9"}, FORM + "; charset=latin-1", Limits()).rows
    assert isinstance(row, Rejection)
    assert row.code == 415


@pytest.mark.parametrize("encoding", ["gzip", "br", "GZIP", "deflate, gzip", "aws-chunked"])
def test_a_compressed_body_is_refused_as_one(encoding: str) -> None:
    sent = Arrival({"body": b"\x1f\x8b\x08"}, "application/json", content_encoding=encoding)
    (answered,) = reply(_service(), [sent])
    assert answered.status == 415
    assert json.loads(answered.body)["error"]["field"] == "Content-Encoding"


def test_an_identity_encoding_is_none() -> None:
    sent = Arrival({"body": b'""'}, "application/json", content_encoding=" identity ")
    assert reply(_service(), [sent])[0].status == 422


def tensors(**more: object) -> dict:
    return {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["good day"]}], **more}


@pytest.mark.parametrize("id", ["x" * (MOST_ID + 1), "x" * 2_000_000, "\ud800", "a\udfffb"])
def test_an_id_is_bounded_and_unicode(id: str) -> None:
    request = read({"body": tensors(id=id)}, "application/json", Limits())
    (row,) = request.rows
    assert isinstance(row, Rejection)
    assert (row.code, row.field, request.id) == (422, "id", None)
    by_grpc = read(
        {"body": json.dumps(tensors(id=id)).encode()}, "application/json", Limits(), base64_tensors=True
    )
    answered = by_grpc.wrap([row.answer()], {"name": "hate", "version": "1"}, ["a", "b"])
    assert len(as_json(answered)) < 2000


def test_a_usual_id_is_given_back() -> None:
    for id in ("", "seven", "\u2603" * MOST_ID):
        assert read({"body": tensors(id=id)}, "application/json", Limits()).id == id
    for id in (7, None, ["x"], {"x": "y" * 1000}):
        assert read({"body": tensors(id=id)}, "application/json", Limits()).id is None


def test_nothing_else_that_a_client_names_comes_back() -> None:
    loud = "\ud800" * 1000
    sent = tensors(parameters={"x": loud}, outputs=[{"name": loud}], model_name=loud, model_version=loud)
    sent["inputs"][0]["name"] = loud
    request = read({"body": sent}, "application/json", Limits())
    answer = request.wrap([{"label": "a", "scores": {"a": 1.0}}], {"name": "hate", "version": "1"}, ["a"])
    assert len(as_json(answer)) < 1000


def test_a_lone_surrogate_costs_no_more_than_itself() -> None:
    answer = {"token": "\ud800" + "é" * 1000}
    assert len(as_json(answer)) < 2100
    assert json.loads(as_json(answer)) == answer


def test_characters_are_bounded_by_request_too() -> None:
    texts = ["a" * 90] * 12
    assert read_all(texts, "application/json", max_request_characters=1080) == texts
    assert read_all(texts, "application/json", max_request_characters=1079) == [413]


def _service() -> Service:
    class Silent(Service):
        def __init__(self) -> None:
            self.limits = Limits()
            self.tally = type("Tally", (), {"add": lambda self, sums: None})()
            self.moments = (0.0, 0.0)  # no batch is timed

        def answer(self, requests):
            return [[row.answer() for row in request.rows] for request in requests]

        def wrap(self, request, answers):
            return answers[0]

    return Silent()
