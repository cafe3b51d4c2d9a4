"""The training loop: micro-batches, one optimizer step, and what is due after it.

Everything a step needs stands in `Training`; `run_steps` is the loop itself. A step is

    gradient of  sum over all rows of the step (ce + weight * penalty) / number of those rows

whatever the number of micro-batches. `step` counts finished optimizer steps.

Shapes: B batch, T positions in a block.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sharpgpt.config import TrainingConfig
from sharpgpt.data import Tokenizer, TrainingBlocks, ValidationBlocks, prefetched
from sharpgpt.device import Device
from sharpgpt.evaluation import RowMeans, evaluate, generate_texts
from sharpgpt.files import UserError
from sharpgpt.model import SharpnessLM
from sharpgpt.training.checkpoint import CheckpointFolder
from sharpgpt.training.interruption import StopSignal
from sharpgpt.training.optimizer import set_learning_rate
from sharpgpt.training.schedule import learning_rate_at, penalty_weight_at
from sharpgpt.training.terminal import Terminal
from sharpgpt.training.tracking import RunLog

LONG_VALIDATION_FLOPS = 2e12
"""Work (some ten seconds on a CPU) from which a line says that a validation is under way."""


@dataclass
class Training:
    """One run: what it trains, on what, and where it keeps records."""

    config: TrainingConfig
    model: SharpnessLM
    causal_lm: nn.Module
    tokenizer: Tokenizer
    optimizers: list[Optimizer]
    train_blocks: TrainingBlocks
    val_blocks: ValidationBlocks
    device: Device
    log: RunLog
    terminal: Terminal
    checkpoints: CheckpointFolder
    window: "Window"
    data_sha256: str
    first_step: int
    total_steps: int
    flops_per_token: float
    peak_flops: float
    on_first_step: Callable[[], None]
    step: int = 0
    last_saved: Path | None = None


class Window:
    """The rows and the training time since the last log line."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.clear()

    def clear(self) -> None:
        """Begin the next window."""
        self.rows = RowMeans(self.device)
        self.num_steps = 0
        self.seconds = 0.0

    def state(self) -> dict[str, Any]:
        """Plain JSON values, so that a resumed run logs the window that it was in."""
        return {
            "rows": self.rows.state(),
            "num_steps": self.num_steps,
            "seconds": self.seconds,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        self.rows.restore(state["rows"])
        self.num_steps = state["num_steps"]
        self.seconds = state["seconds"]


def run_steps(run: Training, stop: StopSignal) -> None:
    """Train until `total_steps`, or until a signal asks to stop; save in either case.

    Raises:
        UserError: a loss or gradient that is not finite. That step is not taken, and the weights
            before it are saved.
    """
    config = run.config
    run.step = run.first_step
    batches = prefetched(micro_batches(run), config.num_workers)
    while run.step < run.total_steps and stop.number is None:
        started = time.perf_counter()
        learning_rate = learning_rate_at(run.step, run.total_steps, config)
        penalty_weight = penalty_weight_at(run.step, run.total_steps, config)
        loss = accumulate_gradients(run, batches, penalty_weight)
        grad_norm = clip_gradients(run.causal_lm, config.max_grad_norm)
        refuse_nonfinite(run, loss, grad_norm)
        set_learning_rate(run.optimizers, learning_rate)
        for optimizer in run.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        run.step += 1
        run.window.num_steps += 1
        run.window.seconds += time.perf_counter() - started
        if run.step == run.first_step + 1:
            run.on_first_step()
        if is_due(run, config.log_interval) or run.step == 1:
            log_training(run, learning_rate, penalty_weight, grad_norm)
        run.terminal.advance(run.step)
        if is_due(run, config.eval_interval) and stop.number is None:
            validate(run)
        if is_due(run, config.generate_interval) and stop.number is None:
            sample(run)
        if is_due(run, config.save_interval):
            save(run)
    if stop.number is not None:
        save(run)


def is_due(run: Training, interval: int) -> bool:
    """Whether something is done after this step: at each interval (0: none) and at the end."""
    return (interval > 0 and run.step % interval == 0) or run.step == run.total_steps


def micro_batches(run: Training) -> Iterator[Tensor]:
    """The batches of all steps from `first_step` on, pinned for CUDA: int64 [B, T]."""
    config = run.config
    first = run.first_step * config.gradient_accumulation_steps
    last = run.total_steps * config.gradient_accumulation_steps
    pin = run.device.torch_device.type == "cuda"
    for index in range(first, last):
        batch_BT = run.train_blocks.batch(index * config.batch_size, config.batch_size)
        yield batch_BT.pin_memory() if pin else batch_BT


def accumulate_gradients(run: Training, batches: Iterator[Tensor], penalty_weight: float) -> Tensor:
    """Backward passes of one step's micro-batches; returns the loss of the step, detached."""
    config, device = run.config, run.device.torch_device
    num_micro_batches = config.gradient_accumulation_steps
    rows_per_step = num_micro_batches * config.batch_size * (config.max_seq_length - 1)
    # A tensor, since compiled code is specialised to numbers; the number 0 leaves the penalty out.
    weight = torch.tensor(penalty_weight, device=device) if config.penalty_weight else 0.0
    losses = []
    for _ in range(num_micro_batches):
        input_ids_BT = next(batches).to(device, non_blocking=True)
        with run.device.autocast():
            output = run.model(
                input_ids_BT, penalty_weight=weight, normalizer=float(rows_per_step), per_row=True
            )
        output.loss.backward()
        run.window.rows.add(output, penalty_weight)
        losses.append(output.loss.detach())
    return torch.stack(losses).sum()


def clip_gradients(causal_lm: nn.Module, max_norm: float) -> Tensor:
    """Scale the gradients to a global norm of at most `max_norm` (0: do not); return the norm."""
    parameters = list(causal_lm.parameters())
    if max_norm > 0:
        return torch.nn.utils.clip_grad_norm_(parameters, max_norm)
    return torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])


