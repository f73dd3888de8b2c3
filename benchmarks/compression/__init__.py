"""The search for the fastest combination of pruning, int8, re-check and first stage."""
