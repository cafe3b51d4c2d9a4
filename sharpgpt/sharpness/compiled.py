"""The row mathematics in eager mode, or through torch's compiler where that saves passes.

On a CPU the tiles of rows.py stay in the cache and are a few percent of the pass; compiling them
takes seconds and makes some penalties faster, others slower (benchmarks/bench_compiled.py), so they
run eagerly. On a GPU every operation is a pass over memory, so there the same function is compiled:
the compiler fuses the passes into a few reductions over the row and one write of the gradient.

The number of rows is dynamic: chunks differ in size by one. A penalty without a fast path runs
eagerly, since its functions may do what the compiler does not support.
`torch.compiler.set_stance("force_eager")` turns the compiler off.
"""

import functools
import importlib.util
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor

from sharpgpt.sharpness.penalties import find_penalty
from sharpgpt.sharpness.rows import tile_statistics

TileStatistics = Callable[..., Tensor]
"""`rows.tile_statistics`, or a function with the same arguments and result."""


def row_mathematics(device_type: str, penalty: str) -> TileStatistics:
    """What turns a tile of logits into statistics and gradient, on this kind of device."""
    if device_type == "cuda" and has_triton() and find_penalty(penalty).fast:
        return compiled_tile_statistics()
    return tile_statistics


def has_triton() -> bool:
    """Whether torch can compile for GPUs; on Windows and in some builds Triton is missing."""
    return importlib.util.find_spec("triton") is not None


@functools.cache
def compiled_tile_statistics() -> TileStatistics:
    """`tile_statistics`, compiled at its first use for each kind of argument."""
    return cast(TileStatistics, torch.compile(tile_statistics, dynamic=True))
