"""A run from its settings to its folder.

    outputs/<run name>/
      config.yaml  environment.json  metrics.jsonl  samples.jsonl  summary.json  log.txt
      checkpoints/step_00000500/   report.html

In order: device, text and tokens, model, run folder, training, report. What a user can get wrong is
found before the run folder is made, wherever possible.
"""

import contextlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from sharpgpt.config import TrainingConfig
from sharpgpt.config.architectures import GPT2_SIZES
from sharpgpt.data import TextData, TrainingBlocks, load_data, validation_blocks
from sharpgpt.device import Device, choose_device, flops_per_token, peak_flops
from sharpgpt.files import UserError, write_text
from sharpgpt.model import SharpnessLM, create_model
from sharpgpt.report import write_report
from sharpgpt.run_folder import RunFolder
from sharpgpt.sharpness import find_penalty
from sharpgpt.startup import Startup
from sharpgpt.training.checkpoint import CheckpointFolder, load_tensors, read_state
from sharpgpt.training.environment import describe_environment
from sharpgpt.training.interruption import StopSignal
from sharpgpt.training.loop import Training, Window, run_steps
from sharpgpt.training.optimizer import create_optimizers
from sharpgpt.training.terminal import Terminal
from sharpgpt.training.tracking import RunLog
from sharpgpt.training.wandb_run import WandbRun

FIXED_BY_A_CHECKPOINT = (
    "model_name", "n_layer", "n_head", "n_embd", "max_seq_length", "tokenizer", "optimizer",
    "vocabulary",
)  # fmt: skip
HOUSEKEEPING = (
    "output_dir", "checkpoint_dir", "cache_dir", "run_name", "resume", "dataset", "num_workers",
    "use_wandb", "wandb_project", "wandb_entity", "wandb_mode", "keep_checkpoints",
)  # fmt: skip
"""Settings that leave the mathematics and the records alone (a text is compared by its hash)."""


@dataclass(frozen=True)
class RunResult:
    """Where the results of a run are, and its last figures (`train/*` and `val/*`)."""

    run_folder: Path
    report: Path | None
    samples: Path
    checkpoint: Path | None
    step: int
    metrics: dict[str, float]
    interrupted_by: int | None = None


def train(config: TrainingConfig) -> RunResult:
    """Train as `config` says and write a run folder that explains itself.

    SIGINT (Ctrl-C) or SIGTERM saves a checkpoint after the current step and returns, with the
    signal's number in `interrupted_by`.

    Raises:
        ConfigError: settings that disagree with each other.
        UserError: anything else that the user can mend, such as a text that is missing, a folder
            that cannot be written, memory that does not suffice, a loss that is no longer finite.
    """
    if not isinstance(config, TrainingConfig):
        raise TypeError(f"train: given {type(config).__name__}, expected a TrainingConfig")
    config.check()
    startup, terminal = Startup(), Terminal()
    with contextlib.closing(terminal), _memory_advice(config):
        device = choose_device(config)
        data = load_training_data(config)
        if note := data.source["note"]:
            terminal.say(f"NOTE: {note}")
        startup.phase("text and tokens")
        terminal.say(f"Building {config.model_name} (importing transformers takes some seconds)")
        if config.model_name not in GPT2_SIZES and not Path(config.model_name).exists():
            terminal.say("Asking the HuggingFace hub for it (without a network: half a minute)")
        causal_lm = create_model(config, data.tokenizer.vocab_size, data.tokenizer.end_of_text_id)
        startup.phase("transformers and the model")

        folder = RunFolder.open(config, data.name)
        config = replace(config, run_name=folder.path.name)
        terminal.open_log(folder.path / "log.txt")
        if config.resume == "auto" and folder.resume_from is None:
            terminal.say(
                f"NOTE: there is no checkpoint in {folder.checkpoints}, so the run starts at step "
                "0; earlier metrics and samples, if any, are kept as *.before-<time>"
            )
        run = _prepare(config, data, causal_lm, device, folder, terminal, startup)
        try:
            with StopSignal() as stop:
                run_steps(run, stop)
        except Exception:
            _conclude(run, folder, startup, exit_code=1)
            raise
        report = _conclude(run, folder, startup, exit_code=0)
        result = _result(run, folder, report, stop.number)
        terminal.say(_summary_text(result, run.total_steps))
    return result


def _result(
    run: Training, folder: RunFolder, report: Path | None, signal_number: int | None
) -> RunResult:
    return RunResult(
        run_folder=folder.path,
        report=report,
        samples=run.log.samples_path,
        checkpoint=run.last_saved,
        step=run.step,
        metrics=dict(run.log.latest),
        interrupted_by=signal_number if run.step < run.total_steps else None,
    )


