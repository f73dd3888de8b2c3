"""Metrics, statistics, calibration and functional cases, for training and benchmarks alike."""
