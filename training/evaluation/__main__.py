"""`python -m training.evaluation`, as `python -m training evaluate` was called."""

from common.commands import run
from training.__main__ import PROGRAM

main = PROGRAM.moved_from("training.evaluation", "evaluate")

if __name__ == "__main__":
    run(main)
