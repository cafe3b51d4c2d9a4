"""Which dtype is faster on this CPU: what `dtype: auto` measures before a run."""

import math
import time

import torch
import torch.nn.functional as F

from sharpgpt.sharpness.products import cpu_multiplies_bfloat16

LEAST_WIDTH = 64
"""Narrower models are too small to gain, or to measure."""

LEAST_GAIN = 1.2
"""bfloat16 must be so many times as fast: rounding is not given away for noise."""

MOST_ROWS = 256
MEASURE_S = 0.2


def faster_cpu_dtype(num_rows: int, *, width: int) -> tuple[str, str]:
    """(float32 or bfloat16, why), for a model of this width and micro-batches of `num_rows` tokens.

    Where the processor multiplies bfloat16, forward and backward passes of one feed-forward layer
    are timed in both, alternating; the fastest of each counts. CPU time of one thread is measured:
    what else the machine does hardly changes it.
    """
    if width < LEAST_WIDTH or not cpu_multiplies_bfloat16():
        return "float32", ""
    num_rows = min(num_rows, MOST_ROWS)
    with torch.random.fork_rng(devices=[]):
        hidden_ND = torch.randn(num_rows, width, requires_grad=True)
        up_FD = torch.randn(4 * width, width, requires_grad=True)
        down_DF = torch.randn(width, 4 * width, requires_grad=True)

    def seconds(dtype: torch.dtype) -> float:
        started = time.thread_time()
        with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
            wide_NF = F.gelu(F.linear(hidden_ND, up_FD), approximate="tanh")
            out_ND = F.linear(wide_NF, down_DF)
        torch.autograd.backward(out_ND, hidden_ND.detach().to(dtype))
        return time.thread_time() - started

    dtypes, num_threads = (torch.float32, torch.bfloat16), torch.get_num_threads()
    fastest = dict.fromkeys(dtypes, math.inf)
    torch.set_num_threads(1)
    try:
        for dtype in dtypes:
            seconds(dtype)  # the first call sets libraries up
        began = time.perf_counter()
        for repetition in range(10):
            for dtype in dtypes:
                fastest[dtype] = min(fastest[dtype], seconds(dtype))
            if repetition and time.perf_counter() - began > MEASURE_S:
                break
    finally:
        torch.set_num_threads(num_threads)
    gain = fastest[torch.float32] / fastest[torch.bfloat16]
    is_faster = gain >= LEAST_GAIN
    found = f"on this CPU a layer in bfloat16 is {gain:.1f} times as fast as in float32"
    return ("bfloat16", found) if is_faster else ("float32", found)
