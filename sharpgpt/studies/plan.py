"""What a study will cost, before anything is trained: runs, tokens, hours, memory, disk.

Each arm goes through the checks of a training, so that what would refuse its runs refuses the study
first. The time of a step is that of its micro-batches, forward and backward, measured on this
machine with the threads that a run will have; validation and samples are not counted.
"""

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, cast

import torch

from sharpgpt.config import TrainingConfig
from sharpgpt.core.errors import UserError
from sharpgpt.core.numbers import counted
from sharpgpt.core.processors import num_processors
from sharpgpt.runtime.console import clock
from sharpgpt.runtime.device import torch_settings_kept
from sharpgpt.runtime.memory import available_memory
from sharpgpt.studies.runs import StudyRun
from sharpgpt.training.build import build_model, load_training_data, loss_model
from sharpgpt.training.checks import Prospect
from sharpgpt.training.memory import GIB, explain_out_of_memory, memory_estimate
from sharpgpt.training.optimizer import state_bytes
from sharpgpt.training.schedule import blocks_between

NO_TIME = ("seed", "penalty_weight", "learning_rate", "weight_decay", "lr_schedule", "run_name",
           "warmup_steps", "min_lr_ratio", "max_steps", "num_epochs")  # fmt: skip
"""Settings in which arms may differ whose steps take the same time."""
PROCESS_BYTES = 0.6 * GIB
"""Of a training process beside its tensors: Python, torch and transformers."""


@dataclass(frozen=True)
class ArmPlan:
    """One run of an arm."""

    num_steps: int
    num_tokens: int
    num_parameters: int
    memory_bytes: float
    disk_bytes: float
    device: str
    """cpu, cuda or mps."""


@dataclass(frozen=True)
class StudyPlan:
    """All runs of a study."""

    arms: Mapping[str, ArmPlan]
    num_seeds: int
    num_left: int
    """Runs that are not finished."""
    workers: int
    num_threads: int
    """Of each run on a CPU."""
    seconds_left: float | None
    """None where the runs are not of this machine."""

    def to_dict(self) -> dict[str, Any]:
        """In JSON types, without what depends on the machine and the moment."""
        runs = len(self.arms) * self.num_seeds
        return {
            "num_runs": runs,
            "num_tokens": self.num_seeds * sum(arm.num_tokens for arm in self.arms.values()),
            "arms": {
                name: {
                    "num_steps": arm.num_steps,
                    "num_tokens": arm.num_tokens,
                    "num_parameters": arm.num_parameters,
                }
                for name, arm in self.arms.items()
            },
        }

    def text(self) -> str:
        """What `--plan` prints."""
        arms = self.arms.values()
        total = self.num_seeds * sum(arm.num_tokens for arm in arms)
        disk = self.num_seeds * sum(arm.disk_bytes for arm in arms)
        memory = self.workers * max(arm.memory_bytes for arm in arms)
        sizes = sorted({arm.num_parameters for arm in arms})
        steps = sorted({arm.num_steps for arm in arms})
        side_by_side, hours = "a job each", "not measured: the runs are on other machines"
        if self.seconds_left is not None:
            side_by_side = f"{self.workers} at a time"
            if all(arm.device == "cpu" for arm in arms):
                side_by_side += f", {counted(self.num_threads, 'thread')} each"
            hours = f"about {clock(self.seconds_left)}, {self.seconds_left / 3600:.2f} hours, "
            hours += "without validation and samples"
        return "\n".join(
            [
                f"runs     {counted(len(self.arms), 'arm')} x {counted(self.num_seeds, 'seed')}, "
                f"{self.num_left} to train, {side_by_side}",
                f"model    {_range(sizes, 'parameter')}, {_range(steps, 'step')}",
                f"tokens   {total:,}",
                f"time     {hours}",
                f"memory   about {memory / GIB:.2f} GiB",
                f"disk     about {disk / GIB:.2f} GiB of checkpoints",
            ]
        )


