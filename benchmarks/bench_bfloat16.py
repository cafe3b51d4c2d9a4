"""The fused loss in bfloat16 on a CPU that multiplies it: at most 1.25 times its three products.

    python benchmarks/bench_bfloat16.py

D = 768, V = 50257, N = 1020 (a micro-batch of 4 blocks of 256 tokens) and 2048. Cases alternate:
three matrix products in float32 and in bfloat16, in the chunks of the loss; ours in float32, and in
bfloat16 with weight 0 and each penalty; the dense loss under bfloat16 autocast. The weights are
float32 in every case of a loss, as in training, so each includes their cast. Figures are medians;
ratios are medians of the ratios within a round. Beside them, the rate of a square product in
both dtypes: their ratio bounds what bfloat16 can win on this machine.
"""

import statistics
import sys
from typing import Any

import torch
from bench_fused import Inputs, inputs, loss_case, three_products
from bench_peers import products_gflops
from record import spread, write_result
from timing import Case, alternating

from sharpgpt.sharpness import PENALTIES, fused, reference
from sharpgpt.sharpness.products import cpu_multiplies_bfloat16

D, V, ROUNDS = 768, 50257, 9
CPU, HALF = torch.device("cpu"), torch.bfloat16


def cases(num_rows: int) -> dict[str, Case]:
    """Name -> forward and backward of the same problem."""
    given = inputs(num_rows, D, V)
    rounded: Inputs = (given[0].detach().to(HALF), given[1].detach().to(HALF), given[2])
    how: dict[str, Any] = {"penalty_weight": 0.1, "product_dtype": HALF}
    dense = loss_case(reference.linear_sharpness_loss, penalty="neg_entropy", penalty_weight=0.1)

    def dense_autocast() -> None:
        with torch.autocast("cpu", dtype=HALF):
            dense(*given)

    plain = loss_case(fused.linear_sharpness_loss)
    half = loss_case(fused.linear_sharpness_loss, product_dtype=HALF)
    found: dict[str, Case] = {
        "three products, float32": lambda: three_products(*given),
        "three products, bfloat16": lambda: three_products(*rounded),
        "ours, float32, weight 0": lambda: plain(*given),
        "ours, bfloat16, weight 0": lambda: half(*given),
    }
    for name in PENALTIES:
        case = loss_case(fused.linear_sharpness_loss, penalty=name, **how)
        found[f"ours, bfloat16, {name}"] = lambda case=case: case(*given)  # type: ignore[misc]
    return found | {"dense, bfloat16, neg_entropy": dense_autocast}


def measure(num_rows: int) -> dict[str, Any]:
    """The table of one number of rows."""
    seconds = alternating(cases(num_rows), CPU, rounds=ROUNDS, warm_up=1)

    def over(name: str, other: str) -> float:
        pairs = zip(seconds[name], seconds[other], strict=True)
        return round(statistics.median(a / b for a, b in pairs), 3)

    return {
        name: spread(times)
        | {
            "over three products, bfloat16": over(name, "three products, bfloat16"),
            "over ours, float32": over(name, "ours, float32, weight 0"),
        }
        for name, times in seconds.items()
    }


def main() -> int:
    if not cpu_multiplies_bfloat16():
        print("This CPU has no instructions for bfloat16, so there is nothing to measure.")
        return 2
    tables = {f"N = {num_rows}": measure(num_rows) for num_rows in (1020, 2048)}
    worst = {
        size: max(
            table[f"ours, bfloat16, {name}"]["over three products, bfloat16"] for name in PENALTIES
        )
        for size, table in tables.items()
    }
    results = {
        "worst penalty over three products in bfloat16, at most 1.25": worst,
        "products of 2048 x 2048, GFLOP/s": products_gflops(),
        "cases": tables,
    }
    write_result("bfloat16", "python benchmarks/bench_bfloat16.py", results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
