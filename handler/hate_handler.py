"""The TorchServe handler of every variant: batches of requests in, one JSON answer each.

TorchServe loads this file from the root of the archive and wants exactly one class in it. All work is
done by the Predictor; this class turns requests into texts, texts into answers, and keeps a bad row from
harming its neighbours. It logs no text.
"""

import json
import logging
import sys
from http import HTTPStatus
from pathlib import Path

from handler.errors import Rejection, UserError
from handler.predictor import Predictor
from handler.requests import Limits, read

logger = logging.getLogger(__name__)


class HateHandler:
    """`initialize` once per worker, `handle` once per batch of up to `batchSize` requests."""

    def initialize(self, context) -> None:
        """Load the artifact in the archive and warm every shape, so that the first request is a usual one."""
        folder = Path(context.system_properties["model_dir"])
        settings = (context.model_yaml_config or {}).get("handler", {})
        self.limits = Limits(
            settings.get("maxTexts", Limits.max_texts), settings.get("maxCharacters", Limits.max_characters)
        )
        try:
            self.predictor = Predictor.load(folder / "artifact", threads=settings.get("threads") or None)
        except UserError as error:
            # TorchServe hides what a worker logs below warnings; what it writes to stderr is kept.
            print(f"the model did not load: {error}", file=sys.stderr, flush=True)
            raise
        shapes = self.predictor.warm()
        model = context.manifest["model"]
        artifact = self.predictor.artifact
        self.model = {"name": model["modelName"], "version": model["modelVersion"], "variant": artifact.name}
        logger.info(
            "%s is ready: %d shapes warmed, %d threads", artifact.name, shapes, self.predictor.threads
        )

    def handle(self, data: list[dict], context) -> list[bytes]:
        """One UTF-8 JSON answer per request, in order; statuses of single rows are set on `context`."""
        requests = [read(row, _content_type(context, index), self.limits) for index, row in enumerate(data)]
        answers = iter(self._answer([row for request in requests for row in request.rows]))
        bodies = []
        for index, request in enumerate(requests):
            rows = [next(answers) for _ in request.rows]
            status = request.status(rows)
            context.set_response_status(status, HTTPStatus(status).phrase, index)
            context.set_response_content_type(index, "application/json")
            bodies.append((json.dumps(request.wrap(rows), ensure_ascii=False) + "\n").encode())
        return bodies

    def _answer(self, rows: list[str | Rejection]) -> list[dict]:
        """Answers of all rows of all requests, predicted together."""
        predictions = iter(self.predictor.predict([row for row in rows if isinstance(row, str)]))
        return [
            row.answer()
            if isinstance(row, Rejection)
            else {**self.predictor.answer(next(predictions)), "model": self.model}
            for row in rows
        ]


def _content_type(context, index: int) -> str:
    """The media type of the body: TorchServe records it under the body's own name."""
    headers = context.get_all_request_header(index)
    part = headers.get("body") or headers.get("data") or {}
    declared = part.get("content-type", "") if isinstance(part, dict) else ""
    return (declared or headers.get("Content-Type") or headers.get("content-type") or "").lower()
