"""Profile one training step: a table of where the time goes, and a trace."""

from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from transformers import TrainerCallback

from common.commands import say

STEP = 10  # memory and kernels have settled
ROWS = 15


class Profile(TrainerCallback):
    """Profiles the `STEP`th step that it sees, or the last of a shorter run, into `place`: open it in
    chrome://tracing or Perfetto."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.running: Any = None
        self.seen = 0
        self.is_done = False

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seen += 1
        if not self.is_done and (self.seen == STEP or state.global_step == state.max_steps - 1):
            on_gpu = [ProfilerActivity.CUDA] if torch.cuda.is_available() else []
            self.running = profile(activities=[ProfilerActivity.CPU, *on_gpu], profile_memory=True)
            self.running.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.running:
            self.running.stop()
            by = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
            say(self.running.key_averages().table(sort_by=by, row_limit=ROWS, max_name_column_width=40))
            self.place.parent.mkdir(parents=True, exist_ok=True)
            self.running.export_chrome_trace(str(self.place))
            say(f"full trace of step {state.global_step}: {self.place}")
            self.running = None
            self.is_done = True
