"""What is due after a step: a log line, a validation, samples. None of it changes the run.

Every rank makes these calls. Validation blocks are shared by the ranks and their sums reduced;
rank 0 alone generates samples, which needs no collective.

A signal interrupts validation and sampling, which may take minutes. What was interrupted stays in
`Progress.due`, is saved there, and is done first in the resumed run, so the records are those of an
uninterrupted run.
"""

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from torch import Tensor

from sharpgpt.core.errors import UserError
from sharpgpt.core.metrics import MAX_PROB_HISTOGRAM, console_line
from sharpgpt.core.numbers import counted
from sharpgpt.evaluation.generation import generate_texts
from sharpgpt.evaluation.metrics import evaluate
from sharpgpt.report.visible import visible
from sharpgpt.runs.state import DueWork
from sharpgpt.runtime.console import clock
from sharpgpt.runtime.device import random_states, set_random_states
from sharpgpt.runtime.signals import Interrupted, StopSignal
from sharpgpt.training.profiler import phase
from sharpgpt.training.prompt import training_prompt
from sharpgpt.training.schedule import StepValues, penalty_weight_at
from sharpgpt.training.state import Training
from sharpgpt.training.step import unreadable_text

logger = logging.getLogger(__name__)

LONG_VALIDATION_FLOPS = 2e12
"""From this much work on (some ten seconds on a CPU), a line announces a validation."""

Result = TypeVar("Result")


def due_work(run: Training) -> list[DueWork]:
    """What is due after this step, in order."""
    due = list[DueWork]()
    if run.is_due(run.config.eval_interval):
        due.append("validate")
    if run.is_due(run.config.generate_interval) and run.config.num_generate_samples > 0:
        due.append("sample")
    return due


def do_due_work(run: Training, stop: StopSignal) -> None:
    """Do what is due, until any rank receives a signal.

    Raises:
        CannotContinueError: the validation text cannot be read.
    """
    actions: dict[DueWork, Callable[[Training, StopSignal], None]] = {
        "validate": validate,
        "sample": sample,
    }
    progress = run.progress
    if not progress.due:
        return
    must_stop = run.must_stop(stop)
    while progress.due and not must_stop:
        with contextlib.suppress(Interrupted):
            actions[progress.due[0]](run, stop)
            progress.due = progress.due[1:]
            if run.processes.is_main:
                run.outputs.saver.amend(progress.step, progress.after_step())
        must_stop = run.must_stop(stop)
    progress.due = run.processes.broadcast(progress.due)  # only rank 0 knows of its samples


def start_bar(run: Training) -> None:
    """Show progress by steps, on a terminal."""
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn

    run.outputs.console.start_bar(
        TextColumn("step {task.completed}/{task.total}"),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[metrics]}"),
        TimeRemainingColumn(),
        total=run.plan.total_steps,
        completed=run.progress.step,
        metrics="",
    )


@phase("logging")
def log_training(run: Training, values: StepValues, grad_norm: Tensor) -> None:
    """Log the means over the window and begin the next one."""
    window, plan, step = run.progress.window, run.plan, run.progress.step
    has_rows = window.num_skipped_steps < window.num_steps
    started = time.perf_counter()
    # Waits for the device and for the other ranks.
    rows = window.rows.over(run.processes.all_reduce_sum)
    means = rows.means("train/") if has_rows else {}
    window.seconds += time.perf_counter() - started
    tokens_per_s = run.tokens_between(step - window.num_steps, step) / window.seconds
    metrics = {
        **means,
        "train/learning_rate": values.learning_rate,
        "train/penalty_weight": values.penalty_weight,
        "train/grad_norm": grad_norm.item(),
        "train/tokens_per_s": tokens_per_s,
        "train/mfu": tokens_per_s * plan.flops_per_token / plan.peak_flops,
        **run.progress.anomalies.counts(),
    }
    histograms = {MAX_PROB_HISTOGRAM: rows.histogram()} if has_rows else None
    run.outputs.log.log(step, metrics, histograms)
    if has_rows:
        line = console_line(metrics, "train")
        left = clock(run.tokens_between(step, plan.total_steps) / tokens_per_s)
        in_bar = {"log_file_only": run.outputs.console.has_bar}
        logger.info("step %d/%d  %s  %s left", step, plan.total_steps, line, left, extra=in_bar)
        run.outputs.console.update_bar(metrics=line)
    else:
        skipped = counted(window.num_steps, "step")
        logger.info("step %d: skipped %s, all since the last log line", step, skipped)
    window.clear()


