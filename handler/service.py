"""From requests to answers, whatever the server: all rows of a batch are classified together.

A bad row is answered with its error in its own place, and explanations come after the predictions. Covers
options, limits and what is counted. Leaves out how requests arrive (`requests`) and TorchServe
(`hate_handler`).
"""

import time
from collections.abc import Sequence
from dataclasses import asdict

from handler.errors import Rejection
from handler.explanations import default_target, explain, methods
from handler.metrics import Tally, length_bin, positive_scores, score_bin
from handler.predictor import Encoding, Prediction, Predictor
from handler.requests import Limits, Options, Request, Row

Encoded = tuple[Row, Encoding]


class Service:
    """A Predictor behind limits. `model` is the answers' field of that name."""

    def __init__(self, predictor: Predictor, limits: Limits, model: dict[str, str], tally: Tally) -> None:
        self.predictor, self.limits, self.model, self.tally = predictor, limits, model, tally
        self.methods = methods(predictor)
        reference = predictor.artifact.meta["reference"]
        self._score_edges = reference["scores"]["edges"]
        self._lengths = reference["lengths"]["up_to"]

    def answer(self, requests: Sequence[Request]) -> list[list[dict]]:
        """For each request the answers of its rows, in order."""
        begun, computed = time.perf_counter(), self.predictor.computed_tokens
        texts = [row.text for request in requests for row in request.rows if isinstance(row, Row)]
        encodings = iter(self.predictor.encode(texts))
        tokenised = time.perf_counter()
        checked = [
            self._check(
                request, [(row, next(encodings)) if isinstance(row, Row) else row for row in request.rows]
            )
            for request in requests
        ]
        pairs = [row for rows in checked for row in rows if not isinstance(row, Rejection)]
        predictions = self.predictor.classify(
            [encoding for _, encoding in pairs], [self._aggregate(row.options) for row, _ in pairs]
        )
        self.tally.add("classifier_tokenise_seconds", tokenised - begun)
        self.tally.add("classifier_model_seconds", time.perf_counter() - tokenised)
        self.tally.add("classifier_padded_tokens", self.predictor.computed_tokens - computed)
        following = iter(predictions)
        return [
            [
                self._reject(row)
                if isinstance(row, Rejection)
                else self._answer(request, row[0], next(following))
                for row in rows
            ]
            for request, rows in zip(requests, checked, strict=True)
        ]

    def describe(self) -> dict:
        """What is served: the artifact with its proof and check, and what this worker makes of it."""
        artifact = self.predictor.artifact
        hidden = ("files", "reference", "schema")
        return {
            **{key: value for key, value in artifact.meta.items() if key not in hidden},
            "model": self.model,
            "artifact_sha256": artifact.sha256,
            "threads": self.predictor.threads,
            "limits": asdict(self.limits),
            "explanations": list(self.methods),
        }

    def _check(self, request: Request, rows: list[Encoded | Rejection]) -> list[Encoded | Rejection]:
        """Rows whose options cannot be served here become rejections, and so do windows beyond the limit."""
        windows = 0
        checked: list[Encoded | Rejection] = []
        for row in rows:
            if not isinstance(row, Rejection):
                refused = self._refuse(row[0].options, request.explain)
                windows += len(row[1].windows) if row[0].options.long == "chunks" else 1
                if refused is None and windows > self.limits.max_texts:
                    most = self.limits.max_texts
                    message = f"read whole, the request has more than {most:,} windows"
                    refused = Rejection(413, "long", message, "Send shorter texts, or fewer of them")
                row = refused or row
            checked.append(row)
        return checked

    def _refuse(self, options: Options, explains: bool) -> Rejection | None:
        labels = self.predictor.artifact.labels
        if options.aggregate == "max" and self._aggregate(Options(long="chunks")) == "mean":
            message = f"of {len(labels)} labels that exclude each other, the largest scores make no answer"
            return Rejection(422, "aggregate", message, "Choose mean")
        if not explains:
            return None
        if options.long == "chunks":
            remedy = "Leave long out: what the model reads of a longer text is explained"
            return Rejection(422, "long", "a text is not explained in windows", remedy)
        if options.method is not None and options.method not in self.methods:
            message = f"{options.method} needs gradients, which this variant does not have"
            return Rejection(422, "method", message, f"Choose {' or '.join(self.methods)}")
        if options.target is not None and options.target not in labels:
            return Rejection(422, "target", "the target is none of the labels", f"Name {' or '.join(labels)}")
        return None

    def _aggregate(self, options: Options) -> str | None:
        """How windows are put together; None where only the first is read.

        Of two labels the window that speaks most for the second counts, since one hateful paragraph makes a
        text hateful; so does, for each of several independent labels, the highest. Three and more that
        exclude each other are averaged.
        """
        if options.long != "chunks":
            return None
        artifact = self.predictor.artifact
        exclusive = artifact.task == "single-label" and len(artifact.labels) > 2
        return options.aggregate or ("mean" if exclusive else "max")

    def _answer(self, request: Request, row: Row, prediction: Prediction) -> dict:
        answer = self.predictor.answer(prediction)
        self._count(answer, prediction)
        if request.explain:
            target = row.options.target or default_target(self.predictor, prediction.scores)
            explanation = explain(self.predictor, row.text, target, row.options.method or self.methods[0])
            answer["explanation"] = asdict(explanation)
            self.tally.add("classifier_explained", 1, explanation.method)
        return answer | {"model": self.model}

    def _reject(self, row: Rejection) -> dict:
        self.tally.add("classifier_rejected", 1, str(row.code), row.field)
        return row.answer()

    def _count(self, answer: dict, prediction: Prediction) -> None:
        artifact, add = self.predictor.artifact, self.tally.add
        add("classifier_texts")
        add("classifier_tokens", prediction.tokens)
        add("classifier_windows", prediction.windows)
        add("classifier_lengths", 1, length_bin(prediction.tokens, self._lengths))
        if prediction.truncated:
            add("classifier_truncated")
        for label in answer.get("labels", [answer.get("label")]):
            add("classifier_labels", 1, label)
        for label, score in positive_scores(artifact.labels, artifact.task, prediction.scores):
            add("classifier_scores", 1, label, score_bin(score, self._score_edges))
