"""The client libraries that people have get the Predictor's labels and scores, and errors they can read."""

from collections.abc import Iterator

import numpy as np
import pytest

from deploy.app.counters import Counters
from deploy.app.keys import Keys
from deploy.app.model import Model
from handler.predictor import Predictor
from tests.asking import wait_until
from tests.deploy.app.test_application import App, running

KEY = "correct-horse-battery"


@pytest.fixture(scope="module")
def predictor(build_once) -> Predictor:
    return Predictor(build_once("openvino-int8"))


@pytest.fixture(scope="module")
def texts(source) -> list[str]:
    return source.dataset.splits["test"].texts[:40]


@pytest.fixture(scope="module")
def app(build_once) -> Iterator[App]:
    counted = Counters()
    model = Model(build_once("openvino-int8"))
    with running(model, lambda: model.load(counted), counted, keys=Keys.of([KEY], "here")) as found:
        wait_until(lambda: found.batcher.is_ready)
        yield found


@pytest.fixture(scope="module")
def expected(predictor: Predictor, texts: list[str]) -> list[tuple[str, dict[str, float]]]:
    """Labels and scores; both labels are given."""
    answers = [predictor.answer(prediction) for prediction in predictor.predict(texts)]
    assert {answer["label"] for answer in answers} == {"hate", "not-hate"}
    return [(answer["label"], answer["scores"]) for answer in answers]


