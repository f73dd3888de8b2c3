import json
import re

import pytest

from handler.errors import Rejection, UserError
from handler.requests import Limits, Options, Request, Row, read

LIMITS = Limits(max_texts=4, max_characters=100, max_explained=2)
JSON = "application/json"
LABELS = ["not-hate", "hate"]
MODEL = {"name": "hate", "version": "1.0", "variant": "fp32"}


def rows(parameters: dict, content_type: str = JSON) -> list[Row | Rejection]:
    return read(parameters, content_type, LIMITS).rows


def texts(request: Request) -> list[str | Rejection]:
    return [row.text if isinstance(row, Row) else row for row in request.rows]


def tensor(data: object, **changes: object) -> dict:
    """A KServe v2 request."""
    size = len(data) if isinstance(data, list) else 1
    return {"inputs": [{"name": "text", "shape": [size], "datatype": "BYTES", "data": data} | changes]}


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
        ({"body": b'{"text": "good day"}'}, "application/problem+json"),
        ({"body": b'{"text": "good day"}'}, ""),
        ({"data": b' {"text": "good day"}'}, "application/octet-stream"),
        ({"body": b"good day"}, 'text/plain; charset="UTF-8"'),
    ],
    ids=[
        "object",
        "object-as-bytes",
        "plain",
        "file",
        "data",
        "form",
        "json-string",
        "json-suffix",
        "untyped-json",
        "octet-stream-json",
        "charset",
    ],
)
def test_one_text_is_read_in_every_documented_form(parameters: dict, content_type: str) -> None:
    request = read(parameters, content_type, LIMITS)
    assert (texts(request), request.envelope) == (["good day"], "one")


def test_an_untyped_body_that_only_looks_like_json_is_text() -> None:
    for body in (b"[removed]", b"{sigh}", b"[" * 50):
        request = read({"body": body}, "", LIMITS)
        assert texts(request) == [body.decode()]


