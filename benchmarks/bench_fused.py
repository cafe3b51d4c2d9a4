"""The fused loss against its three matrix products and other losses, alternating in one run.

    python benchmarks/bench_fused.py

At N = 2048, D = 768, V = 50257 in float32: three matrix products in the same chunks (what any
linear cross-entropy needs), PyTorch's F.linear_cross_entropy (no penalty) as it is called by
default, which is not chunked, and chunked, with options; the dense loss with each penalty, ours
with weight 0 and with each penalty. Then ours with the entropy penalty at other N, V. Forward and
backward together. The peak of extra memory is measured in a separate process for each
case: the resident set less the inputs and their gradients.

Targets (medians): every penalty at most 1.15 times the three products, at most 0.55 times the dense
entropy loss, at most 0.15 GB extra, and within 5% of our own plain cross-entropy.
"""

import importlib.util
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from record import spread, write_result
from torch import Tensor

from sharpgpt.sharpness import PENALTIES, fused, reference

N, D, V = 2048, 768, 50257
ROUNDS = 5  # the slow cases take part in every second one
WEIGHT = 0.1
Inputs = tuple[Tensor, Tensor, Tensor]


def inputs(
    num_rows: int,
    width: int,
    vocab_size: int,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Inputs:
    generator = torch.Generator().manual_seed(0)
    hidden_ND = torch.randn(num_rows, width, generator=generator).to(device, dtype)
    weight_VD = (torch.randn(vocab_size, width, generator=generator) * 0.05).to(device, dtype)
    target_N = torch.randint(vocab_size, (num_rows,), generator=generator)
    return (
        hidden_ND.requires_grad_(),
        weight_VD.requires_grad_(),
        target_N.to(device),
    )


@torch.no_grad()
def three_products(hidden_ND: Tensor, weight_VD: Tensor, _: Tensor) -> None:
    num_rows, vocab_size = len(hidden_ND), len(weight_VD)
    chunk = fused.default_chunk_size(num_rows, vocab_size, hidden_ND.device.type, hidden_ND.dtype)
    logits_CV = hidden_ND.new_empty(chunk, vocab_size)
    hidden_ND.grad, weight_VD.grad = torch.empty_like(hidden_ND), torch.zeros_like(weight_VD)
    for start in range(0, num_rows, chunk):
        rows_CD = hidden_ND[start : start + chunk]
        part_CV = torch.mm(rows_CD, weight_VD.T, out=logits_CV[: len(rows_CD)])
        hidden_ND.grad[start : start + chunk] = part_CV @ weight_VD
        weight_VD.grad.addmm_(part_CV.T, rows_CD)


def loss_case(loss: Callable[..., Any], **how: Any) -> Callable[[Tensor, Tensor, Tensor], None]:
    def run(hidden_ND: Tensor, weight_VD: Tensor, target_N: Tensor) -> None:
        hidden_ND.grad = weight_VD.grad = None
        loss(hidden_ND, weight_VD, target_N, **how).loss.backward()

    return run


def pytorch_case(options: Any) -> Callable[[Tensor, Tensor, Tensor], None]:
    def run(hidden_ND: Tensor, weight_VD: Tensor, target_N: Tensor) -> None:
        hidden_ND.grad = weight_VD.grad = None
        F.linear_cross_entropy(hidden_ND, weight_VD, target_N, options=options).backward()

    return run


def liger_case(device: torch.device) -> Callable[[Tensor, Tensor, Tensor], None] | None:
    """Liger-Kernel's fused linear cross-entropy as it is published; None where it cannot run."""
    if device.type != "cuda" or importlib.util.find_spec("liger_kernel") is None:
        return None
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    liger = LigerFusedLinearCrossEntropyLoss()

    def run(hidden_ND: Tensor, weight_VD: Tensor, target_N: Tensor) -> None:
        hidden_ND.grad = weight_VD.grad = None
        liger(weight_VD, hidden_ND, target_N).backward()

    return run


CASES: dict[str, Callable[[Tensor, Tensor, Tensor], None]] = {
    "three products": three_products,
    "ours, weight 0": loss_case(fused.linear_sharpness_loss),
    **{
        f"ours, {name}": loss_case(fused.linear_sharpness_loss, penalty=name, penalty_weight=WEIGHT)
        for name in PENALTIES
    },
    "F.linear_cross_entropy, no options: not chunked": pytorch_case(None),
    "F.linear_cross_entropy, options: chunked": pytorch_case(torch.nn.LinearCrossEntropyOptions()),
    "dense, weight 0": loss_case(reference.linear_sharpness_loss),
    **{
        f"dense, {name}": loss_case(
            reference.linear_sharpness_loss, penalty=name, penalty_weight=WEIGHT
        )
        for name in PENALTIES
    },
}


def resident_bytes() -> int:
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * 4096


def measure_memory(case: str) -> None:
    """In a process of its own: print the bytes of the peak above inputs and gradients."""
    given = inputs(N, D, V)
    small = inputs(8, D, 128)
    CASES[case](*small)  # libraries allocate their own things first
    before, peak, done = resident_bytes(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.is_set():
            peak = max(peak, resident_bytes())
            time.sleep(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    CASES[case](*given)
    done.set()
    watcher.join()
    gradients = sum(t.grad.nbytes for t in given[:2] if t.grad is not None)
    print(max(0, peak - before - gradients))


def extra_memory_bytes(case: str) -> int:
    command = [sys.executable, __file__, "--memory", case]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    given = inputs(N, D, V)
    seconds: dict[str, list[float]] = {name: [] for name in CASES}
    fast = {name: case for name, case in CASES.items() if not name.startswith(("dense", "F."))}
    for case in fast.values():
        case(*given)  # warm-up
    for number in range(ROUNDS):
        for name, case in (CASES if number % 2 == 0 else fast).items():
            started = time.perf_counter()
            case(*given)
            seconds[name].append(time.perf_counter() - started)
    median = {name: statistics.median(times) for name, times in seconds.items()}
    table = {
        name: spread(times)
        | {
            "over three products": round(median[name] / median["three products"], 3),
            "over dense, neg_entropy": round(median[name] / median["dense, neg_entropy"], 3),
            "over ours, weight 0": round(median[name] / median["ours, weight 0"], 3),
            "extra_memory_gb": round(extra_memory_bytes(name) / 1e9, 3),
        }
        for name, times in seconds.items()
    }
    ours = [table[f"ours, {name}"] for name in PENALTIES]
    targets = {
        "over three products, at most 1.15": max(row["over three products"] for row in ours),
        "over dense, neg_entropy, at most 0.55": max(
            row["over dense, neg_entropy"] for row in ours
        ),
        "over ours, weight 0, at most 1.05": max(row["over ours, weight 0"] for row in ours),
        "extra_memory_gb, at most 0.15": max(row["extra_memory_gb"] for row in ours),
    }
    growth = {}
    for num_rows, vocab_size in ((512, V), (1024, V), (2048, V), (2048, 65), (2048, 12800)):
        other = inputs(num_rows, D, vocab_size)
        times = []
        for _ in range(4):
            started = time.perf_counter()
            CASES["ours, neg_entropy"](*other)
            times.append(time.perf_counter() - started)
        growth[f"N={num_rows} V={vocab_size}"] = spread(times[1:])
    results = {
        "shape": {"N": N, "D": D, "V": V, "dtype": "float32", "penalty_weight": WEIGHT},
        "worst of our penalties": targets,
        "cases": table,
        "ours, neg_entropy, as N and V grow": growth,
    }
    write_result("fused", "python benchmarks/bench_fused.py", results)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--memory"]:
        measure_memory(sys.argv[2])
    else:
        main()
