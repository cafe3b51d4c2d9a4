"""The training loop, and the checkpoints it saves.

`step` counts finished steps, including skipped ones. Checkpoints are taken between two steps, so a
resumed run is bit-identical to an uninterrupted one on a CPU.
"""

import time
from pathlib import Path

from sharpgpt.core.errors import UserError
from sharpgpt.core.numbers import counted
from sharpgpt.runtime.device import random_states, set_random_states
from sharpgpt.runtime.signals import StopSignal
from sharpgpt.training.after_step import do_due_work, due_work, log_training, start_bar
from sharpgpt.training.anomalies import Verdict
from sharpgpt.training.profiler import phase
from sharpgpt.training.recovery import check_step
from sharpgpt.training.schedule import step_values
from sharpgpt.training.state import CannotContinueError, Training
from sharpgpt.training.step import (
    accumulate_gradients,
    clip_gradients,
    micro_batches,
    optimizer_step,
    read_batches,
)
from sharpgpt.training.weights import BrokenWeightsError, check_weights


class RunFailedError(UserError):
    """A run that could not continue. Raised on every rank, once its weights are saved."""


def run_steps(run: Training, stop: StopSignal) -> None:
    """Train until the last step, or until a signal asks to stop; save in either case.

    Raises:
        RunFailedError: a value is not finite, or a text cannot be read; the weights before that
            step are saved, if they are finite. Or most steps of the run were skipped.
        UserError: the last checkpoint cannot be written.
    """
    try:
        with run.outputs.profiler:
            train_until(run, stop)
        check_weights(run)
    except BrokenWeightsError as error:
        raise RunFailedError(f"{error.reason}. {_left(run)}. {error.advice}") from error
    except CannotContinueError as error:
        run.model.zero_gradients()
        run.progress.window.drop_step()
        where = f"; the weights after step {run.progress.step} are saved"
        try:
            if saved := save_last(run):
                where = f"; the weights after step {run.progress.step} are in {saved}"
        except UserError as not_saved:
            raise RunFailedError(f"{error.reason}. {not_saved}") from error
        raise RunFailedError(f"{error.reason}{where}. {error.advice}") from error
    saved = save_last(run)
    skipped, step = run.progress.anomalies.num_skipped_steps, run.progress.step
    if step == run.plan.total_steps and skipped > step / 2:
        raise RunFailedError(
            f"{skipped:,} of {counted(step, 'step')} skipped, since loss or gradient was not "
            "finite: the run is complete, but hardly trained. Its weights are in "
            f"{saved}. Try a lower learning_rate, more warmup_steps, or dtype float32"
        )


def _left(run: Training) -> str:
    """What there is without the weights of the last step."""
    saver = run.outputs.saver
    saver.wait()
    if saver.last_saved is None:
        return "They are not saved, and there is no earlier checkpoint"
    if saver.has(run.progress.step):  # it was made by a version that did not look
        return f"So does the checkpoint {saver.last_saved}; resume from an earlier one"
    return f"They are not saved; the newest checkpoint is {saver.last_saved}"


def train_until(run: Training, stop: StopSignal) -> None:
    """The loop. Raises `CannotContinueError` between two steps, with the state before the next."""
    config, progress, total_steps = run.config, run.progress, run.plan.total_steps
    device, profiler = run.setup.device.torch_device, run.outputs.profiler
    start_bar(run)
    batches = micro_batches(run)
    do_due_work(run, stop)  # what a signal interrupted, in a resumed run
    while progress.step < total_steps:
        profiler.begin_step(progress.step + 1)
        started = time.perf_counter()
        batches_of_step, problem = read_batches(run, batches)
        if run.must_stop(stop, problem):
            return
        random_before = random_states(device)
        values, control = step_values(progress.step, total_steps, config), progress.entropy_control
        if control is not None:
            values = control.values(values)
        loss = accumulate_gradients(run, batches_of_step, values.penalty_weight)
        with profiler.phase("clip"):
            grad_norm = clip_gradients(run.setup.causal_lm, config.max_grad_norm)
        try:
            verdict = check_step(run, loss, grad_norm)
        except CannotContinueError:
            set_random_states(random_before, device)
            raise
        if verdict is Verdict.ROLL_BACK:
            batches = micro_batches(run)
            continue
        if verdict is Verdict.TAKE:
            optimizer_step(run, values)
            if control is not None:
                control.take(values, progress.step + 1)
        run.model.zero_gradients()
        run.end_step(started, is_taken=verdict is Verdict.TAKE)
        if run.is_due(config.log_interval) or progress.step == 1:
            log_training(run, values, grad_norm)
        run.outputs.console.update_bar(completed=progress.step)
        progress.due = due_work(run)
        is_saved = run.is_due(config.save_interval) and progress.step < total_steps
        if progress.due or is_saved:
            check_weights(run)
        do_due_work(run, stop)
        if is_saved:
            save(run, stop)
        profiler.end_step()


@phase("checkpoint")
def save(run: Training, stop: StopSignal) -> None:
    """Save while training continues; after a signal `run_steps` saves instead."""
    state = run.state()
    if run.processes.is_main and stop.number is None:
        run.outputs.log.records.flush()
        run.outputs.saver.save(state, run.progress.after_step())


def save_last(run: Training) -> Path | None:
    """Save the last checkpoint of the run; returns its path on rank 0.

    Raises:
        UserError: it cannot be written.
    """
    state = run.state()
    if run.processes.is_main:
        run.outputs.log.records.flush()
        run.outputs.saver.save_last(state, run.progress.after_step())
    return run.outputs.saver.last_saved
