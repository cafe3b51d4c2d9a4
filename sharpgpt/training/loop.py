"""The training loop: micro-batches, one optimizer step, and what is due after it.

Everything a step needs stands in `Training`; `run_steps` is the loop itself. A step is

    gradient of  sum over all rows of the step (ce + weight * penalty) / number of those rows

whatever the number of micro-batches. `step` counts finished steps, among them those that were left
out because a number in them was not finite. Checkpoints are taken between two steps, so a run that
goes on from one is the run that was never stopped, bit for bit on a CPU.

Shapes: B batch, T positions in a block.
"""

import contextlib
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sharpgpt.core.errors import UserError
from sharpgpt.data.blocks import prefetched
from sharpgpt.runs.checkpoint_files import load_tensors, random_states, set_random_states
from sharpgpt.runtime.signals import StopSignal
from sharpgpt.training.after_step import do_due_work, is_due, log_training, work_due
from sharpgpt.training.anomalies import MAX_ROLLBACKS, Verdict
from sharpgpt.training.optimizer import set_learning_rate
from sharpgpt.training.schedule import learning_rate_at, penalty_weight_at
from sharpgpt.training.state import CannotGoOnError, RunEndedError, Training


def run_steps(run: Training, stop: StopSignal) -> None:
    """Train until `total_steps`, or until a signal asks to stop; save in either case.

    Raises:
        RunEndedError: a number that is not finite, or a text that cannot be read. The weights
            before that step are saved.
        UserError: the last checkpoint cannot be written.
    """
    try:
        train_until(run, stop)
    except CannotGoOnError as error:
        zero_gradients(run)
        run.window.drop_step()
        where = f"; the weights after step {run.step} are saved"
        try:
            if saved := save_last(run):
                where = f"; the weights after step {run.step} are in {saved}"
        except UserError as not_saved:
            raise RunEndedError(f"{error.reason}. {not_saved}") from error
        raise RunEndedError(f"{error.reason}{where}. {error.advice}") from error
    save_last(run)


def save_last(run: Training) -> Path | None:
    """Save the checkpoint that the run ends with; where it is, in the first process.

    Raises:
        UserError: it cannot be written.
    """
    state = run.state()
    if run.processes.is_main:
        run.log.records.flush()
        run.saver.save_last(state, run.after_step())
    return run.saver.last_saved


def train_until(run: Training, stop: StopSignal) -> None:
    """The loop. Raises `CannotGoOnError` between two steps, with everything as before the next."""
    config = run.config
    batches = prefetched(micro_batches(run), config.num_workers)
    do_due_work(run, stop)  # what a signal broke off, in a run that is resumed
    while run.step < run.total_steps:
        started = time.perf_counter()
        batches_of_step, problem = read_batches(run, batches)
        if run.stops(stop, problem):
            return
        learning_rate = learning_rate_at(run.step, run.total_steps, config)
        penalty_weight = penalty_weight_at(run.step, run.total_steps, config)
        loss = accumulate_gradients(run, batches_of_step, penalty_weight)
        grad_norm = clip_gradients(run.causal_lm, config.max_grad_norm)
        verdict = judge(run, loss, grad_norm)
        if verdict is Verdict.ROLL_BACK:
            batches = prefetched(micro_batches(run), config.num_workers)
            continue
        if verdict is Verdict.TAKE:
            set_learning_rate(run.optimizers, learning_rate)
            for optimizer in run.optimizers:
                optimizer.step()
        zero_gradients(run)
        run.end_step(started, is_taken=verdict is Verdict.TAKE)
        if is_due(run, config.log_interval) or run.step == 1:
            log_training(run, learning_rate, penalty_weight, grad_norm)
        run.terminal.advance(run.step)
        run.due = work_due(run)
        do_due_work(run, stop)
        if is_due(run, config.save_interval) and run.step < run.total_steps:
            save(run, stop)


def save(run: Training, stop: StopSignal) -> None:
    """Save while training goes on; where a signal has come, `run_steps` saves at once."""
    state = run.state()
    if run.processes.is_main and stop.number is None:
        run.log.records.flush()
        run.saver.save(state, run.after_step())


