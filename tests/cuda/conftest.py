"""What needs a GPU: skipped where there is none, and run by `make gpu` where there is one.

`SHARPGPT_TEST_DEVICE=cpu pytest tests/cuda` tries these tests themselves on a CPU.
"""

import os

import pytest
import torch


@pytest.fixture
def gpu() -> torch.device:
    """The device of these tests."""
    device = torch.device(os.environ.get("SHARPGPT_TEST_DEVICE", "cuda"))
    if device.type == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU, and a build of PyTorch that can use it")
    return device
