"""How good a checkpoint is, what it can do, and what throws it off.

`python -m training evaluate` reads one split of a checkpoint's own data. The test split is read only when
it is asked for, since what is decided by looking at it is no longer tested by it.

    classifier     texts in, calibrated scores and labels out    pictures   SVG and PNG of the results
    figures        a split's figures with their intervals        page       the results as tables
    perturbations  ways to write that leave the meaning          card       the model card
    robustness     how scores and labels move under them         published  a file for others' scripts
    suite          pass rates by kind of case                    document   all of it, evaluation.json

Covers single-label and multi-label checkpoints; what does not apply to one is left out there. Leaves out:
formulas, cases and the comparison of two models (`training.measures`, `benchmarks`).
"""