def micro_batches(run: Training) -> Iterator[Tensor]:
    """This process's batches of all steps that are left, pinned for CUDA: int64 [B, T]."""
    config, first_block, processes = run.config, run.next_block, run.processes
    num_batches = (run.total_steps - run.step) * config.gradient_accumulation_steps
    pin = run.device.torch_device.type == "cuda"
    for number in range(num_batches // processes.world_size):
        batch_BT = run.train_blocks.micro_batch(
            first_block,
            number,
            batch_size=config.batch_size,
            rank=processes.rank,
            world_size=processes.world_size,
        )
        yield batch_BT.pin_memory() if pin else batch_BT


def read_batches(
    run: Training, batches: Iterator[Tensor]
) -> tuple[list[Tensor], CannotGoOnError | None]:
    """This process's micro-batches of the next step, or why the text cannot be read."""
    num_batches = run.config.gradient_accumulation_steps // run.processes.world_size
    try:
        return [next(batches) for _ in range(num_batches)], None
    except (OSError, UserError) as error:
        return [], CannotGoOnError(
            f"step {run.step + 1}: the training text cannot be read ({error})",
            "Mend the file or the disk, then resume auto",
        )


def accumulate_gradients(
    run: Training, batches_of_step: Sequence[Tensor], penalty_weight: float
) -> Tensor:
    """Backward passes of one step's micro-batches; returns the loss of the step, detached."""
    config, device, world_size = run.config, run.device.torch_device, run.processes.world_size
    run.random_before_step = random_states(device)
    num_micro_batches = config.gradient_accumulation_steps
    rows_per_step = num_micro_batches * config.batch_size * (config.max_seq_length - 1)
    # The wrapper averages gradients over the processes; so each divides by its share of the rows.
    normalizer = rows_per_step / world_size
    # A tensor, since compiled code is specialised to numbers; the number 0 leaves the penalty out.
    weight = torch.tensor(penalty_weight, device=device) if config.penalty_weight else 0.0
    losses = []
    for number, batch_BT in enumerate(batches_of_step, start=1):
        input_ids_BT = batch_BT.to(device, non_blocking=True)
        with summed_gradients(run.trained, now=number == len(batches_of_step)):
            with run.device.autocast():
                output = run.trained(
                    input_ids_BT, penalty_weight=weight, normalizer=normalizer, per_row=True
                )
            output.loss.backward()
        run.window.add(output, penalty_weight)
        losses.append(output.loss.detach())
    return run.processes.all_reduce_sum(torch.stack(losses).sum()) / world_size


def summed_gradients(trained: Any, *, now: bool) -> AbstractContextManager[object]:
    """Whether the processes sum their gradients in this backward pass; the last one of a step."""
    return contextlib.nullcontext() if now or not hasattr(trained, "no_sync") else trained.no_sync()


def clip_gradients(causal_lm: nn.Module, max_norm: float) -> Tensor:
    """Scale the gradients to a global norm of at most `max_norm` (0: do not); return the norm."""
    parameters = list(causal_lm.parameters())
    if max_norm > 0:
        return torch.nn.utils.clip_grad_norm_(parameters, max_norm)
    return torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])


def zero_gradients(run: Training) -> None:
    """Forget the gradients."""
    for optimizer in run.optimizers:
        optimizer.zero_grad()


def judge(run: Training, loss: Tensor, grad_norm: Tensor) -> Verdict:
    """Whether the optimizer takes the step (`Watch`); after ROLL_BACK the run is rolled back.

    This waits for the device once per optimizer step, which is the price of stopping in time.

    Raises:
        CannotGoOnError: a number is not finite, and the policy is to stop.
    """
    loss_value, norm_value = torch.stack([loss.float(), grad_norm.float()]).tolist()
    watch, step = run.watch, run.step + 1
    figures = f"the loss is {loss_value} and the gradient norm {norm_value}"
    num_spikes = watch.num_loss_spikes
    verdict = watch.judge(loss_value, norm_value)
    if verdict is Verdict.STOP:
        set_random_states(run.random_before_step, run.device.torch_device)
        skipped = watch.num_skipped_in_a_row
        raise CannotGoOnError(
            f"step {step}: {figures}. The step was not taken"
            + (f", after {skipped} skipped ones in a row" if skipped else ""),
            "Try a lower learning_rate, more warmup_steps, a lower max_grad_norm, a penalty_weight "
            "nearer 0, or dtype float32; on_nonfinite: skip leaves such steps out",
        )
    if verdict is Verdict.SKIP and watch.num_skipped_in_a_row == 1:
        run.terminal.say(f"NOTE: step {step} is skipped: {figures}")
    if watch.num_loss_spikes > num_spikes:
        limit = watch.spike_limit()
        run.terminal.say(f"NOTE: loss spike at step {step}: {loss_value:.4f}, above {limit:.4f}")
    if verdict is Verdict.ROLL_BACK and not roll_back(run):
        watch.take(loss_value)
        return Verdict.TAKE
    return verdict


def roll_back(run: Training) -> bool:
    """Return to the newest checkpoint, and pass over the batches since; False if there is none."""
    run.saver.wait()
    try:
        checkpoint = run.saver.folder.newest(set_aside=True)
    except UserError as error:
        run.terminal.say(f"NOTE: no rollback: {error}")
        return False
    if checkpoint is None:
        run.terminal.say("NOTE: no rollback, since there is no checkpoint yet")
        return False
    if not run.watch.may_roll_back_to(checkpoint.state.step):
        run.terminal.say(
            f"NOTE: no rollback, since there were {MAX_ROLLBACKS} to {checkpoint.path.name} already"
        )
        return False
    next_block = run.next_block + run.facts.blocks_per_step
    load_tensors(checkpoint.path, run.causal_lm, run.optimizers, run.device.torch_device)
    zero_gradients(run)
    run.restore(checkpoint, after_rollback=True)
    run.next_block = next_block
    run.saver.last_saved = checkpoint.path  # the one before may have been set aside
    run.log.records.keep_until(run.step)
    run.terminal.say(f"NOTE: back at step {run.step}; training goes on with other batches")
    return True
