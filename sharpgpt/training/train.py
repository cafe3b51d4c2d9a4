"""A run from its settings to its folder.

    outputs/<run name>/
      config.yaml  environment.json  metrics.jsonl  samples.jsonl  summary.json  log.txt
      checkpoints/step_00000500/   report.html

In order: device, text and tokens, model, run folder, training, report. What a user can get wrong is
found before the run folder is made, wherever possible.
"""

import contextlib
import math
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from sharpgpt.config import ConfigError, TrainingConfig
from sharpgpt.config.architectures import GPT2_SIZES
from sharpgpt.core.errors import UserError
from sharpgpt.data.blocks import TrainingBlocks, validation_blocks
from sharpgpt.data.load import TextData, load_data
from sharpgpt.data.prepare.automatic import ready_dataset
from sharpgpt.model.build import create_model
from sharpgpt.model.flops import flops_per_token
from sharpgpt.model.lm import SharpnessLM
from sharpgpt.runs.checkpoint import Checkpoint
from sharpgpt.runs.checkpoint_files import load_tensors
from sharpgpt.runs.folder import RunFolder
from sharpgpt.runs.saver import CheckpointSaver
from sharpgpt.runs.tracker import RunLog, start_trackers
from sharpgpt.runtime.console import console_logging
from sharpgpt.runtime.device import Device, choose_device, peak_flops
from sharpgpt.runtime.distributed import (
    Processes,
    is_torchrun,
    process_group,
    ranks_from_environment,
)
from sharpgpt.runtime.environment import describe_environment
from sharpgpt.runtime.signals import DUPLICATE_S, StopSignal
from sharpgpt.sharpness import find_penalty
from sharpgpt.training.anomalies import Watch
from sharpgpt.training.loop import run_steps
from sharpgpt.training.memory import memory_advice
from sharpgpt.training.optimizer import create_optimizers
from sharpgpt.training.result import RunResult, conclude, follower_result
from sharpgpt.training.startup import Startup
from sharpgpt.training.state import RunEndedError, RunFacts, Training, Window, accepted_changes
from sharpgpt.training.terminal import Terminal

__all__ = [
    "RunResult",
    "load_training_data",
    "total_steps",
    "train",
    "training_flops_per_token",
]


def train(config: TrainingConfig) -> RunResult:
    """Train as `config` says and write a run folder that explains itself.

    SIGINT (Ctrl-C), SIGTERM or SIGUSR1 saves a checkpoint after the current step and returns, with
    the signal's number in `interrupted_by`.

    Raises:
        ConfigError: settings that disagree with each other.
        UserError: anything else that the user can mend, such as a text that is missing, a folder
            that cannot be written or is in use, memory that does not suffice, a checkpoint that
            is damaged or belongs to other settings, a loss that is no longer finite.
    """
    if not isinstance(config, TrainingConfig):
        raise TypeError(f"train: given {type(config).__name__}, expected a TrainingConfig")
    config.check()
    rank, world_size, local_rank = ranks_from_environment()
    refuse_uneven_shares(config, world_size)
    startup = Startup()
    with contextlib.ExitStack() as stack:
        console = stack.enter_context(console_logging(is_shown=rank == 0))
        terminal = Terminal(console)
        memory = stack.enter_context(memory_advice(config))
        device = choose_device(config)
        if world_size > 1:
            device = device.for_rank(local_rank)
        processes = stack.enter_context(process_group(device.torch_device.type))
        data = processes.main_first(lambda: load_training_data(config))
        if note := data.source["note"]:
            terminal.say(f"NOTE: {note}")
        startup.phase("text and tokens")
        terminal.say(f"Building {config.model_name} (importing transformers takes some seconds)")
        if config.model_name not in GPT2_SIZES and not Path(config.model_name).exists():
            terminal.say("Asking the HuggingFace hub for it (without a network: half a minute)")
        causal_lm = create_model(config, data.tokenizer.vocab_size, data.tokenizer.end_of_text_id)
        memory.model_is(causal_lm, device, terminal.say, world_size)
        startup.phase("transformers and the model")

        facts = run_facts(config, data, device)
        folder = _open_folder(config, data, facts, processes, stack)
        if processes.is_main:
            config = replace(config, run_name=folder.path.name)
            console.open_log_file(folder.path / "log.txt")
        if config.resume == "auto" and folder.resume_from is None:
            terminal.say(
                f"NOTE: there is no checkpoint in {folder.checkpoints.path}, so the run starts "
                "at step 0; earlier metrics and samples, if any, are kept as *.before-<time>"
            )
        run = _prepare(config, data, causal_lm, device, folder, facts, processes, terminal, startup)
        stack.callback(run.saver.close)  # before the folder is given up, however the run ends
        try:
            with StopSignal(duplicate_s=DUPLICATE_S if is_torchrun() else 0.0) as stop:
                run_steps(run, stop)
        except Exception as error:
            if processes.is_main:
                conclude(run, folder.path, startup, exit_code=1)
            if isinstance(error, RunEndedError):
                processes.barrier()
            raise
        if processes.is_main:
            result = conclude(run, folder.path, startup, exit_code=0, signal_number=stop.number)
            terminal.say(result.text(run.total_steps))
        else:
            result = follower_result(run, folder.path, signal_number=stop.number)
        # torchrun ends the others when one of them ends with an exit code that is not 0.
        processes.barrier()
    return result