def refuse_nonfinite(run: Training, loss: Tensor, grad_norm: Tensor) -> None:
    """Stop before a step that would spoil the weights.

    This waits for the device once per optimizer step, which is the price of stopping in time.
    """
    if torch.isfinite(loss + grad_norm):
        return
    for optimizer in run.optimizers:
        optimizer.zero_grad()
    save(run)
    raise UserError(
        f"step {run.step + 1}: the loss is {loss.item()} and the gradient norm {grad_norm.item()}. "
        f"The step was not taken; the weights after step {run.step} are in {run.last_saved}. Try a "
        "lower learning_rate, more warmup_steps, a lower max_grad_norm, a penalty_weight nearer 0, "
        "or dtype float32"
    )


def log_training(
    run: Training, learning_rate: float, penalty_weight: float, grad_norm: Tensor
) -> None:
    """Log the means over the window and begin the next one."""
    config, window = run.config, run.window
    started = time.perf_counter()
    means = window.rows.means("train")  # waits for all that the device has still to do
    window.seconds += time.perf_counter() - started
    tokens_per_step = config.batch_size * config.gradient_accumulation_steps * config.max_seq_length
    tokens_per_s = window.num_steps * tokens_per_step / window.seconds
    metrics = means | {
        "train/learning_rate": learning_rate,
        "train/penalty_weight": penalty_weight,
        "train/grad_norm": grad_norm.item(),
        "train/tokens_per_s": tokens_per_s,
        "train/mfu": tokens_per_s * run.flops_per_token / run.peak_flops,
    }
    run.log.log(run.step, metrics, histogram=window.rows.max_prob_histogram())
    run.terminal.show_training(
        run.step, run.total_steps, metrics, window.seconds / window.num_steps
    )
    window.clear()


def validate(run: Training) -> None:
    """Log `val/*` over the validation blocks, with the penalty weight of this step."""
    weight = penalty_weight_at(max(0, run.step - 1), run.total_steps, run.config)
    blocks, size = run.val_blocks, run.config.batch_size
    # A forward pass is a third of a training step's FLOPs.
    if len(blocks) * run.config.max_seq_length * run.flops_per_token / 3 > LONG_VALIDATION_FLOPS:
        run.terminal.say(f"step {run.step}: validating on {len(blocks)} blocks")
    metrics = evaluate(
        run.model,
        (blocks[first : first + size] for first in range(0, len(blocks), size)),
        penalty_weight=weight,
        device=run.device,
    )
    run.log.log(run.step, metrics)
    run.terminal.say(
        f"step {run.step}: validation CE {metrics['val/ce_loss']:.4f}  "
        f"perplexity {metrics['val/perplexity']:.2f}  max p {metrics['val/avg_max_prob']:.4f}  "
        f"entropy {metrics['val/entropy']:.4f}"
    )


def sample(run: Training) -> None:
    """Log generated texts; their randomness depends on the seed and the step alone."""
    config = run.config
    if config.num_generate_samples == 0:
        return
    settings: dict[str, Any] = {
        "max_length": config.generate_max_length,
        "temperature": config.generate_temperature,
        "top_p": config.generate_top_p,
        "seed": config.seed + run.step,
    }
    texts = generate_texts(
        run.causal_lm,
        run.tokenizer,
        prompt=config.generate_prompt,
        num_samples=config.num_generate_samples,
        window=config.max_seq_length,
        **settings,
    )
    run.log.log_samples(run.step, config.generate_prompt, texts, settings)
    run.terminal.say(f"step {run.step}: sample: {' '.join(texts[0].split())[:200]}")


def save(run: Training) -> None:
    """Write a checkpoint of this step, unless it is there."""
    if run.last_saved is not None and run.last_saved.name == f"step_{run.step:08d}":
        return
    run.last_saved = run.checkpoints.save(
        run.step,
        causal_lm=run.causal_lm,
        tokenizer=run.tokenizer,
        optimizers=run.optimizers,
        max_seq_length=run.config.max_seq_length,
        device=run.device.torch_device,
        state={
            "config": run.config.to_dict(),
            "data_sha256": run.data_sha256,
            "tokenizer_fingerprint": run.tokenizer.fingerprint,
            "window": run.window.state(),
        },
    )
