"""Builds the parts of a run from its settings; what a user can get wrong is found here."""

import logging
import shlex
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from sharpgpt.config import ConfigError, TrainingConfig
from sharpgpt.config.architectures import GPT2_SIZES
from sharpgpt.core.errors import UserError
from sharpgpt.core.files import user_path
from sharpgpt.core.hub import is_hub_name, offline_variable
from sharpgpt.core.numbers import counted
from sharpgpt.data.blocks import TrainingBlocks, validation_blocks
from sharpgpt.data.load import TextData, load_data
from sharpgpt.data.prepare.automatic import ready_dataset
from sharpgpt.model.attention import use_short_attention
from sharpgpt.model.build import create_model
from sharpgpt.model.flops import flops_per_token
from sharpgpt.model.lm import SharpnessLM
from sharpgpt.model.softcap import caps_itself, softcap_of
from sharpgpt.runs.checkpoint import Checkpoint
from sharpgpt.runs.checkpoint_files import load_tensors
from sharpgpt.runs.folder import RunFolder
from sharpgpt.runs.saver import CheckpointSaver
from sharpgpt.runs.tracker import RunLog, Tracker, start_trackers
from sharpgpt.runtime.console import Console
from sharpgpt.runtime.device import ALL_BFLOAT16, Device, peak_flops
from sharpgpt.runtime.environment import describe_environment
from sharpgpt.sharpness import find_penalty
from sharpgpt.training.agreement import checkpoint_fact, require_same
from sharpgpt.training.anomalies import AnomalyDetector
from sharpgpt.training.entropy_control import EntropyController
from sharpgpt.training.optimizer import create_optimizers, layer_matrices
from sharpgpt.training.profiler import Profiler
from sharpgpt.training.prompt import training_prompt
from sharpgpt.training.schedule import total_steps
from sharpgpt.training.setup import Setup
from sharpgpt.training.startup import Startup
from sharpgpt.training.state import ModelParts, Outputs, Plan, Progress, Training, Window

logger = logging.getLogger(__name__)


def check_world_size(config: TrainingConfig, world_size: int) -> None:
    """Check the settings that depend on the number of processes.

    Raises:
        ConfigError: they cannot share the micro-batches of a step, or a setting allows only one.
    """
    problems = []
    if config.batch_warmup_steps and config.batch_warmup_start % world_size:
        problems.append(
            f"batch_warmup_start: given {config.batch_warmup_start}, allowed with {world_size} "
            f"processes, which share the micro-batches, is a multiple of {world_size}"
        )
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


