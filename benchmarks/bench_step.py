"""Cost of each penalty and of the z-loss in a step of GPT-2 small: at most 2% over weight 0.

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
Case = tuple[str, float, float]
CASES: dict[str, Case] = {"weight 0": ("non_max_sum", 0.0, 0.0)}
CASES |= {name: (name, 0.01, 0.0) for name in PENALTIES}
CASES |= {"z-loss": ("non_max_sum", 0.0, 1e-4)}
"""Name -> penalty, its weight, the weight of the z-loss."""


def main() -> None:
    causal_lm = create_gpt2_model(max_seq_length=LENGTH)
    (optimizer,) = create_optimizers(causal_lm, TrainingConfig())
    generator = torch.Generator().manual_seed(0)
    ids_BT = torch.randint(50257, (BATCH, LENGTH), generator=generator)

    def step(case: Case, loss: str) -> float:
        penalty, weight, z_loss_weight = case
        model: Any = SharpnessLM(causal_lm, penalty=penalty, top_k=5, loss=loss)
        weights = {"penalty_weight": weight, "z_loss_weight": z_loss_weight}
        started = time.perf_counter()
        model(ids_BT, per_row=True, **weights).loss.backward()
        clip_gradients(causal_lm, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return time.perf_counter() - started

    rows = [(f"{name}, fused", (case, "fused")) for name, case in CASES.items()]
    rows += [("weight 0 again, fused", (CASES["weight 0"], "fused"))]
    rows += [("neg_entropy, reference", (CASES["neg_entropy"], "reference"))]
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
    z_loss = table["z-loss, fused"]["over weight 0, fused"]
    write_result(
        "step",
        "python benchmarks/bench_step.py",
        {
            "worst penalty over weight 0, at most 1.02": worst,
            "z-loss over weight 0, at most 1.02": z_loss,
            "cases": table,
        },
    )


if __name__ == "__main__":
    main()