@pytest.mark.parametrize(
    ("body", "envelope"),
    [
        (["a", {"text": "b"}], "list"),
        ({"texts": ["a", "b"]}, "predictions"),
        ({"instances": [{"text": "a"}, "b"]}, "predictions"),
        (tensor(["a", "b"]), "v2"),
        (tensor([["a"], ["b"]], shape=[2, 1]), "v2"),
    ],
    ids=["list", "texts", "kserve-v1", "kserve-v2", "kserve-v2-nested"],
)
def test_many_texts_are_read_and_answered_in_the_form_of_the_request(body: object, envelope: str) -> None:
    request = read({"body": body}, JSON, LIMITS)
    assert (texts(request), request.envelope) == (["a", "b"], envelope)


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
        ({"body": b"\x89PNG"}, "image/png", 415),
        ({"body": b"good day"}, "text/plain; charset=utf-16", 415),
        ({"body": {"text": "a", "long": "short"}}, JSON, 422),
        ({"body": {"text": "a", "long": 3}}, JSON, 422),
        ({"body": {"texts": ["a"], "aggregate": "sum"}}, JSON, 422),
        ({"text": b"a", "long": b"\xff"}, "multipart/form-data; boundary=x", 422),
        ({"body": {"inputs": []}}, JSON, 422),
        ({"body": {"inputs": "a"}}, JSON, 422),
        ({"body": tensor([1.5], datatype="FP32")}, JSON, 422),
        ({"body": tensor(["a"], shape=[2])}, JSON, 422),
        ({"body": tensor(["a"], shape=[10**400, 0])}, JSON, 422),
        ({"body": tensor("a")}, JSON, 422),
        ({"body": {"inputs": [{"name": "x"}, {"name": "y"}]}}, JSON, 422),
        ({"body": tensor(["a"]) | {"parameters": {"long": "short"}}}, JSON, 422),
        ({"body": tensor(["a"]) | {"parameters": [1]}}, JSON, 422),
    ],
    ids=[
        "plain-curl-d", "invalid-json", "deep-json", "not-utf8", "no-field", "number", "null", "list-in-text",
        "texts-not-list", "empty-list", "blank", "too-long", "too-many", "image", "utf-16", "option",
        "option-number", "option-of-many", "option-of-form", "v2-empty", "v2-no-list", "v2-numbers",
        "v2-shape", "v2-huge-shape", "v2-no-data", "v2-which", "v2-option",
        "v2-parameters",
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
    assert Request([], "one").wrap(answers[:1], MODEL, LABELS) == {"label": "a"}
    assert Request([], "list").wrap(answers, MODEL, LABELS) == answers
    assert Request([], "predictions").wrap(answers, MODEL, LABELS) == {"predictions": answers}


def test_kserve_v2_is_answered_in_tensors_with_errors_in_their_places() -> None:
    request = read({"body": tensor(["a", ""]) | {"id": "seven"}}, JSON, LIMITS)
    good = {"label": "hate", "scores": {"not-hate": 0.25, "hate": 0.75}}
    bad = {"error": {"code": 422}}
    answer = request.wrap([good, bad], MODEL, LABELS)
    assert isinstance(answer, dict)
    assert answer | {"outputs": None} == {
        "model_name": "hate", "model_version": "1.0", "id": "seven", "outputs": None,
    }  # fmt: skip
    label, scores, whole = answer["outputs"]
    assert (label["shape"], label["data"]) == ([2], ["hate", ""])
    assert (scores["shape"], scores["data"]) == ([2, 2], [0.25, 0.75, 0.0, 0.0])
    assert json.loads(scores["parameters"]["labels"]) == LABELS
    assert [json.loads(answer) for answer in whole["data"]] == [good, bad]
    assert request.wrap([bad, bad], MODEL, LABELS) == bad
    assert request.status([bad, bad]) == 422


def test_options_stand_with_the_text_or_texts_or_in_parameters() -> None:
    chunks = {"long": "chunks", "aggregate": "mean"}
    expected = Options(long="chunks", aggregate="mean")
    for body in (
        {"text": "a"} | chunks,
        {"texts": ["a"]} | chunks,
        {"texts": [{"text": "a"} | chunks]},
        [{"text": "a"} | chunks],
        tensor(["a"]) | {"parameters": chunks},
    ):
        (row,) = rows({"body": body})
        assert isinstance(row, Row)
        assert row.options == expected
    (row,) = rows({"text": b"a", "long": b"chunks", "aggregate": b"mean"})
    assert isinstance(row, Row)
    assert row.options == expected


def test_a_row_may_have_options_of_its_own() -> None:
    first, second = rows({"body": {"texts": ["a", {"text": "b", "long": "truncate"}], "long": "chunks"}})
    assert isinstance(first, Row)
    assert isinstance(second, Row)
    assert (first.options.long, second.options.long) == ("chunks", "truncate")


def test_fields_that_are_called_like_options_of_explanations_are_left_alone() -> None:
    for other in ({"target": 1}, {"method": "retweet"}, {"target": None}, {"long": None}):
        (row,) = rows({"body": {"text": "a"} | other})
        assert isinstance(row, Row)
        assert row.options.long == "truncate"


@pytest.mark.parametrize("data", [["IA=="], ["!"], [7], []], ids=["blank", "no-base64", "number", "none"])
def test_model_infer_is_always_answered_in_tensors(data: list) -> None:
    """TorchServe reads nothing else there: an error of another form would end its worker."""
    body = json.dumps(tensor(data) | {"id": "x"}).encode()
    request = read({"body": body}, JSON, LIMITS, base64_tensors=True)
    answers = [row.answer() for row in request.rows if isinstance(row, Rejection)]
    assert len(answers) == 1
    answer = request.wrap(answers, MODEL, LABELS)
    assert request.status(answers) == 200
    assert isinstance(answer, dict)
    assert answer["id"] == "x"
    assert json.loads(answer["outputs"][2]["data"][0]) == answers[0]


def test_fewer_texts_are_explained_than_classified() -> None:
    request = read({"body": ["a"] * 3}, JSON, LIMITS, explain=True)
    (row,) = request.rows
    assert isinstance(row, Rejection)
    assert row.code == 413
    assert read({"body": ["a"] * 2}, JSON, LIMITS, explain=True).explain


def test_nothing_is_cached_unless_asked_for() -> None:
    assert Limits.of({}).max_cached == Limits.of({"maxCached": 0}).max_cached == 0
    assert Limits.of({"maxCached": 9}).max_cached == 9
    with pytest.raises(UserError, match="maxCached is not a count of 0 or more"):
        Limits.of({"maxCached": -1})


@pytest.mark.parametrize("setting", ["maxTexts", "maxExplainedMs", "maxRequestCharacters"])
def test_limits_that_are_no_counts_are_refused(setting: str) -> None:
    field = re.sub("[A-Z]", lambda letter: f"_{letter[0].lower()}", setting)
    assert getattr(Limits.of({setting: 7, "threads": 2}), field) == 7
    for value in (0, -1, 0.5, "128", True, None):
        with pytest.raises(UserError, match=f"{setting} is not a count of 1 or more"):
            Limits.of({setting: value})
