"""A TorchServe handler that does nothing: what the server itself costs, in time and in memory."""

from typing import Any


class BareHandler:
    """Answers at once, with no model."""

    def initialize(self, context: Any) -> None:
        pass

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[bytes]:
        return [b"{}\n"] * len(data)
