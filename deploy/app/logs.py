"""Logs for machines: a line of JSON for each request, and for whatever else goes to stderr.

They hold no text, no key, and nothing that a client chose: of a path the template, of headers a trace's id.
"""

import io
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from datetime import UTC, datetime
from typing import Any, TextIO

from deploy.app.timing import Timing

FORMATS = TEXT, JSON = ("text", "json")


class JsonLines(io.TextIOBase):
    """A stream that writes one object a line to `stream`: `{"time": …, "message": …}` of what is printed."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._begun = ""

    def write(self, text: str) -> int:
        self._begun += text
        if self._begun.endswith("\n"):
            message, self._begun = self._begun.strip("\n"), ""
            if message:
                self.put({"message": message})
        return len(text)

    def flush(self) -> None:
        self._stream.flush()

    def put(self, fields: Mapping[str, Any]) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._stream.write(json.dumps({"time": now, **fields}, ensure_ascii=False) + "\n")


class RequestLog:
    """Watches requests."""

    def __init__(self, lines: JsonLines) -> None:
        self._lines = lines

    def begin(self, timing: Timing, headers: object) -> None:
        pass

    def end(self, timing: Timing, method: str, path: str | None) -> None:
        phases = {phase: _ms(seconds) for phase, seconds in timing.phases()}
        version = timing.model["version"] if timing.model else None
        self._lines.put(
            {
                "message": "request",
                "method": method,
                "path": path,
                "status": timing.status,
                "ms": _ms(timing.seconds),
                "phases_ms": phases,
                "texts": timing.texts,
                "model": timing.name or None,
                "version": version,
                "trace_id": timing.trace or None,
            }
        )


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 3)


@contextmanager
def logging_as(form: str) -> Iterator[RequestLog | None]:
    """`json`: stderr is lines of JSON in the block, and there is a log of requests; `text`: none of it."""
    if form != JSON:
        yield None
        return
    lines = JsonLines(sys.stderr)
    with redirect_stderr(lines):
        yield RequestLog(lines)