def refuse_uneven_shares(config: TrainingConfig, world_size: int) -> None:
    """The micro-batches of a step are shared by the processes of the run.

    Raises:
        ConfigError: they cannot be, or a setting is for one process only.
    """
    problems = []
    if config.gradient_accumulation_steps % world_size:
        fewer = config.gradient_accumulation_steps // world_size * world_size
        problems.append(
            f"gradient_accumulation_steps: given {config.gradient_accumulation_steps}, allowed "
            f"with {world_size} processes, which share them, is a multiple of {world_size}, such "
            f"as {max(fewer, world_size)}"
        )
    if world_size > 1 and config.on_spike == "rollback":
        problems.append("on_spike: given rollback, allowed with several processes is log")
    if problems:
        raise ConfigError(problems)


def _open_folder(
    config: TrainingConfig,
    data: TextData,
    facts: RunFacts,
    processes: Processes,
    stack: contextlib.ExitStack,
) -> RunFolder:
    """The run's folder, and for processes that do not write one a temporary one."""
    if processes.is_main:
        folder = RunFolder.open(
            config,
            data.name,
            accept=lambda state: accepted_changes(state, config, facts),
        )
        stack.callback(folder.close)
        source = folder.resume_from
        processes.broadcast(str(source.path) if source else "")
        return folder
    path = processes.broadcast("")
    resume_from = Checkpoint.verified(Path(path)) if path else None
    temporary = stack.enter_context(tempfile.TemporaryDirectory(prefix="sharpgpt-"))
    return RunFolder.of_follower(Path(temporary), resume_from)


def load_training_data(config: TrainingConfig, *, may_prepare: bool = True) -> TextData:
    """The tokens of a run, checked against the settings that depend on them.

    Documents that are no token shards yet are prepared first, unless `may_prepare` is false.
    """
    try:
        find_penalty(config.penalty_type)
    except ValueError as error:
        raise UserError(f"penalty_type: {error}") from None
    data = load_data(
        dataset=ready_dataset(config, may_prepare=may_prepare),
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


def run_facts(config: TrainingConfig, data: TextData, device: Device) -> RunFacts:
    """What a checkpoint must have in common with the run, beside the settings."""
    return RunFacts(
        text=data.source["sha256"],
        vocabulary=data.tokenizer.fingerprint,
        arithmetic=device.dtype_name,
        blocks_per_step=config.batch_size * config.gradient_accumulation_steps,
    )


def _prepare(
    config: TrainingConfig,
    data: TextData,
    causal_lm: nn.Module,
    device: Device,
    folder: RunFolder,
    facts: RunFacts,
    processes: Processes,
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
    source = folder.resume_from
    if source:
        load_tensors(source.path, causal_lm, optimizers, device.torch_device)
        terminal.say(f"Continuing {source.path} at step {source.state.step}")
        if changed := accepted_changes(source.state, config, facts):
            terminal.say("NOTE: not as in that checkpoint: " + "; ".join(changed))
    processes.seed_dropout(config.seed, source.state.step if source else 0)
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
        "num_processes": processes.world_size,
        "resumed_from": str(source.path) if source else None,
    }
    run_ids = folder.tracker_run_ids()  # kept where this part of the run is not tracked
    trackers = (
        start_trackers(config, run_folder=folder.path, run_ids=run_ids, environment=environment)
        if processes.is_main
        else []
    )
    environment |= run_ids
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
    first_step = source.state.step if source else 0
    terminal.start_bar(first_step, num_steps)
    due = source.after_step.due if source else []
    log = RunLog(folder.path, trackers, first_step=first_step, due=due)

    def on_first_step() -> None:
        startup.phase("first step")
        terminal.say(str(startup))

    compiled = cast(SharpnessLM, torch.compile(model)) if config.compile else model
    run = Training(
        config=config,
        model=compiled,
        trained=processes.data_parallel(compiled),
        causal_lm=causal_lm,
        tokenizer=data.tokenizer,
        optimizers=optimizers,
        train_blocks=train_blocks,
        val_blocks=validation_blocks(
            data.val_tokens, config.max_seq_length, config.eval_max_blocks
        ),
        device=device,
        log=log,
        terminal=terminal,
        saver=CheckpointSaver(
            folder.checkpoints,
            causal_lm=causal_lm,
            optimizers=optimizers,
            tokenizer=data.tokenizer,
            max_seq_length=config.max_seq_length,
            device=device.torch_device,
            in_background=config.background_saving,
            records=(log.records.metrics.path, log.records.samples.path),
            last_saved=source.path if source and folder.is_continued else None,
        ),
        facts=facts,
        total_steps=num_steps,
        flops_per_token=environment["model"]["flops_per_token"],
        peak_flops=peak * processes.world_size,
        on_first_step=on_first_step,
        window=Window(device.torch_device),
        watch=Watch(config),
        processes=processes,
    )
    if source:
        run.restore(source)
        if not processes.is_main:
            run.window.clear()  # the first process has its rows
    return run
