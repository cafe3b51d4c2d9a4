"""`dtype: auto` on a CPU."""

import time

import pytest
import torch

from sharpgpt.runtime import cpu_dtype
from sharpgpt.runtime.cpu_dtype import faster_cpu_dtype


@pytest.mark.parametrize("slower", ["float32", "bfloat16"])
def test_auto_takes_the_faster_one(slower: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this processor does: one of the two is made slow."""
    monkeypatch.setattr(cpu_dtype, "cpu_multiplies_bfloat16", lambda: True)
    gelu = torch.nn.functional.gelu

    def slow_gelu(input: torch.Tensor, **how: str) -> torch.Tensor:
        end = time.thread_time() + 0.02
        while str(input.dtype) == f"torch.{slower}" and time.thread_time() < end:
            pass
        return gelu(input, **how)

    monkeypatch.setattr(cpu_dtype.F, "gelu", slow_gelu)
    num_threads = torch.get_num_threads()
    name, reason = faster_cpu_dtype(64, width=64)
    assert name == {"float32": "bfloat16", "bfloat16": "float32"}[slower]
    assert "times as fast as in float32" in reason
    assert torch.get_num_threads() == num_threads


def test_a_cpu_without_the_instructions_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_dtype, "cpu_multiplies_bfloat16", lambda: False)
    assert faster_cpu_dtype(64, width=768) == ("float32", "")


def test_a_narrow_model_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_dtype, "cpu_multiplies_bfloat16", lambda: True)
    assert faster_cpu_dtype(64, width=32) == ("float32", "")
