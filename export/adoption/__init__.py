"""Classifiers that were trained elsewhere, held against transformers before anything is built."""
