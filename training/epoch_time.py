"""`python -m training.epoch_time`, as `python -m benchmarks.studies.epoch_time` was called."""

from collections.abc import Sequence
from importlib import import_module

from common.commands import run
from common.programs import moved

STUDY = "benchmarks.studies.epoch_time"


def main(argv: Sequence[str] | None = None) -> int:
    # By its name: training imports nothing of benchmarks.
    return moved("training.epoch_time", STUDY, import_module(STUDY).main)(argv)


if __name__ == "__main__":
    run(main)