class TestOpenAI:
    @pytest.fixture
    def client(self, app: App):
        openai = pytest.importorskip("openai", reason="pip install openai")
        return openai.OpenAI(base_url=f"http://127.0.0.1:{app.port}/v1", api_key=KEY, max_retries=0)

    def test_categories_are_the_labels_and_the_thresholds_flag(self, client, texts, expected) -> None:
        together = client.moderations.create(input=texts).results
        alone = [client.moderations.create(input=text).results for text in texts[:3]]
        assert [result.model_dump() for (result,) in alone] == [
            result.model_dump() for result in together[:3]
        ]
        for result, (label, scores) in zip(together, expected, strict=True):
            assert result.flagged == (label == "hate") == result.categories.hate
            assert result.category_scores.hate == scores["hate"]
            assert result.categories.to_dict() == {name: name == label for name in scores}
            assert result.category_scores.to_dict() == scores

    def test_the_model_is_the_served_one_by_its_name_or_one_of_theirs(self, client) -> None:
        for name in ("hate", "omni-moderation-latest", "text-moderation-stable"):
            assert client.moderations.create(input="good day", model=name).model == "hate"
        part = [{"type": "text", "text": "good day"}]
        assert client.moderations.create(input=part).results[0].flagged in (True, False)

    def test_errors_are_the_clients_own_exceptions(self, client, app: App) -> None:
        import openai

        picture = [{"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}]
        for given, kind, words in (
            ({"input": ""}, openai.UnprocessableEntityError, "the text is empty. Send a text"),
            ({"input": ["a", ""]}, openai.UnprocessableEntityError, "text 2: the text is empty"),
            ({"input": []}, openai.UnprocessableEntityError, "neither a string nor a list"),
            ({"input": picture}, openai.UnprocessableEntityError, "images are not supported"),
            ({"input": "a", "model": "gpt"}, openai.NotFoundError, "no such model"),
            ({"input": ["a"] * 129}, openai.APIStatusError, "has 129 texts, but the limit is 128"),
            ({"input": "a" * 100_001}, openai.APIStatusError, "has 100,001 characters"),
        ):
            with pytest.raises(kind, match=words):
                client.moderations.create(**given)
        with pytest.raises(openai.AuthenticationError, match="the request has no valid key"):
            client.with_options(api_key="wrong").moderations.create(input="a")


class TestHuggingFace:
    @pytest.fixture(params=["", "/", "/predict"])
    def client(self, app: App, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch):
        """Tests are offline, of which the library knows no exception for this machine."""
        hub = pytest.importorskip("huggingface_hub", reason="pip install huggingface-hub")
        end_sessions = getattr(hub.utils, "reset_sessions", None) or hub.close_session
        with monkeypatch.context() as patch:
            patch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
            end_sessions()
            yield hub.InferenceClient(f"http://127.0.0.1:{app.port}{request.param}", token=KEY)
        end_sessions()

    def test_labels_are_ranked_by_their_scores(self, client, texts, expected) -> None:
        for text, (label, scores) in zip(texts[:10], expected[:10], strict=True):
            ranked = client.text_classification(text)
            assert [(each.label, each.score) for each in ranked] == sorted(
                scores.items(), key=lambda item: -item[1]
            )
            assert client.text_classification(text, top_k=1) == ranked[:1]
            assert ranked[0].label == label, "the threshold of this model is about a half"

    def test_raw_scores_are_the_models_logits(self, client, texts, predictor: Predictor) -> None:
        logits = predictor.logits(predictor.encode(texts[:5], [False] * 5))
        for text, row in zip(texts[:5], logits, strict=True):
            raw = {
                each.label: each.score for each in client.text_classification(text, function_to_apply="none")
            }
            assert list(raw.values()) == sorted(raw.values(), reverse=True)
            assert [raw["not-hate"], raw["hate"]] == pytest.approx(row.tolist(), abs=1e-6)

    def test_errors_are_told(self, client, app: App) -> None:
        import huggingface_hub

        for text, options, words in (
            ("", {}, "the text is empty. Send a text"),
            ("a", {"function_to_apply": "sigmoid"}, "Choose softmax or none"),
            ("a", {"top_k": -1}, "top_k is not a count"),
        ):
            with pytest.raises(Exception, match=words):
                client.text_classification(text, **options)
        stranger = huggingface_hub.InferenceClient(client.model, token="wrong")
        with pytest.raises(Exception, match="the request has no valid key"):
            stranger.text_classification("a")


class TestTriton:
    @pytest.fixture
    def triton(self):
        return pytest.importorskip("tritonclient.http", reason="pip install 'tritonclient[http]'")

    @pytest.fixture
    def client(self, app: App, triton) -> Iterator[object]:
        """A plugin of the client's own sends the key."""
        from tritonclient._plugin import InferenceServerClientPlugin

        class Key(InferenceServerClientPlugin):
            def __call__(self, request) -> None:
                request.headers["authorization"] = f"Bearer {KEY}"

        with triton.InferenceServerClient(f"127.0.0.1:{app.port}") as found:
            found.register_plugin(Key())
            yield found

    def tensor(self, triton, texts: list[str], binary: bool = True):
        tensor = triton.InferInput("text", [len(texts)], "BYTES")
        rows = np.array([text.encode() for text in texts], dtype=object)
        tensor.set_data_from_numpy(rows, binary_data=binary)
        return [tensor]

    def test_health_and_metadata(self, client) -> None:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("hate")
        assert client.is_model_ready("hate", "1.0")
        assert not client.is_model_ready("nope")
        assert not client.is_model_ready("hate", "2.0")
        assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
        described = client.get_model_metadata("hate")
        assert (described["name"], described["versions"], described["platform"]) == (
            "hate",
            ["1.0"],
            "openvino",
        )
        assert described["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1]}]
        assert [output["name"] for output in described["outputs"]] == ["label", "scores", "answer"]

    @pytest.mark.parametrize("sent_binary", [True, False])
    @pytest.mark.parametrize("named", [None, True, False])
    def test_tensors_come_in_binary_or_json(
        self, triton, client, texts, expected, sent_binary: bool, named: bool | None
    ) -> None:
        asked = None
        if named is not None:
            asked = [triton.InferRequestedOutput(name, binary_data=named) for name in ("scores", "label")]
        version = "1.0" if sent_binary else ""
        result = client.infer(
            "hate", self.tensor(triton, texts, sent_binary), version, outputs=asked, request_id="7"
        )
        labels = [label.decode() if isinstance(label, bytes) else label for label in result.as_numpy("label")]
        assert labels == [label for label, _ in expected]
        assert result.as_numpy("scores").tolist() == [list(scores.values()) for _, scores in expected]
        assert (result.as_numpy("answer") is None) == (named is not None)
        assert result.get_response()["id"] == "7"
        assert len(result.get_response()["outputs"]) == (3 if named is None else 2)

    def test_errors_are_told(self, triton, client) -> None:
        numbers = triton.InferInput("text", [1], "FP32")
        numbers.set_data_from_numpy(np.zeros(1, np.float32))
        good = self.tensor(triton, ["good day"])
        for inputs, name, output, words in (
            (good, "nope", None, r"\[404\] no such model"),
            (self.tensor(triton, [""]), "hate", None, r"\[422\] the text is empty. Send a text"),
            ([numbers], "hate", None, r"\[422\] the tensor's datatype is not BYTES"),
            (good, "hate", triton.InferRequestedOutput("x"), r"\[422\] outputs is not a list of this"),
            (good, "hate", triton.InferRequestedOutput("scores", class_count=2), r"\[422\] .*classification"),
        ):
            with pytest.raises(triton.InferenceServerException, match=words):
                client.infer(name, inputs, outputs=[output] if output else None)

    def test_without_the_key_nothing_is_answered(self, app: App, triton) -> None:
        with triton.InferenceServerClient(f"127.0.0.1:{app.port}") as stranger:
            assert stranger.is_server_ready()
            assert not stranger.is_model_ready("hate")
            with pytest.raises(
                triton.InferenceServerException, match=r"\[401\] the request has no valid key"
            ):
                stranger.infer("hate", self.tensor(triton, ["good day"]))
