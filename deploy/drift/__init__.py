"""Compares the traffic with validation."""