def load_training_data(config: TrainingConfig, *, may_prepare: bool = True) -> TextData:
    """The tokens of a run, checked against the settings that depend on them.

    Documents without token shards are prepared first, unless `may_prepare` is false.
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
        val_fraction=config.val_fraction,
    )
    vocab_size = data.tokenizer.vocab_size
    if config.top_k > vocab_size:
        raise UserError(
            f"top_k: given {config.top_k}, allowed is at most the vocabulary size, {vocab_size} "
            f"for the {config.tokenizer} tokenizer on {data.name}"
        )
    if config.num_generate_samples > 0:
        for note in training_prompt(config, data).notes:
            logger.warning("%s", note, extra={"once": note})
    return data


def build_model(config: TrainingConfig, data: TextData) -> nn.Module:
    """The model with random weights."""
    text = f"Building {config.model_name} (importing transformers takes some seconds)"
    logger.info("%s", text, extra={"once": text})  # without weights first, then with
    is_local = config.model_name in GPT2_SIZES or user_path(config.model_name).exists()
    if not is_local and is_hub_name(config.model_name, short=True) and not offline_variable():
        text = "Asking the HuggingFace hub for it (without a network: half a minute)"
        logger.info("%s", text, extra={"once": text})
    return create_model(config, data.tokenizer.vocab_size, data.tokenizer.end_of_text_id)


def open_run_folder(
    setup: Setup, stack: ExitStack, *, checkpoint_bytes: int = 0, dry_run: bool = False
) -> RunFolder:
    """The run's folder, closed by `stack`; on ranks other than 0 a temporary one.

    It must have room for a checkpoint. With `dry_run` nothing is made.
    """
    processes, folder, path, name = setup.processes, None, None, ""
    if processes.is_main:
        folder = RunFolder.open(
            setup.config,
            setup.data.name,
            accept=setup.accepted_changes,
            checkpoint_bytes=checkpoint_bytes,
            dry_run=dry_run,
        )
        stack.callback(folder.close)
        path = folder.resume_from.path if folder.resume_from else None
        name = folder.path.name
    path, name = processes.broadcast((path, name))
    if processes.peers:
        processes.peers.advice = (
            f"start all ranks again with --run_name {shlex.quote(name)} --resume auto to continue "
            "from the newest checkpoint"
        )
        require_same(processes, {"resume": checkpoint_fact(path)})
    if folder:
        return folder
    resume_from = Checkpoint.verified(path) if path else None
    temporary = stack.enter_context(tempfile.TemporaryDirectory(prefix="sharpgpt-"))
    return RunFolder.of_follower(Path(temporary), resume_from)


def training_flops_per_token(causal_lm: nn.Module, config: TrainingConfig) -> float:
    """FLOPs per token of this model at this block length."""
    head = cast(Any, causal_lm).get_output_embeddings().weight
    num_matrix_parameters = head.numel() + sum(p.numel() for p in layer_matrices(causal_lm))
    shape = cast(Any, causal_lm).config
    return flops_per_token(
        num_matrix_parameters, shape.num_hidden_layers, shape.hidden_size, config.max_seq_length
    )


def build_training(
    setup: Setup, folder: RunFolder, *, console: Console, startup: Startup
) -> Training:
    """Put the parts of the run together, and restore its checkpoint if it has one."""
    config, data, device, processes = setup.config, setup.data, setup.device, setup.processes
    source = folder.resume_from
    model = _build_model_parts(setup, source)
    train_blocks = TrainingBlocks(data.train_tokens, config.max_seq_length, config.seed)
    val_blocks = validation_blocks(data.val_tokens, config.max_seq_length, config.eval_max_blocks)
    peak, peak_source = peak_flops(device)
    plan = Plan(
        total_steps=total_steps(config, len(train_blocks)),
        tokens_per_step=setup.blocks_per_step * config.max_seq_length,
        flops_per_token=training_flops_per_token(setup.causal_lm, config),
        peak_flops=peak * processes.world_size,
    )
    environment = {
        **describe_environment(device),
        "data": data.source,
        "model": {
            "class": type(setup.causal_lm).__name__,
            "num_parameters": sum(p.numel() for p in setup.causal_lm.parameters()),
            "num_layers": getattr(setup.causal_lm.config, "num_hidden_layers", None),
            "flops_per_token": plan.flops_per_token,
            "peak_flops": peak,
            "peak_flops_source": peak_source,
        },
        "num_steps": plan.total_steps,
        "num_processes": processes.world_size,
        "resumed_from": str(source.path) if source else None,
    }
    log = _start_log(config, folder, environment=environment, is_main=processes.is_main)
    _log_summary(setup, plan, environment)
    logger.info("Run folder %s", folder.path)
    saver = CheckpointSaver(
        folder.checkpoints,
        causal_lm=setup.causal_lm,
        optimizers=model.optimizers,
        tokenizer=data.tokenizer,
        max_seq_length=config.max_seq_length,
        device=device.torch_device,
        in_background=config.background_saving,
        records=(log.records.metrics.path, log.records.samples.path),
        last_saved=source.path if source and folder.is_continued else None,
    )
    progress = Progress(
        Window(device.torch_device),
        AnomalyDetector(config),
        EntropyController(config) if config.entropy_target is not None else None,
    )
    if source:
        progress.restore(source)
        if not processes.is_main:
            progress.window.clear()  # rank 0 has its rows
    profiler = Profiler(
        config.profile if processes.is_main else 0,
        folder=folder.path,
        device=device,
        steps_left=plan.total_steps - progress.step,
        loss_lm=model.loss_lm,
    )
    startup.phase("run folder and optimizer")
    return Training(
        setup=setup,
        plan=plan,
        model=model,
        train_blocks=train_blocks,
        val_blocks=val_blocks,
        outputs=Outputs(
            folder.path, log, saver, console=console, startup=startup, profiler=profiler
        ),
        progress=progress,
    )


def _build_model_parts(setup: Setup, source: Checkpoint | None) -> ModelParts:
    """The model on its device, its optimizers, and the tensors of the checkpoint in both."""
    config, causal_lm, device = setup.config, setup.causal_lm, setup.device.torch_device
    torch.manual_seed(config.seed)
    causal_lm.to(device)
    if config.gradient_checkpointing:
        cast(Any, causal_lm).activation_checkpointing_enable()
    optimizers = create_optimizers(causal_lm, config)
    if source:
        load_tensors(source.path, causal_lm, optimizers, device)
        logger.info("Continuing %s at step %d", source.path, source.state.step)
    setup.processes.seed_dropout(config.seed, source.state.step if source else 0)
    loss_lm = loss_model(
        causal_lm, config, setup.device, end_of_text_id=setup.data.tokenizer.end_of_text_id
    )
    return ModelParts(loss_lm, setup.processes.data_parallel(loss_lm), optimizers)


def loss_model(
    causal_lm: nn.Module, config: TrainingConfig, device: Device, *, end_of_text_id: int | None
) -> SharpnessLM:
    """The model with the loss in its forward, as these settings and this device compute it."""
    if device.arithmetic == ALL_BFLOAT16:
        use_short_attention(causal_lm, config.max_seq_length)
    model = SharpnessLM(
        causal_lm,
        penalty=config.penalty_type,
        top_k=config.top_k,
        penalty_positions=config.penalty_positions,
        loss=config.loss,
        output_dtype=device.output_dtype,
        boundary_id=end_of_text_id if config.document_boundaries == "respect" else None,
    )
    return cast(SharpnessLM, torch.compile(model)) if config.compile else model


def _start_log(
    config: TrainingConfig, folder: RunFolder, *, environment: dict[str, Any], is_main: bool
) -> RunLog:
    """Start the trackers, describe the run in its folder, and open its records."""
    run_ids = folder.tracker_run_ids()  # kept if this part of the run is not tracked
    trackers = list[Tracker]()
    if is_main:
        trackers = start_trackers(
            config, run_folder=folder.path, run_ids=run_ids, environment=environment
        )
    folder.write_description(config, environment | run_ids)
    source = folder.resume_from
    first_step, due = (source.state.step, source.after_step.due) if source else (0, [])
    return RunLog(folder.path, trackers, first_step=first_step, due=due)


def _log_summary(setup: Setup, plan: Plan, environment: dict[str, Any]) -> None:
    config, data = setup.config, setup.data
    model, hardware = environment["model"], environment["hardware"]
    cap = softcap_of(setup.causal_lm)
    if cap is not None and not caps_itself(type(cast(Any, setup.causal_lm).config)):
        logger.warning(
            "logit_softcap: SharpGPT caps the logits of this model wherever it loads it. "
            "transformers' own %s ignores final_logit_softcapping in config.json, so elsewhere its "
            "probabilities are others (docs/loss.md)",
            model["class"],
        )
    logger.info(
        f"{model['class']} with {counted(model['num_parameters'], 'parameter')} on "
        f"{hardware['device']} ({hardware['dtype']}); {data.name}: "
        f"{counted(len(data.train_tokens), 'training token')}; "
        f"{counted(plan.total_steps, 'step')} of "
        f"{'up to ' if config.batch_warmup_steps else ''}{counted(plan.tokens_per_step, 'token')}; "
        f"penalty {config.penalty_weight:g} * {config.penalty_type}"
        + (f", then to an entropy of {config.entropy_target:g}" if config.entropy_target else "")
        + (f"; z-loss weight {config.z_loss_weight:g}" if config.z_loss_weight else "")
        + (f"; label smoothing {config.label_smoothing:g}" if config.label_smoothing else "")
        + (f"; logits capped at {cap:g}" if cap else "")
    )