def load_training_data(config: TrainingConfig) -> TextData:
    """The tokens of a run, checked against the settings that depend on them."""
    try:
        find_penalty(config.penalty_type)
    except ValueError as error:
        raise UserError(f"penalty_type: {error}") from None
    data = load_data(
        dataset=config.dataset,
        tokenizer=config.tokenizer,
        max_seq_length=config.max_seq_length,
        cache_dir=config.cache_dir,
        num_workers=config.num_workers,
    )
    vocab_size = data.tokenizer.vocab_size
    if config.top_k > vocab_size:
        raise UserError(
            f"top_k: given {config.top_k}, allowed is at most the vocabulary size, {vocab_size} "
            f"for the {config.tokenizer} tokenizer on {data.name}"
        )
    try:
        data.tokenizer.encode(config.generate_prompt)
    except UserError as error:
        raise UserError(f"generate_prompt: {error}") from None
    return data


def total_steps(config: TrainingConfig, num_blocks: int) -> int:
    """Optimizer steps of a run: `max_steps`, else those of `num_epochs`."""
    if config.max_steps is not None:
        return config.max_steps
    blocks_per_step = config.batch_size * config.gradient_accumulation_steps
    return max(1, math.ceil(config.num_epochs * num_blocks / blocks_per_step))


def training_flops_per_token(causal_lm: nn.Module, config: TrainingConfig) -> float:
    """FLOPs per token of this model at this block length."""
    model = cast(Any, causal_lm)
    tables = {id(m.weight) for m in causal_lm.modules() if isinstance(m, nn.Embedding)}
    inner = sum(p.numel() for p in causal_lm.parameters() if p.ndim == 2 and id(p) not in tables)
    head = model.get_output_embeddings().weight
    num_matrix_parameters = inner + (head.numel() if id(head) in tables else 0)
    shape = model.config
    return flops_per_token(
        num_matrix_parameters, shape.num_hidden_layers, shape.hidden_size, config.max_seq_length
    )


def changed_settings(state: dict[str, Any], config: TrainingConfig, data: TextData) -> list[str]:
    """What differs between a checkpoint's settings and data and those of the run that resumes it.

    Raises:
        UserError: a difference with which its tensors cannot be continued.
    """
    before = dict(state["config"])
    now = config.to_dict()
    before["text"], now["text"] = state["data_sha256"][:12], data.source["sha256"][:12]
    before["vocabulary"] = state["tokenizer_fingerprint"][:12]
    now["vocabulary"] = data.tokenizer.fingerprint[:12]
    different = {
        name: f"{name} {before.get(name)} -> {value}"
        for name, value in now.items()
        if name not in HOUSEKEEPING and before.get(name) != value
    }
    if fatal := [text for name, text in different.items() if name in FIXED_BY_A_CHECKPOINT]:
        raise UserError(
            "resume: the checkpoint cannot be continued with these settings: "
            f"{'; '.join(fatal)}. Use those of the checkpoint, or start a new run"
        )
    return list(different.values())


