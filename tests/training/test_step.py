"""Which micro-batches a step has, and how many rows its gradient is a mean of."""

import contextlib
import itertools
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from sharpgpt.config import TrainingConfig
from sharpgpt.training.schedule import blocks_between, num_micro_batches_at
from sharpgpt.training.step import micro_batches, read_batches
from sharpgpt.training.train import train
from tests.run_reading import checkpoint_tensors

MakeConfig = Callable[..., TrainingConfig]


@pytest.mark.parametrize("world_size", [1, 2])
def test_steps_of_a_batch_warmup_follow_on_from_each_other(world_size: int) -> None:
    """No block is skipped or read twice, on any number of processes, also after a resume."""
    config = TrainingConfig(
        batch_size=3, gradient_accumulation_steps=8, batch_warmup_steps=6, batch_warmup_start=2,
        num_workers=0,
    )  # fmt: skip

    def blocks(first_sample: int, number: int, **of: int) -> Any:
        first = first_sample + (number * of["world_size"] + of["rank"]) * of["batch_size"]
        return list(range(first, first + of["batch_size"]))

    def steps_of(rank: int, first_step: int) -> list[list[int]]:
        run: Any = SimpleNamespace(
            config=config,
            progress=SimpleNamespace(
                step=first_step, next_block=blocks_between(0, first_step, config)
            ),
            processes=SimpleNamespace(rank=rank, world_size=world_size),
            plan=SimpleNamespace(total_steps=9),
            setup=SimpleNamespace(device=SimpleNamespace(torch_device=SimpleNamespace(type="cpu"))),
            train_blocks=SimpleNamespace(micro_batch=blocks),
            outputs=SimpleNamespace(
                profiler=SimpleNamespace(phase=lambda _: contextlib.nullcontext())
            ),
        )
        batches, found = micro_batches(run), []
        for run.progress.step in range(first_step, 9):
            run.num_micro_batches = num_micro_batches_at(run.progress.step, config)
            of_step, problem = read_batches(run, batches)
            assert problem is None
            found.append([block for batch in of_step for block in batch])
        assert next(batches, None) is None, "every micro-batch belongs to a step"
        return found

    def steps_of_all(first_step: int) -> list[list[int]]:
        ranks = (steps_of(rank, first_step) for rank in range(world_size))
        return [sorted(itertools.chain(*of_step)) for of_step in zip(*ranks, strict=True)]

    whole = steps_of_all(0)
    assert [len(step) for step in whole] == [6, 6, 12, 12, 18, 18, 24, 24, 24]
    assert list(itertools.chain(*whole)) == list(range(blocks_between(0, 9, config)))
    for first_step in (1, 3, 7):
        assert steps_of_all(first_step) == whole[first_step:]


@pytest.mark.usefixtures("quick_runs")
def test_a_step_is_the_mean_over_its_own_rows(
    tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first steps of a warm-up have one micro-batch of four: the run of one is the same.

    With a clock that ticks when it is read, so are its tokens in a second.
    """
    ticks = itertools.count()
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(ticks)))
    settings = {"max_steps": 3, "batch_size": 2, "dropout": 0.1, "num_generate_samples": 0}
    alone = train(tiny_config(**settings, run_name="alone"))
    warming = {"gradient_accumulation_steps": 4, "batch_warmup_steps": 1000}
    ours = train(tiny_config(**settings, **warming, run_name="warming"))
    assert ours.checkpoint is not None
    assert alone.checkpoint is not None
    expected = checkpoint_tensors(alone.checkpoint)
    for name, tensor in checkpoint_tensors(ours.checkpoint).items():
        assert tensor.equal(expected[name]), name
    assert ours.metrics["train/loss"] == alone.metrics["train/loss"]
    assert ours.metrics["train/tokens_per_s"] == alone.metrics["train/tokens_per_s"]
