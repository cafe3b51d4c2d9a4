"""Attention of short blocks in bfloat16 on a CPU: ours beside PyTorch's kernel.

    python benchmarks/bench_attention.py

Forward and backward of the causal attention of one layer, with GPT-2 small's heads (12 of width 64)
at several lengths of 1,024 tokens together, and the character model's (12 blocks of 64, 4 heads of
width 32). Cases alternate; medians. PyTorch's kernel in float32 is there for scale.
"""

import statistics

import torch
import torch.nn.functional as F
from record import write_result
from timing import Case, alternating
from torch import Tensor, nn

from sharpgpt.model import attention

SHAPES = {
    "character model, 12 x 64": (12, 4, 64, 32),
    "GPT-2 small, 4 x 256": (4, 12, 256, 64),
    "GPT-2 small, 2 x 512": (2, 12, 512, 64),
    "GPT-2 small, 1 x 1024": (1, 12, 1024, 64),
}


def pytorch(*inputs: Tensor) -> Tensor:
    """PyTorch's kernel."""
    return F.scaled_dot_product_attention(*inputs, is_causal=True).transpose(1, 2)


def ours(*inputs: Tensor) -> Tensor:
    """The products of model/attention.py."""
    return attention.short_attention(nn.Module(), *inputs, None)[0]


def case(function: object, shape: tuple[int, ...], dtype: torch.dtype) -> Case:
    """Forward and backward."""
    inputs = [torch.randn(shape, dtype=dtype, requires_grad=True) for _ in range(3)]

    def run() -> None:
        output = function(*inputs)  # type: ignore[operator]
        torch.autograd.grad(output, inputs, torch.ones_like(output))

    return run


def main() -> None:
    attention.LONGEST_BLOCK = 1024
    tables = {}
    for name, shape in SHAPES.items():
        seconds = alternating(
            {
                "PyTorch's kernel, float32": case(pytorch, shape, torch.float32),
                "PyTorch's kernel, bfloat16": case(pytorch, shape, torch.bfloat16),
                "ours, bfloat16": case(ours, shape, torch.bfloat16),
            },
            torch.device("cpu"),
            rounds=30,
            warm_up=3,
        )
        tables[name] = {k: round(1e3 * statistics.median(v), 2) for k, v in seconds.items()}
    write_result(
        "attention",
        "python benchmarks/bench_attention.py",
        {"milliseconds of forward and backward": tables},
    )


if __name__ == "__main__":
    main()
