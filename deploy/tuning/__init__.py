"""Finds the settings that suit a machine."""
