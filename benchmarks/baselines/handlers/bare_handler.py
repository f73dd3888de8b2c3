"""A TorchServe handler that does nothing: what the server itself costs, in time and in memory."""


class BareHandler:
    """Answers at once, with no model."""

    def initialize(self, context) -> None:
        pass

    def handle(self, data: list[dict], context) -> list[bytes]:
        return [b"{}\n"] * len(data)
