"""Variants measured without a server, in worker processes."""
