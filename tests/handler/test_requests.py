import json

import pytest

from handler.errors import Rejection
from handler.requests import Limits, Request, read

LIMITS = Limits(max_texts=4, max_characters=100)
JSON = "application/json"


def rows(parameters: dict, content_type: str = JSON) -> list[str | Rejection]:
    return read(parameters, content_type, LIMITS).rows


@pytest.mark.parametrize(
    ("parameters", "content_type"),
    [
        ({"body": {"text": "good day"}}, JSON),
        ({"body": b'{"text": "good day"}'}, JSON + "; charset=utf-8"),
        ({"body": "good day"}, "text/plain"),
        ({"body": bytearray(b"good day")}, ""),
        ({"data": b"good day"}, ""),
        ({"text": b"good day"}, "application/x-www-form-urlencoded"),
        ({"body": b'"good day"'}, JSON + "; charset=utf-8"),
    ],
    ids=["object", "object-as-bytes", "plain", "file", "data", "form", "json-string"],
)
def test_one_text_is_read_in_every_documented_form(parameters: dict, content_type: str) -> None:
    request = read(parameters, content_type, LIMITS)
    assert (request.rows, request.envelope) == (["good day"], "one")


@pytest.mark.parametrize(
    ("body", "envelope"),
    [
        (["a", {"text": "b"}], "list"),
        ({"texts": ["a", "b"]}, "predictions"),
        ({"instances": [{"text": "a"}, "b"]}, "predictions"),
    ],
    ids=["list", "texts", "kserve-v1"],
)
def test_many_texts_are_read_and_answered_in_the_form_of_the_request(body: object, envelope: str) -> None:
    request = read({"body": body}, JSON, LIMITS)
    assert (request.rows, request.envelope) == (["a", "b"], envelope)


@pytest.mark.parametrize(
    ("parameters", "content_type", "code"),
    [
        ({}, "application/x-www-form-urlencoded", 422),
        ({"body": b"{bad"}, JSON, 400),
        ({"body": b"[" * 100_000}, JSON, 400),
        ({"body": b"\xff\xfe"}, "text/plain", 400),
        ({"body": {"txt": "a"}}, JSON, 422),
        ({"body": {"text": 3}}, JSON, 422),
        ({"body": {"text": None}}, JSON, 422),
        ({"body": {"text": ["a"]}}, JSON, 422),
        ({"body": {"texts": "a"}}, JSON, 422),
        ({"body": []}, JSON, 422),
        ({"body": " \n\t\u3000"}, "text/plain", 422),
        ({"body": "a" * 101}, "text/plain", 413),
        ({"body": ["a"] * 5}, JSON, 413),
    ],
    ids=[
        "plain-curl-d", "invalid-json", "deep-json", "not-utf8", "no-field", "number", "null", "list-in-text",
        "texts-not-list", "empty-list", "blank", "too-long", "too-many",
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_rejected_with_its_code_and_a_remedy(
    parameters: dict, content_type: str, code: int
) -> None:
    (row,) = rows(parameters, content_type)
    assert isinstance(row, Rejection)
    assert row.code == code
    assert row.remedy


def test_an_empty_row_names_the_forms_that_work() -> None:
    (row,) = rows({})
    assert isinstance(row, Rejection)
    for form in ("--json", "--data-urlencode", "--data-binary", "-T"):
        assert form in row.remedy


def test_a_bad_row_keeps_its_place_and_the_status_is_that_of_the_good_ones() -> None:
    request = read({"body": ["a", "", "c"]}, JSON, LIMITS)
    assert [isinstance(row, Rejection) for row in request.rows] == [False, True, False]
    answers = [row.answer() if isinstance(row, Rejection) else {"label": "x"} for row in request.rows]
    assert request.status(answers) == 200
    assert request.status(answers[1:2]) == 422


def test_a_rejection_repeats_nothing_that_the_client_wrote() -> None:
    secret = "zebra" * 30
    for body in (secret, {"text": secret}, {secret: secret}, [secret] * 9, {"texts": secret}):
        for row in read({"body": body}, JSON, LIMITS).rows:
            assert isinstance(row, Rejection)
            assert "zebra" not in json.dumps(row.answer())


def test_each_envelope_has_its_own_shape() -> None:
    answers = [{"label": "a"}, {"label": "b"}]
    assert Request([], "one").wrap(answers[:1]) == {"label": "a"}
    assert Request([], "list").wrap(answers) == answers
    assert Request([], "predictions").wrap(answers) == {"predictions": answers}
