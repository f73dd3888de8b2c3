"""Tables as other programs write them (CSV, JSONL, Parquet, plain text), read for training and for scoring.

A row that cannot be read gives a reason, and the other rows are read; memory use is bounded for any file.
"""
