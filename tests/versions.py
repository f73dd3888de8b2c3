"""What not every version in the range can do: GPU machines bring their own torch and transformers, and no
TorchServe. Tests that need it are skipped there, and say why."""

import sys
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel


def skip_without_fp8_on_cpu() -> None:
    """torch 2.11 multiplies fp8 with a scale for each row on GPUs alone."""
    ones, scale = torch.ones(16, 16).to(torch.float8_e4m3fn), torch.ones(16, 1)
    try:
        torch._scaled_mm(ones, ones.T, scale_a=scale, scale_b=scale.T, out_dtype=torch.bfloat16)
    except RuntimeError:
        pytest.skip(f"torch {torch.__version__} has no product of fp8 by rows for CPUs")


def skip_without_pruned_heads() -> None:
    if not hasattr(PreTrainedModel, "prune_heads"):
        pytest.skip("transformers 5 cannot prune heads")


def skip_without_archiver() -> None:
    if not Path(sys.executable).with_name("torch-model-archiver").is_file():
        pytest.skip("torch-model-archiver is not installed")
