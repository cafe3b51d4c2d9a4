"""Cost of what may be added to the cross-entropy: at most 2% over plain cross-entropy.

    python benchmarks/bench_arms.py          # --small: a trial in seconds that writes nothing

Forward and backward of the fused loss at N = 1020, D = 768, V = 50257 in float32. Cases alternate,
and the result is the median over rounds of the ratio within a round, which cancels drift. The plain
cross-entropy runs a second time under another name: its distance from 1 shows the noise.
"""

import json
import statistics
import sys
import time

from bench_fused import inputs, loss_case
from record import spread, write_result

from sharpgpt.sharpness import fused

N, D, V, ROUNDS = 1020, 768, 50257, 20
PLAIN = "cross-entropy"
CASES = {
    name: loss_case(fused.linear_sharpness_loss, **how)
    for name, how in {
        PLAIN: {},
        "z-loss": {"z_loss_weight": 1e-4},
        "label smoothing": {"label_smoothing": 0.05},
        "soft cap": {"logit_softcap": 30.0},
        "all three": {"z_loss_weight": 1e-4, "label_smoothing": 0.05, "logit_softcap": 30.0},
        "cross-entropy again": {},
    }.items()
}


def main(arguments: list[str]) -> None:
    is_small = arguments == ["--small"]
    num_rows, width, vocab_size, num_rounds = (64, 32, 1000, 3) if is_small else (N, D, V, ROUNDS)
    given = inputs(num_rows, width, vocab_size)
    seconds: dict[str, list[float]] = {name: [] for name in CASES}
    for case in CASES.values():
        case(*given)  # warm-up
    for _ in range(num_rounds):
        for name, case in CASES.items():
            started = time.perf_counter()
            case(*given)
            seconds[name].append(time.perf_counter() - started)
    ratios = {
        name: round(statistics.median(a / b for a, b in zip(times, seconds[PLAIN], strict=True)), 4)
        for name, times in seconds.items()
    }
    results = {
        "shape": {"N": num_rows, "D": width, "V": vocab_size, "dtype": "float32"},
        "worst over cross-entropy, at most 1.02": max(
            ratio for name, ratio in ratios.items() if not name.startswith(PLAIN)
        ),
        "cases": {
            name: spread(times) | {"over cross-entropy": ratios[name]}
            for name, times in seconds.items()
        },
    }
    if is_small:
        print(json.dumps(results, indent=2))
    else:
        write_result("arms", "python benchmarks/bench_arms.py", results)


if __name__ == "__main__":
    main(sys.argv[1:])