@phase("validation")
def validate(run: Training, stop: StopSignal) -> None:
    """Log `val/*` over the validation blocks, with the penalty weight of this step."""
    step, plan, blocks = run.progress.step, run.plan, run.val_blocks
    control = run.progress.entropy_control
    if control is not None:
        weight = control.weight
    else:
        weight = penalty_weight_at(max(0, step - 1), plan.total_steps, run.config)
    # A forward pass is a third of a training step's FLOPs.
    if len(blocks) * blocks.block_length * plan.flops_per_token / 3 > LONG_VALIDATION_FLOPS:
        logger.info("step %d: validating on %s", step, counted(len(blocks), "block"))
    num_batches, processes = math.ceil(len(blocks) / run.config.batch_size), run.processes
    metrics = _interruptible(
        run,
        stop,
        lambda: evaluate(
            run.model.loss_lm,
            _validation_batches(run, stop, num_batches),
            penalty_weight=weight,
            z_loss_weight=run.config.z_loss_weight,
            label_smoothing=run.config.label_smoothing,
            device=run.setup.device,
            processes=processes,
            num_counted=len(range(processes.rank, num_batches, processes.world_size)),
        ),
    )
    run.outputs.log.log(step, metrics)
    if math.isfinite(metrics["val/ce_loss"]):
        run.progress.add_validation(metrics["val/ce_loss"])
    logger.info("step %d: validation %s", step, console_line(metrics, "val"))


def _validation_batches(run: Training, stop: StopSignal, num_batches: int) -> Iterator[Tensor]:
    """Every `world_size`-th batch, from the rank on.

    Each rank gets the same number, since with sharded weights a forward pass is a collective: some
    end with a batch that does not count.

    Raises:
        Interrupted: any rank received a signal.
        CannotContinueError: any rank cannot read its blocks.
    """
    blocks, size, processes = run.val_blocks, run.config.batch_size, run.processes
    for first in range(0, num_batches, processes.world_size):
        number = min(first + processes.rank, num_batches - 1)
        problem = None
        try:
            batch_BT = blocks[number * size : (number + 1) * size]
        except (OSError, UserError) as error:
            problem = unreadable_text(run.progress.step, "validation", error)
        if run.must_stop(stop, problem):  # raises `problem`
            raise Interrupted
        yield batch_BT


@phase("samples")
def sample(run: Training, stop: StopSignal) -> None:
    """Log generated texts; their randomness depends on the seed and the step alone.

    The first failure is logged, and the run continues without samples of this step.
    """
    config, step = run.config, run.progress.step
    # A resumed run may have samples due and now ask for none.
    if not run.processes.is_main or config.num_generate_samples == 0:
        return
    prompt = training_prompt(config, run.setup.data)
    settings: dict[str, Any] = {
        "max_length": prompt.limit(config.generate_max_length),
        "temperature": config.generate_temperature,
        "top_p": config.generate_top_p,
        "seed": config.seed + step,
    }
    try:
        texts = _interruptible(
            run,
            stop,
            lambda: generate_texts(
                run.setup.causal_lm,
                run.setup.data.tokenizer,
                prompt=prompt.text,
                num_samples=config.num_generate_samples,
                window=config.max_seq_length,
                **settings,
            ),
            at_once=True,
        )
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        logger.warning("no samples: %s", reason, extra={"once": "no samples"})
        return
    run.outputs.log.log_samples(step, prompt.text, texts, settings)
    shown = " ".join(texts[0].split()) or visible(texts[0])
    logger.info("step %d: sample: %s", step, shown[:200])


def _interruptible(
    run: Training, stop: StopSignal, compute: Callable[[], Result], *, at_once: bool = False
) -> Result:
    """The result of `compute`, which changes neither the model's mode nor the random states.

    A signal interrupts it in the middle if `at_once`, or if there is one process: an exception
    between two collectives would leave the other ranks waiting.

    Raises:
        Interrupted: a signal came first.
    """
    device = run.setup.device.torch_device
    random = random_states(device)
    at_once = at_once or run.processes.world_size == 1
    try:
        with stop.interruptible() if at_once else contextlib.nullcontext():
            return compute()
    finally:
        set_random_states(random, device)
        run.model.loss_lm.train()
