"""Variants measured through servers."""
