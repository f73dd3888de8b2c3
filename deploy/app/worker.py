"""A process of `--workers`: serves as the app does, at a port that others share."""

import argparse
import os
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace

from common.commands import run
from deploy.app.model import Opener
from deploy.app.server import serve
from deploy.app.workers import TASK


def end_with_the_parent() -> None:
    """Wait for the end of what it writes, which is its own. Not by `sys.stdin`: a lock of that would be held
    where the interpreter ends first."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def main(argv: Sequence[str] | None = None) -> int:
    argparse.ArgumentParser(prog="worker", description=__doc__).parse_args(argv)
    task = TASK.validate_json(sys.stdin.buffer.readline())
    threading.Thread(target=end_with_the_parent, name="parent", daemon=True).start()
    worker = replace(task.worker, told=os.dup(1))
    os.dup2(2, 1)  # whatever a runtime prints tells the parent nothing
    opener = Opener(worker.folder / worker.name, task.trusted_key)
    serve([opener.open(source) for source in task.sources], opener, task.settings, worker)
    return 0


if __name__ == "__main__":
    run(main)
