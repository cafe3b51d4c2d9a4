"""The row operations of the fused loss, eager and compiled, on this device.

    python benchmarks/bench_compiled.py

GPT-2's vocabulary in tiles of the size that the fused loss uses here; the two alternate.
sharpness/compiled.py chooses between them.
"""

import statistics
import time

import torch
from record import write_result

from sharpgpt.sharpness import PENALTIES
from sharpgpt.sharpness.compiled import compiled_tile_statistics
from sharpgpt.sharpness.fused import default_chunk_size, tile_rows
from sharpgpt.sharpness.rows import PADDING, RowFactors, padded_width, tile_statistics

VOCABULARY, NUM_ROWS, ROUNDS = 50257, 2048, 15


def main() -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    width = padded_width(VOCABULARY)
    chunk = default_chunk_size(NUM_ROWS, VOCABULARY, device.type)
    num_rows = tile_rows(chunk, width, device.type)
    generator = torch.Generator(device).manual_seed(0)
    logits_TW = 2 * torch.randn(num_rows, width, generator=generator, device=device)
    logits_TW[:, VOCABULARY:] = PADDING
    target_T = torch.randint(VOCABULARY, (num_rows,), generator=generator, device=device)
    factor_T = torch.full((num_rows,), 1 / NUM_ROWS, device=device)
    factors = RowFactors(factor_T, 0.1 * factor_T)
    scratch_2TW = torch.empty(2, num_rows, width, device=device)
    cases = {
        "plain": (tile_statistics, scratch_2TW),
        "compiled": (compiled_tile_statistics(), None),
    }

    def seconds(case: str, penalty: str) -> float:
        function, scratch = cases[case]
        tile_TW = logits_TW.clone()
        _wait(device)
        started = time.perf_counter()
        function(
            tile_TW, scratch, target_T, penalty=penalty, top_k=5, vocab_size=VOCABULARY,
            factors=factors,
        )  # fmt: skip
        _wait(device)
        return time.perf_counter() - started

    table = {}
    for penalty in PENALTIES:
        times: dict[str, list[float]] = {case: [] for case in cases}
        for case in cases:
            seconds(case, penalty)
        for _ in range(ROUNDS):
            for case in cases:
                times[case].append(seconds(case, penalty))
        medians = {case: statistics.median(values) for case, values in times.items()}
        table[penalty] = {
            f"{case}, ms for {num_rows} rows": round(1000 * value, 3)
            for case, value in medians.items()
        } | {"compiled over plain": round(medians["compiled"] / medians["plain"], 2)}
    write_result("compiled", "python benchmarks/bench_compiled.py", table)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
