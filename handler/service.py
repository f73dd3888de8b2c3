"""From requests to answers, for any server: all rows of a batch are classified together.

A bad row gets its error in its place, and explanations come after the predictions.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from itertools import chain
from typing import Any

from handler.answers import Explanation, Model
from handler.cache import Cached, Known
from handler.errors import Rejection
from handler.explanations import default_target, explain, methods
from handler.metrics import Sums, Tally, counted_scores, length_bin, score_bin
from handler.predictor import Encoding, Prediction, Predictor
from handler.records import plain
from handler.requests import Limits, Options, Request, Row

Encoded = tuple[Row, Encoding | Known]

SHARED_S = 10.0  # so long after a text was classified, others are taken to wait for the next batch
LATE = Rejection(
    429,
    "text",
    "explaining the text takes longer than other requests can wait",
    "Send a shorter text, or try again when the server is less busy",
)


class _OutOfTimeError(Exception):
    """An explanation is given up, for the others' sake."""


class Service:
    """A Predictor behind limits. `model` is the answers' field of that name, `certificate` what describes how
    the artifact was proven."""

    def __init__(
        self,
        predictor: Predictor,
        limits: Limits,
        model: Model,
        tally: Tally,
        certificate: dict[str, Any] | None = None,
    ) -> None:
        self.predictor = predictor
        self.limits = limits
        self.model = model
        self.tally = tally
        self.certificate = certificate
        self.cached = Cached(predictor, limits.max_cached)
        self.methods = methods(predictor) if limits.max_explained else ()
        self.stand_back: Callable[[], None] | None = None  # called before each pass of an explanation
        # Called with each text, how its windows are combined, and its answer.
        self.observe: Callable[[str, str | None, Mapping[str, Any]], None] | None = None
        self._classified_at = float("-inf")
        # Of the last batch: when it was tokenised and classified, by `time.perf_counter`, and each request's
        # number of rows.
        self.moments = (0.0, 0.0)
        self.rows: Sequence[int] = ()
        self._counted = Sums(int)
        reference = predictor.artifact.meta.reference
        self._score_edges = reference.scores.edges
        self._lengths = reference.lengths.up_to
        tally.add({("classifier_self_check", predictor.self_check.status): 1})

    def answer(self, requests: Sequence[Request]) -> list[list[dict[str, Any]]]:
        """For each request the answers of its rows, in order. If it raises, nothing is counted."""
        self._counted = Sums(int)
        computed = self.predictor.computed_tokens
        begun = time.perf_counter()
        # One request after the other: what has too many windows is dropped before the next is tokenised.
        checked = [self._check(request, self._encode(request)) for request in requests]
        tokenised = time.perf_counter()
        pairs = [row for rows in checked for row in rows if not isinstance(row, Rejection)]
        following = iter(
            self.cached.classify(
                [encoding for _, encoding in pairs], [self._aggregate(row.options) for row, _ in pairs]
            )
        )
        self.moments = tokenised, time.perf_counter()
        self.rows = [len(request.rows) for request in requests]
        self._count("tokenise_seconds", tokenised - begun)
        self._count("model_seconds", self.moments[1] - tokenised)
        self._count("padded_tokens", self.predictor.computed_tokens - computed)
        deadlines = self._deadlines(requests)
        answers = [
            [
                self._reject(row)
                if isinstance(row, Rejection)
                else self._answer(request, row[0], next(following), deadline)
                for row in rows
            ]
            for request, rows, deadline in zip(requests, checked, deadlines, strict=True)
        ]
        self.tally.add(self._counted)
        if self.observe is not None:
            for row, answer in zip(chain(*checked), chain(*answers), strict=True):
                if not isinstance(row, Rejection) and "error" not in answer:
                    self.observe(row[0].text, self._aggregate(row[0].options), answer)
        return answers

    def wrap(self, request: Request, answers: list[dict[str, Any]]) -> dict[str, Any] | list[Any]:
        """The answers of a request's rows in the form that the client used."""
        return request.wrap(answers, self.model, self.predictor.artifact.labels)

    def describe(self) -> dict[str, Any]:
        """The served artifact with its proof, check and certificate, and this worker's settings."""
        artifact = self.predictor.artifact
        hidden = ("files", "reference", "schema")
        return {
            **{key: value for key, value in plain(artifact.meta).items() if key not in hidden},
            "model": self.model,
            "artifact_sha256": artifact.sha256,
            "self_check": {**asdict(self.predictor.self_check), "note": str(self.predictor.self_check)},
            "threads": self.predictor.threads,
            "limits": asdict(self.limits),
            "explanations": list(self.methods),
            "certificate": self.certificate,
        }

    def _encode(self, request: Request) -> list[Encoded | Rejection]:
        rows = [row for row in request.rows if isinstance(row, Row)]
        aggregates = [self._aggregate(row.options) for row in rows]
        encodings = iter(self.cached.encode([row.text for row in rows], aggregates))
        return [(row, next(encodings)) if isinstance(row, Row) else row for row in request.rows]

    def _check(self, request: Request, rows: list[Encoded | Rejection]) -> list[Encoded | Rejection]:
        """Rows that cannot be served, for their options or too many windows, become rejections."""
        left = self.limits.max_texts
        checked: list[Encoded | Rejection] = []
        for row in rows:
            if not isinstance(row, Rejection):
                windows = len(row[1].windows)
                refused = self._refuse(row[0].options, request.explain)
                if refused is None and windows > left:
                    message = f"the text has {windows:,} windows, but only {left:,} are left for this request"
                    refused = Rejection(413, "long", message, "Send shorter or fewer texts")
                row = refused or row
                left -= 0 if refused else windows
            checked.append(row)
        return checked

    def _deadlines(self, requests: Sequence[Request]) -> list[float]:
        """For each request the moment of `time.perf_counter` at which its explanations are given up. Where
        nothing was classified lately, the first request that is to be explained has all the time it takes."""
        now = time.perf_counter()
        never = float("inf")
        if self.stand_back is not None:
            return [never] * len(requests)
        if not all(request.explain for request in requests):
            self._classified_at = now
        deadlines = [now + self.limits.max_explained_ms / 1000] * len(requests)
        if deadlines and now - self._classified_at > SHARED_S:
            deadlines[0] = never  # all of them are to be explained
        return deadlines

    def _refuse(self, options: Options, explains: bool) -> Rejection | None:
        labels = self.predictor.artifact.labels
        if options.aggregate is not None and options.long != "chunks":
            return Rejection(422, "aggregate", "there is nothing to aggregate", 'Add "long": "chunks"')
        if options.aggregate == "max" and self._default_aggregate() == "mean":
            message = "max needs a positive label, and this model has none"
            return Rejection(422, "aggregate", message, "Choose mean, or serve a model with a positive label")
        if not explains:
            return None
        if options.long == "chunks":
            remedy = "Leave long out: then the part of the text that the model reads is explained"
            return Rejection(422, "long", "a text cannot be explained in windows", remedy)
        if options.method is not None and options.method not in self.methods:
            message = "the method is unknown, or needs gradients, which this variant does not have"
            return Rejection(422, "method", message, f"Choose {' or '.join(self.methods)}")
        if options.target is not None and options.target not in labels:
            return Rejection(422, "target", "the target is not a label", f"Choose {' or '.join(labels)}")
        return None

    def _aggregate(self, options: Options) -> str | None:
        """How to combine windows; None if only the first is read."""
        return (options.aggregate or self._default_aggregate()) if options.long == "chunks" else None

    def _default_aggregate(self) -> str:
        """The window that speaks most for the positive label counts, since one hateful paragraph makes a text
        hateful; so does, for each of several independent labels, the highest. Labels that exclude each other,
        none of which is the positive one, are averaged."""
        artifact = self.predictor.artifact
        return "max" if artifact.multi_label or artifact.positive_label else "mean"

    def _answer(self, request: Request, row: Row, prediction: Prediction, deadline: float) -> dict[str, Any]:
        answer: dict[str, Any] = {**self.predictor.answer(prediction)}
        if request.explain:
            try:
                answer["explanation"] = asdict(self._explain(row, prediction, deadline))
            except _OutOfTimeError:
                return self._reject(LATE)
        if request.logits and prediction.logits is not None:
            answer["logits"] = prediction.logits.tolist()
        self._count_answer(answer, prediction)
        return answer | {"model": self.model}

    def _explain(self, row: Row, prediction: Prediction, deadline: float) -> Explanation:
        begun = time.perf_counter()
        stood_back = 0.0

        def between() -> None:
            nonlocal stood_back
            since = time.perf_counter()
            if since >= deadline:
                raise _OutOfTimeError
            if self.stand_back is not None:
                counted = self._counted
                self.stand_back()  # other requests may be answered, and are counted on their own
                self._counted = counted
                stood_back += time.perf_counter() - since

        target = row.options.target or default_target(self.predictor, prediction.scores)
        method = row.options.method or self.methods[0]
        try:
            explanation = explain(self.predictor, row.text, target, method, between)
        finally:
            self._count("explain_seconds", time.perf_counter() - begun - stood_back)
        self._count("explained", 1, explanation.method)
        return explanation

    def _reject(self, row: Rejection) -> dict[str, Any]:
        self._count("rejected", 1, str(row.code), row.field)
        return row.answer()

    def _count(self, name: str, value: float = 1, *labels: str) -> None:
        self._counted[f"classifier_{name}", *labels] += value

    def _count_answer(self, answer: dict[str, Any], prediction: Prediction) -> None:
        artifact = self.predictor.artifact
        count = self._count
        count("texts")
        if prediction.remembered:
            count("cached")
        else:
            count("tokens", prediction.tokens)
        for model in self.predictor.models[1 : 1 + prediction.asked_again]:
            count("asked_again", 1, model.name)
        count("windows", prediction.windows)
        count("lengths", 1, length_bin(prediction.tokens, self._lengths))
        count("truncated", prediction.truncated)
        for label in answer.get("labels", [answer.get("label")]):
            count("labels", 1, label)
        if "decision" in answer:
            count("decisions", 1, answer["decision"])
        for label, score in counted_scores(artifact.labels, artifact.positive_label, prediction.scores):
            count("scores", 1, label, score_bin(score, self._score_edges))