def _prepare(
    config: TrainingConfig,
    data: TextData,
    causal_lm: nn.Module,
    device: Device,
    folder: RunFolder,
    terminal: Terminal,
    startup: Startup,
) -> Training:
    """Put model, optimizers, blocks and records together; restore a checkpoint where asked."""
    train_blocks = TrainingBlocks(data.train_tokens, config.max_seq_length, config.seed)
    num_steps = total_steps(config, len(train_blocks))
    torch.manual_seed(config.seed)
    causal_lm.to(device.torch_device)
    if config.gradient_checkpointing:
        cast(Any, causal_lm).activation_checkpointing_enable()
    optimizers = create_optimizers(causal_lm, config)
    window = Window(device.torch_device)
    first_step = 0
    if folder.resume_from:
        state = read_state(folder.resume_from)
        changed = changed_settings(state, config, data)
        load_tensors(folder.resume_from, causal_lm, optimizers, device.torch_device)
        first_step = state["step"]
        try:
            window.restore(state["window"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise UserError(
                f"resume: the state of {folder.resume_from} is damaged ({error}); resume from an "
                "earlier checkpoint"
            ) from error
        terminal.say(f"Continuing {folder.resume_from} at step {first_step}")
        if changed:
            terminal.say("NOTE: not as in that checkpoint: " + "; ".join(changed))
    model = SharpnessLM(
        causal_lm,
        penalty=config.penalty_type,
        top_k=config.top_k,
        penalty_positions=config.penalty_positions,
        loss=config.loss,
        boundary_id=(
            data.tokenizer.end_of_text_id if config.document_boundaries == "respect" else None
        ),
    )
    peak, peak_source = peak_flops(device)
    num_parameters = sum(p.numel() for p in causal_lm.parameters())
    environment = {
        **describe_environment(device),
        "data": data.source,
        "model": {
            "class": type(causal_lm).__name__,
            "num_parameters": num_parameters,
            "flops_per_token": training_flops_per_token(causal_lm, config),
            "peak_flops": peak,
            "peak_flops_source": peak_source,
        },
        "num_steps": num_steps,
        "resumed_from": str(folder.resume_from) if folder.resume_from else None,
    }
    wandb_run = None
    if config.use_wandb:
        wandb_run = WandbRun.start(
            config,
            run_folder=folder.path,
            run_name=folder.path.name,
            run_id=folder.wandb_run_id(),
            say=terminal.say,
            extra_config=environment,
        )
        environment["wandb_run_id"] = wandb_run.run_id
    folder.write_description(config, environment)
    tokens_per_step = config.batch_size * config.gradient_accumulation_steps * config.max_seq_length
    terminal.say(
        f"{type(causal_lm).__name__} with {num_parameters:,} parameters on {device.name()} "
        f"({environment['hardware']['dtype']}); {data.name}: {len(data.train_tokens):,} training "
        f"tokens; {num_steps:,} steps of {tokens_per_step:,} tokens; "
        f"penalty {config.penalty_weight:g} * {config.penalty_type}\nRun folder {folder.path}"
    )
    if config.warmup_steps > num_steps:
        terminal.say(
            f"NOTE: warmup_steps {config.warmup_steps} is more than the run's {num_steps} steps, "
            "so the learning rate never reaches its peak"
        )
    startup.phase("run folder and optimizer")
    terminal.start_bar(first_step, num_steps)

    def on_first_step() -> None:
        startup.phase("first step")
        terminal.say(str(startup))

    return Training(
        config=config,
        model=cast(SharpnessLM, torch.compile(model)) if config.compile else model,
        causal_lm=causal_lm,
        tokenizer=data.tokenizer,
        optimizers=optimizers,
        train_blocks=train_blocks,
        val_blocks=validation_blocks(
            data.val_tokens, config.max_seq_length, config.eval_max_blocks
        ),
        device=device,
        log=RunLog(folder.path, wandb_run, first_step),
        terminal=terminal,
        checkpoints=CheckpointFolder(folder.checkpoints, config.keep_checkpoints),
        window=window,
        data_sha256=data.source["sha256"],
        first_step=first_step,
        total_steps=num_steps,
        flops_per_token=environment["model"]["flops_per_token"],
        peak_flops=peak,
        on_first_step=on_first_step,
        last_saved=folder.resume_from if folder.is_continued else None,
    )


def _conclude(run: Training, folder: RunFolder, startup: Startup, exit_code: int) -> Path | None:
    """Write the summary and the report, close W&B; nothing in here may hide how the run ended."""
    summary = {
        "step": run.step,
        "num_steps": run.total_steps,
        "time_s": round(run.log.elapsed_s(), 1),
        "startup_s": startup.phases,
        "checkpoint": run.last_saved.name if run.last_saved else None,
        **run.log.latest,
    }
    report = None
    try:
        write_text(folder.path / "summary.json", json.dumps(_finite(summary), indent=2))
        report = write_report(folder.path)
    except Exception as error:
        run.terminal.say(f"NOTE: the report could not be written: {type(error).__name__}: {error}")
    run.log.finish(exit_code)
    return report


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    """JSON knows no infinity: such a value becomes null."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in values.items()
    }


def _summary_text(result: RunResult, num_steps: int) -> str:
    lines = [
        f"Interrupted after step {result.step} of {num_steps}; saved"
        if result.interrupted_by
        else f"Finished {result.step} steps"
    ]
    for split in ("train", "val"):
        if f"{split}/ce_loss" in result.metrics:
            figures = {name: result.metrics[f"{split}/{name}"] for name in _SUMMARY_FIGURES}
            shown = "  ".join(f"{name} {value:.4f}" for name, value in figures.items())
            lines.append(f"  {split:<11}{shown}")
    places = {
        "report": result.report,
        "samples": result.samples if result.samples.exists() else None,
        "checkpoint": result.checkpoint,
    }
    lines += [f"  {name:<11}{path}" for name, path in places.items() if path]
    return "\n".join(lines)


_SUMMARY_FIGURES = ("loss", "ce_loss", "penalty", "avg_max_prob", "entropy", "perplexity")


@contextlib.contextmanager
def _memory_advice(config: TrainingConfig) -> Iterator[None]:
    """Turn running out of memory into a message that says which settings to change."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        out_of_memory = isinstance(error, torch.OutOfMemoryError | MemoryError)
        texts = ("can't allocate memory", "out of memory")
        if not out_of_memory and not any(text in str(error) for text in texts):
            raise
        raise UserError(
            f"Out of memory with batch_size {config.batch_size} and max_seq_length "
            f"{config.max_seq_length}. Lower batch_size and raise gradient_accumulation_steps by "
            "the same factor (the same mathematics), or set gradient_checkpointing, or lower "
            f"max_seq_length; --dry_run shows the estimate. ({' '.join(str(error).split())[:200]})"
        ) from None
