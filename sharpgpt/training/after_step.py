"""What is due after a step: a log line, a validation, samples. None of it changes the run.

A signal breaks off validations and samples, which may take minutes. What was broken off stays in
`Training.due`, is saved so, and is done first when the run is resumed: the records are those of a
run that was never stopped.
"""

import math
import time
from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor

from sharpgpt.core.errors import UserError
from sharpgpt.core.metrics import MAX_PROB_HISTOGRAM, console_line
from sharpgpt.evaluation.generation import generate_texts
from sharpgpt.evaluation.metrics import evaluate
from sharpgpt.runs.checkpoint_files import random_states, set_random_states
from sharpgpt.runs.state import DueWork, Figure
from sharpgpt.runtime.signals import Interrupted, StopSignal
from sharpgpt.training.schedule import penalty_weight_at
from sharpgpt.training.state import CannotGoOnError, Training

LONG_VALIDATION_FLOPS = 2e12
"""Work (some ten seconds on a CPU) from which a line says that a validation is under way."""

Result = TypeVar("Result")


def is_due(run: Training, interval: int) -> bool:
    """Whether something is done after this step: at each interval (0: none) and at the end."""
    return (interval > 0 and run.step % interval == 0) or run.step == run.total_steps


def work_due(run: Training) -> list[DueWork]:
    """What is to be done after this step, in order."""
    config, due = run.config, list[DueWork]()
    if is_due(run, config.eval_interval):
        due.append("validate")
    if is_due(run, config.generate_interval) and config.num_generate_samples > 0:
        due.append("sample")
    return due


def do_due_work(run: Training, stop: StopSignal) -> None:
    """Do what is in `run.due`, until a signal comes. The first process does it, the others wait.

    Raises:
        CannotGoOnError: the validation text cannot be read.
    """
    if not run.due:
        return
    actions: dict[DueWork, Callable[[Training, StopSignal], None]] = {
        "validate": validate,
        "sample": sample,
    }
    problem = None
    if not run.processes.is_main:
        run.due = []
    try:
        while run.due and stop.number is None:
            actions[run.due[0]](run, stop)
            run.due = run.due[1:]
            run.saver.amend(run.step, run.after_step())
    except Interrupted:
        pass
    except CannotGoOnError as error:
        problem = error
    run.stops(stop, problem)


def log_training(
    run: Training, learning_rate: float, penalty_weight: float, grad_norm: Tensor
) -> None:
    """Log the means over the window and begin the next one."""
    config, window = run.config, run.window
    has_rows = window.num_skipped_steps < window.num_steps
    started = time.perf_counter()
    # Waits for all that the device has still to do, and for the other processes.
    rows = window.rows.over(run.processes.all_reduce_sum)
    means = rows.means("train/") if has_rows else {}
    window.seconds += time.perf_counter() - started
    tokens_per_step = config.batch_size * config.gradient_accumulation_steps * config.max_seq_length
    tokens_per_s = window.num_steps * tokens_per_step / window.seconds
    metrics = {
        **means,
        "train/learning_rate": learning_rate,
        "train/penalty_weight": penalty_weight,
        "train/grad_norm": grad_norm.item(),
        "train/tokens_per_s": tokens_per_s,
        "train/mfu": tokens_per_s * run.flops_per_token / run.peak_flops,
        **run.watch.counts(),
    }
    histograms = {MAX_PROB_HISTOGRAM: rows.histogram()} if has_rows else None
    run.log.log(run.step, metrics, histograms)
    if has_rows:
        run.terminal.show_training(
            run.step, run.total_steps, metrics, window.seconds / window.num_steps
        )
    else:
        run.terminal.say(f"step {run.step}: all {window.num_steps} steps were skipped")
    window.clear()


def validate(run: Training, stop: StopSignal) -> None:
    """Log `val/*` over the validation blocks, with the penalty weight of this step."""
    weight = penalty_weight_at(max(0, run.step - 1), run.total_steps, run.config)
    blocks, size = run.val_blocks, run.config.batch_size
    # A forward pass is a third of a training step's FLOPs.
    if len(blocks) * run.config.max_seq_length * run.flops_per_token / 3 > LONG_VALIDATION_FLOPS:
        run.terminal.say(f"step {run.step}: validating on {len(blocks)} blocks")
    try:
        metrics = _until_signal(
            run,
            stop,
            lambda: evaluate(
                run.model,
                (blocks[first : first + size] for first in range(0, len(blocks), size)),
                penalty_weight=weight,
                device=run.device,
            ),
        )
    except (OSError, UserError) as error:
        raise CannotGoOnError(
            f"step {run.step}: the validation text cannot be read ({error})",
            "Mend the file or the disk, then resume auto",
        ) from error
    run.log.log(run.step, metrics)
    ce_loss = metrics["val/ce_loss"]
    if math.isfinite(ce_loss):
        run.validated = Figure(step=run.step, val_ce_loss=ce_loss)
        if run.best is None or ce_loss < run.best.val_ce_loss:
            run.best = run.validated
    run.terminal.say(f"step {run.step}: validation {console_line(metrics, 'val')}")


def sample(run: Training, stop: StopSignal) -> None:
    """Log generated texts; their randomness depends on the seed and the step alone.

    A failure is said once, and the run goes on without samples of this step.
    """
    config = run.config
    if config.num_generate_samples == 0:  # as a resumed run may ask, with samples still due
        return
    settings: dict[str, Any] = {
        "max_length": config.generate_max_length,
        "temperature": config.generate_temperature,
        "top_p": config.generate_top_p,
        "seed": config.seed + run.step,
    }
    try:
        texts = _until_signal(
            run,
            stop,
            lambda: generate_texts(
                run.causal_lm,
                run.tokenizer,
                prompt=config.generate_prompt,
                num_samples=config.num_generate_samples,
                window=config.max_seq_length,
                **settings,
            ),
        )
    except Exception as error:
        run.terminal.note_once("no samples", f"{type(error).__name__}: {error}")
        return
    run.log.log_samples(run.step, config.generate_prompt, texts, settings)
    run.terminal.say(f"step {run.step}: sample: {' '.join(texts[0].split())[:200]}")


def _until_signal(run: Training, stop: StopSignal, compute: Callable[[], Result]) -> Result:
    """The result of `compute`; modes and random states are as before, however it ends.

    Raises:
        Interrupted: a signal came first.
    """
    random = random_states(run.device.torch_device)
    is_whole = False
    try:
        with stop.interruptible():
            result = compute()
        is_whole = True
        return result
    finally:
        if not is_whole:  # the exception may have come where they are put back
            set_random_states(random, run.device.torch_device)
        run.model.train()
