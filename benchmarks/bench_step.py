"""Cost of each penalty in a training step of GPT-2 small: at most 2% over weight 0.

    python benchmarks/bench_step.py

Forward, backward, clipping and AdamW at batch 4 of 128 tokens, float32. Cases alternate, and the
result is the median over rounds of the ratio within a round, which cancels drift. Weight 0 runs a
second time under another name: its distance from 1 shows the noise.
"""

import statistics
import time
from typing import Any

import torch
from record import spread, write_result

from sharpgpt.config import TrainingConfig
from sharpgpt.model.build import create_gpt2_model
from sharpgpt.model.lm import SharpnessLM
from sharpgpt.sharpness import PENALTIES
from sharpgpt.training.optimizer import create_optimizers
from sharpgpt.training.step import clip_gradients

BATCH, LENGTH, ROUNDS = 4, 128, 20
CASES = {"weight 0": ("non_max_sum", 0.0)} | {name: (name, 0.01) for name in PENALTIES}


def main() -> None:
    causal_lm = create_gpt2_model(max_seq_length=LENGTH)
    (optimizer,) = create_optimizers(causal_lm, TrainingConfig())
    generator = torch.Generator().manual_seed(0)
    ids_BT = torch.randint(50257, (BATCH, LENGTH), generator=generator)

    def step(penalty: str, weight: float, loss: str) -> float:
        model: Any = SharpnessLM(causal_lm, penalty=penalty, top_k=5, loss=loss)
        started = time.perf_counter()
        model(ids_BT, penalty_weight=weight, per_row=True).loss.backward()
        clip_gradients(causal_lm, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return time.perf_counter() - started

    rows = [(f"{name}, fused", (*case, "fused")) for name, case in CASES.items()]
    rows += [("weight 0 again, fused", ("non_max_sum", 0.0, "fused"))]
    rows += [("neg_entropy, reference", ("neg_entropy", 0.01, "reference"))]
    for _, case in rows:
        step(*case)
    seconds: dict[str, list[float]] = {name: [] for name, _ in rows}
    for _ in range(ROUNDS):
        for name, case in rows:
            seconds[name].append(step(*case))
    plain = seconds["weight 0, fused"]
    table = {
        name: spread(times)
        | {
            "over weight 0, fused": round(
                statistics.median(a / b for a, b in zip(times, plain, strict=True)), 4
            ),
            "tokens_per_s": round(BATCH * LENGTH / statistics.median(times), 1),
        }
        for name, times in seconds.items()
    }
    worst = max(table[f"{name}, fused"]["over weight 0, fused"] for name in PENALTIES)
    write_result(
        "step",
        "python benchmarks/bench_step.py",
        {"worst penalty over weight 0, at most 1.02": worst, "cases": table},
    )


if __name__ == "__main__":
    main()
