"""Training one model in several processes, started by torchrun.

`torchrun --nproc-per-node 2 -m training …` splits each batch evenly among the processes, so the batches are
those of a single process. Only the first process writes and prints.
"""

import contextlib
import os
from collections.abc import Iterator

from handler.errors import UserError


def is_first() -> bool:
    """Whether this process is the one that writes: the first, or the only one."""
    return int(os.environ.get("RANK", "0")) == 0


def count() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def check_batch(batch_size: int) -> None:
    """Refuse a batch that cannot be split evenly: gradients are the mean of the processes' means."""
    if batch_size % count():
        raise UserError(
            f"{count()} processes cannot share a batch evenly",
            seen=f"--batch-size {batch_size}",
            remedy=f"Give a multiple of {count()}",
        )


def meet() -> None:
    """Wait until all processes are here."""
    if count() > 1:
        import torch
        from accelerate import PartialState

        PartialState(cpu=not torch.cuda.is_available()).wait_for_everyone()


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Silence all processes but the first (errors excepted), and leave the process group at the end."""
    with contextlib.ExitStack() as stack:
        if not is_first():
            nowhere = stack.enter_context(open(os.devnull, "w"))  # noqa: PTH123 - not a path of ours
            stack.enter_context(contextlib.redirect_stderr(nowhere))
            stack.enter_context(contextlib.redirect_stdout(nowhere))
        yield
        if count() > 1:
            from accelerate import PartialState

            PartialState().destroy_process_group()
