"""Serving without TorchServe."""
