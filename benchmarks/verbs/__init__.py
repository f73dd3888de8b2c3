"""What `python -m benchmarks` does, and the options of each verb."""
