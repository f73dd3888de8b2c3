"""Packaging, publishing and verifying archives."""