def make_plan(
    runs: Sequence[StudyRun], *, workers: int | None, is_dry: bool, is_here: bool = True
) -> StudyPlan:
    """The plan for these runs. A dry one prepares no dataset; `is_here`: on this machine.

    Raises:
        UserError: a run would be refused; the message names its arm.
    """
    # Without a name: what is in their folders is for the runs themselves to check.
    by_arm = {run.arm: _unnamed(run.config, is_here=is_here) for run in runs}
    with torch_settings_kept():
        arms = {arm: _plan_of(config, arm, is_dry=is_dry) for arm, config in by_arm.items()}
        left = [run for run in runs if not run.is_finished()]
        number = workers or _workers(list(arms.values()), len(left))
        cores = num_processors()
        num_threads = max(1, cores // number)
        seconds = _seconds(left, arms, num_threads) if is_here else None
    return StudyPlan(
        arms, len({run.seed for run in runs}), len(left), number, num_threads,
        seconds_left=None if seconds is None else seconds / min(number, max(1, len(left))),
    )  # fmt: skip


def _unnamed(config: TrainingConfig, *, is_here: bool = True) -> TrainingConfig:
    """A machine that submits jobs need not have their device."""
    settings = {**config.to_dict(), "run_name": None, "resume": None}
    return TrainingConfig.from_dict(settings if is_here else settings | {"device": "cpu"})


def _plan_of(config: TrainingConfig, arm: str, *, is_dry: bool) -> ArmPlan:
    try:
        with ExitStack() as stack, explain_out_of_memory(config) as memory:
            if not is_dry:
                load_training_data(config)  # which prepares a dataset, once for all runs
            found = Prospect(config, memory, stack, is_dry=True)
            found.check()
    except UserError as error:
        raise type(error)(f"arm {arm!r}: {error}") if type(error) is UserError else error from None
    num_blocks = blocks_between(0, found.num_steps, config)
    num_parameters = sum(parameter.numel() for parameter in found.causal_lm.parameters())
    checkpoint = 4.0 * num_parameters + state_bytes(found.causal_lm, config)
    saves = math.ceil(found.num_steps / (config.save_interval or found.num_steps or 1))
    kept = min(saves, config.keep_checkpoints) + (1 if saves > 1 else 0)
    sizes = memory_estimate(found.causal_lm, config, found.device)
    return ArmPlan(
        num_steps=found.num_steps,
        num_tokens=num_blocks * config.max_seq_length,
        num_parameters=num_parameters,
        memory_bytes=sum(sizes.values()) + PROCESS_BYTES,
        disk_bytes=kept * checkpoint,
        device=found.device.torch_device.type,
    )


def _workers(arms: Sequence[ArmPlan], num_left: int) -> int:
    """GPUs; on a CPU its cores, as far as the memory allows."""
    device = arms[0].device
    if device == "cuda":
        return max(1, min(torch.cuda.device_count(), num_left))
    if device != "cpu":
        return 1
    cores = num_processors()
    available = available_memory(torch.device("cpu"))
    fitting = cores
    if available:
        fitting = int(0.8 * available.num_bytes / max(arm.memory_bytes for arm in arms))
    return max(1, min(cores, fitting, num_left))


def _seconds(left: Sequence[StudyRun], arms: Mapping[str, ArmPlan], num_threads: int) -> float:
    """Of all runs that are left, one after the other."""
    measured: dict[str, float] = {}
    total = 0.0
    for run in left:
        settings = {n: v for n, v in run.config.to_dict().items() if n not in NO_TIME}
        key = repr(settings)
        if key not in measured:
            measured[key] = micro_batch_seconds(_unnamed(run.config), num_threads)
        arm = arms[run.arm]
        total += (
            measured[key] * arm.num_tokens / (run.config.batch_size * run.config.max_seq_length)
        )
    return total


def micro_batch_seconds(config: TrainingConfig, num_threads: int) -> float:
    """Seconds of the forward and backward pass of a micro-batch, the median of three."""
    with ExitStack() as stack, explain_out_of_memory(config) as memory:
        found = Prospect(config, memory, stack, is_dry=True)
        found.check()
        device = found.device.torch_device
        threads = torch.get_num_threads()
        if device.type == "cpu":
            torch.set_num_threads(num_threads)
            stack.callback(torch.set_num_threads, threads)
        causal_lm = build_model(config, found.data).to(device)
        model = loss_model(
            causal_lm, config, found.device, end_of_text_id=found.data.tokenizer.end_of_text_id
        )
        shape = (config.batch_size, config.max_seq_length)
        blocks = torch.randint(found.data.tokenizer.vocab_size, shape, device=device)
        seconds = []
        for _ in range(4):
            started = time.perf_counter()
            with found.device.autocast():
                loss = cast(Any, model)(blocks, penalty_weight=config.penalty_weight)
            loss.loss.backward()
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - started)
        del model, causal_lm, loss
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return statistics.median(seconds[1:])


def _range(values: Sequence[int], noun: str) -> str:
    last = counted(values[-1], noun)
    return last if values[0] == values[-1] else f"{values[0]:,} to {last}"
