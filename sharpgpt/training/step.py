"""One optimizer step: micro-batches, backward passes, clipping, the optimizers.

The gradient of a step is that of

    sum over all rows of the step
        (ce + penalty_weight * penalty + z_loss_weight * z_loss + label_smoothing * smoothing)
    / number of those rows

for any number of micro-batches and ranks. Shapes: B batch, T positions in a block.
"""

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from sharpgpt.core.errors import UserError
from sharpgpt.data.blocks import prefetched
from sharpgpt.training.optimizer import set_step_values
from sharpgpt.training.profiler import phase
from sharpgpt.training.schedule import StepValues, num_micro_batches_at
from sharpgpt.training.state import CannotContinueError, Training


def micro_batches(run: Training) -> Iterator[Tensor]:
    """This rank's batches of all remaining steps, prefetched, pinned for CUDA: int64 [B, T]."""
    return prefetched(_micro_batches(run), run.config.num_workers)


def _micro_batches(run: Training) -> Iterator[Tensor]:
    config, first_block, processes = run.config, run.progress.next_block, run.processes
    steps = range(run.progress.step, run.plan.total_steps)
    counts = (num_micro_batches_at(step, config) // processes.world_size for step in steps)
    pin = run.setup.device.torch_device.type == "cuda"
    # The blocks of a step follow on from those of the step before.
    for number, _ in enumerate(itertools.chain.from_iterable(map(range, counts))):
        batch_BT = run.train_blocks.micro_batch(
            first_block,
            number,
            batch_size=config.batch_size,
            rank=processes.rank,
            world_size=processes.world_size,
        )
        yield batch_BT.pin_memory() if pin else batch_BT


@phase("data")
def read_batches(
    run: Training, batches: Iterator[Tensor]
) -> tuple[list[Tensor], CannotContinueError | None]:
    """This rank's micro-batches of the next step, or why the text cannot be read."""
    num_batches = run.num_micro_batches // run.processes.world_size
    try:
        return [next(batches) for _ in range(num_batches)], None
    except (OSError, UserError) as error:
        return [], unreadable_text(run.progress.step + 1, "training", error)


def unreadable_text(step: int, split: str, error: Exception) -> CannotContinueError:
    """The error for a text that cannot be read."""
    return CannotContinueError(
        f"step {step}: the {split} text cannot be read ({error})",
        "Fix the file or the disk, then resume auto",
    )


def accumulate_gradients(
    run: Training, batches_of_step: Sequence[Tensor], penalty_weight: float
) -> Tensor:
    """Run the backward passes of one step's micro-batches; returns the step's loss, detached."""
    config, device, world_size = run.config, run.setup.device.torch_device, run.processes.world_size
    rows_of_step = run.num_blocks_of_step * (config.max_seq_length - 1)
    # The wrapper averages gradients over the ranks, so each divides by its share of the rows.
    normalizer: float | Tensor = rows_of_step / world_size
    # Compiled code is specialised to numbers, not to a tensor; the number 0 skips the penalty.
    if config.compile and config.batch_warmup_steps:
        normalizer = torch.tensor(normalizer, device=device)
    weight = torch.tensor(penalty_weight, device=device) if config.penalty_weight else 0.0
    model, profiler = run.model.data_parallel, run.outputs.profiler
    losses, entropies, control = [], [], run.progress.entropy_control
    for number, batch_BT in enumerate(batches_of_step, start=1):
        with profiler.phase("data"):
            input_ids_BT = batch_BT.to(device, non_blocking=True)
        with _gradient_sync(model, is_last=number == len(batches_of_step)):
            with profiler.phase("forward"), run.setup.device.autocast():
                output = model(
                    input_ids_BT,
                    penalty_weight=weight,
                    z_loss_weight=config.z_loss_weight,
                    label_smoothing=config.label_smoothing,
                    normalizer=normalizer,
                    per_row=True,
                )
            with profiler.phase("backward"):
                output.loss.backward()
        run.progress.window.add(
            output,
            penalty_weight,
            config.z_loss_weight,
            label_smoothing=config.label_smoothing,
        )
        losses.append(output.loss.detach())
        if control is not None:
            entropies.append(torch.stack([output.entropy * output.num_rows, output.num_rows]))
    loss = torch.stack(losses).sum()
    if control is None:
        return run.processes.all_reduce_sum(loss) / world_size
    sums = run.processes.all_reduce_sum(torch.stack([loss, *torch.stack(entropies).sum(0)]))
    control.measured = sums[1] / sums[2]
    return sums[0] / world_size


def _gradient_sync(model: Any, *, is_last: bool) -> AbstractContextManager[object]:
    """The ranks average their gradients in the last backward pass of a step only."""
    return contextlib.nullcontext() if is_last or not hasattr(model, "no_sync") else model.no_sync()


def clip_gradients(causal_lm: nn.Module, max_norm: float) -> Tensor:
    """Scale the gradients to a global norm of at most `max_norm` (0: do not); return the norm."""
    parameters = list(causal_lm.parameters())
    if max_norm > 0:
        return torch.nn.utils.clip_grad_norm_(parameters, max_norm)
    return torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])


@phase("optimizer")
def optimizer_step(run: Training, values: StepValues) -> None:
    """Change the weights."""
    set_step_values(run.model.optimizers, values)
    for optimizer in run.model.optimizers:
        optimizer.step()
