"""How good a checkpoint is, what it can do, and what throws it off: `python -m training evaluate`.

The test split is read only when it is asked for, since what is decided by looking at it is no longer tested
by it. What does not apply to a checkpoint, single-label or multi-label, is left out.
"""
