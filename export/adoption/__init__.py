"""Classifiers that were trained elsewhere, compared with transformers before anything is built."""
