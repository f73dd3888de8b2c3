"""Tables as other programs write them (CSV, JSONL, Parquet, plain text), read for training and for scoring.

A row that cannot be read says why and costs no other row; memory is bounded by bytes, whatever a file holds.
"""
