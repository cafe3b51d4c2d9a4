"""Time to read a training batch, relative to the training step: at most 1%.

    python benchmarks/bench_batches.py

The smallest step we ship a recipe for (configs/shakespeare_char_cpu.yaml, the hardest case: tens of
milliseconds) and GPT-2 small at 4 blocks of 256 tokens; random ids in a file, in the page cache.
For comparison, a memory map of the same file. A thread reads ahead of training (`num_workers`), so
this is an upper bound of the cost.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import REPOSITORY, write_result

from sharpgpt.config import TrainingConfig
from sharpgpt.data.blocks import TrainingBlocks
from sharpgpt.data.prepared import open_prepared
from sharpgpt.model.build import create_model
from sharpgpt.model.lm import SharpnessLM
from sharpgpt.training.optimizer import create_optimizers
from sharpgpt.training.step import clip_gradients

NUM_TOKENS, ROUNDS = 50_000_000, 300


def main() -> None:
    small = TrainingConfig.from_yaml(REPOSITORY / "configs" / "shakespeare_char_cpu.yaml")
    large = TrainingConfig(batch_size=4, max_seq_length=256)
    with tempfile.TemporaryDirectory() as folder:
        random = np.random.default_rng(0)
        for name, count in (("train", NUM_TOKENS), ("val", 10_000)):
            ids = random.integers(0, 65, count, dtype=np.uint16)
            ids.tofile(Path(folder) / f"{name}.bin")
        data = open_prepared(folder)
        assert data is not None
        mapped = np.memmap(Path(folder) / "train.bin", dtype="<u2", mode="r")
        table = {}
        for name, config, vocabulary, steps in (
            ("shakespeare_char_cpu", small, 65, 40),
            ("GPT-2 small, 4 x 256", large, 50257, 3),
        ):
            length, size = config.max_seq_length, config.batch_size
            ours = TrainingBlocks(data.train, length, seed=1)
            other = TrainingBlocks(mapped, length, seed=1)
            assert torch.equal(ours.batch(7, size), other.batch(7, size))
            read_s, map_s = alternating(
                lambda step, b=ours, n=size: b.batch(n * step, n),
                lambda step, b=other, n=size: b.batch(n * step, n),
            )
            step_s = step_seconds(config, vocabulary, ours, steps)
            table[name] = {
                "reading, us": round(1e6 * read_s, 1),
                "through a memory map, us": round(1e6 * map_s, 1),
                "step, ms": round(1e3 * step_s, 1),
                "reading over step": round(read_s / step_s, 5),
            }
    worst = max(row["reading over step"] for row in table.values())
    results = {"worst reading over step, at most 0.01": worst, "cases": table}
    write_result("batches", "python benchmarks/bench_batches.py", results)


def alternating(*readers: Callable[[int], object]) -> list[float]:
    """Median seconds of each, taking turns."""
    seconds: list[list[float]] = [[] for _ in readers]
    for step in range(ROUNDS):
        for reader, times in zip(readers, seconds, strict=True):
            started = time.perf_counter()
            reader(step)
            times.append(time.perf_counter() - started)
    return [statistics.median(times) for times in seconds]


def step_seconds(config: TrainingConfig, vocabulary: int, blocks: Any, steps: int) -> float:
    """Median seconds of a training step."""
    causal_lm = create_model(config, vocabulary, None)
    model = SharpnessLM(causal_lm, penalty="neg_entropy", top_k=5)
    optimizers = create_optimizers(causal_lm, config)
    times = []
    for step in range(steps):
        ids_BT = blocks.batch(step * config.batch_size, config.batch_size)
        started = time.perf_counter()
        model(ids_BT, penalty_weight=0.01, per_row=True).loss.backward()
        clip_gradients(causal_lm, 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


if __name__ == "__main__":
    main()
