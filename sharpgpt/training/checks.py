"""Everything that can refuse a run before its first step: `CHECKS`, in order.

A training goes through this one list and so does `--dry_run`, with the same messages and exit
codes. A dry run prepares no dataset, gives the model no weights, and writes nothing.
"""

import logging
import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from sharpgpt.config import TrainingConfig
from sharpgpt.config.rules import settings_without_effect
from sharpgpt.core.numbers import counted
from sharpgpt.data.blocks import TrainingBlocks, validation_blocks
from sharpgpt.data.load import TextData
from sharpgpt.runs.checkpoint_files import check_shapes
from sharpgpt.runs.folder import RunFolder
from sharpgpt.runtime.device import ALL_BFLOAT16, Device, choose_device
from sharpgpt.runtime.distributed import Processes, process_group, ranks_from_environment
from sharpgpt.sharpness.products import cpu_multiplies_bfloat16
from sharpgpt.training.agreement import found_facts, given_facts, require_same
from sharpgpt.training.build import (
    build_model,
    check_world_size,
    load_training_data,
    open_run_folder,
)
from sharpgpt.training.memory import MemoryCheck
from sharpgpt.training.muon import qkv_matrices
from sharpgpt.training.optimizer import state_bytes
from sharpgpt.training.schedule import total_steps
from sharpgpt.training.setup import Setup
from sharpgpt.training.startup import Startup

logger = logging.getLogger(__name__)


@dataclass
class Prospect:
    """A run before its first step. Each check fills in what the later ones need."""

    config: TrainingConfig
    memory: MemoryCheck
    stack: ExitStack
    """Closes the group of processes and the run folder."""
    is_dry: bool = False
    startup: Startup = field(default_factory=Startup)
    ranks: tuple[int, int, int] = field(default_factory=ranks_from_environment)
    processes: Processes = field(default_factory=Processes)

    device: Device = field(init=False)
    data: TextData = field(init=False)
    num_steps: int = field(init=False)
    num_blocks: int = field(init=False)
    """Of an epoch."""
    causal_lm: nn.Module = field(init=False)
    """On the device meta, without values, until `build_the_model`."""
    setup: Setup = field(init=False)
    folder: RunFolder = field(init=False)

    def check(self) -> None:
        """Go through `CHECKS`. Raises the `UserError` of the first that refuses."""
        for check in CHECKS:
            check(self)


def check_device(run: Prospect) -> None:
    """The settings agree with each other, and this machine has the device."""
    run.config.check()
    _, world_size, local_rank = run.ranks
    run.device = choose_device(run.config)
    if world_size > 1:
        run.device = run.device.for_rank(local_rank)


def check_processes(run: Prospect) -> None:
    """The processes of the run can share its work, and were given the same."""
    world_size = run.ranks[1]
    if run.is_dry:
        check_world_size(run.config, world_size)
        return
    run.processes = run.stack.enter_context(process_group(run.device.torch_device.type))
    if world_size > 1:
        require_same(run.processes, given_facts(run.config, run.device))
        with run.processes.raise_together():
            check_world_size(run.config, world_size)
        run.device = run.device.with_arithmetic(run.processes.broadcast(run.device.arithmetic))


def check_data(run: Prospect) -> None:
    """The penalty can be imported; the data is there, whole, and long enough."""
    run.data = run.processes.main_first(
        lambda: load_training_data(run.config, may_prepare=not run.is_dry)
    )
    if note := run.data.source["note"]:
        logger.warning("%s", note, extra={"once": note})  # a study checks several runs
    length = run.config.max_seq_length
    run.num_blocks = len(TrainingBlocks(run.data.train_tokens, length, run.config.seed))
    validation_blocks(run.data.val_tokens, length, run.config.eval_max_blocks)
    run.num_steps = total_steps(run.config, run.num_blocks)
    run.startup.phase("text and tokens")


def check_model(run: Prospect) -> None:
    """The architecture is there and can have these sizes."""
    with torch.device("meta"):
        run.causal_lm = build_model(run.config, run.data)


def check_memory(run: Prospect) -> None:
    """A step fits into the memory; nothing of the model has been allocated yet."""
    run.memory.check(run.causal_lm, run.device, run.ranks[1])


def build_the_model(run: Prospect) -> None:
    """The model has weights, but for a dry run; all processes have the same model and data."""
    if not run.is_dry:
        run.causal_lm = build_model(run.config, run.data)
    run.startup.phase("transformers and the model")
    run.setup = Setup(run.config, run.device, run.processes, data=run.data, causal_lm=run.causal_lm)
    if run.processes.world_size > 1:
        require_same(run.processes, found_facts(run.setup))


def check_folder(run: Prospect) -> None:
    """The run folder can be used, has room, and holds a checkpoint that may be continued."""
    weights = sum(4 * parameter.numel() for parameter in run.causal_lm.parameters())
    num_bytes = weights + state_bytes(run.causal_lm, run.config)
    run.folder = open_run_folder(
        run.setup, run.stack, checkpoint_bytes=num_bytes, dry_run=run.is_dry
    )
    if source := run.folder.resume_from:
        check_shapes(source.path, run.causal_lm)
        run.device = run.setup.device_to_continue(source.state)
        run.setup = replace(run.setup, device=run.device)


def note_what_is_unusual(run: Prospect) -> None:
    """Say what is no error and rarely meant."""
    config, source = run.config, run.folder.resume_from
    if run.device.reason and not source:
        logger.info("dtype %s: %s", run.device.dtype_name, run.device.reason)
    if run.device.arithmetic == ALL_BFLOAT16 and not cpu_multiplies_bfloat16():
        logger.warning(
            "the run began in bfloat16 and is continued so, but this CPU has no instructions for "
            "it and is slow; --dtype float32 --allow_config_change continues in float32"
        )
    if config.resume == "auto" and source is None:
        logger.warning(
            "there is no checkpoint in %s, so the run starts at step 0; earlier metrics and "
            "samples, if any, are kept as *.before-<time>",
            run.folder.checkpoints.path,
        )
    if source and (changed := run.setup.accepted_changes(source.state)):
        logger.warning("not as in the checkpoint %s: %s", source.path, "; ".join(changed))
    if source and source.state.step >= run.num_steps:
        logger.warning(
            "the checkpoint is of step %s and the run has %s, so nothing is left to train",
            f"{source.state.step:,}",
            counted(run.num_steps, "step"),
        )
    if config.warmup_steps > run.num_steps:
        logger.warning(
            f"warmup_steps {config.warmup_steps} is more than the run's "
            f"{counted(run.num_steps, 'step')}, so the learning rate never reaches its peak"
        )
    num_left = max(0, run.num_steps - config.warmup_steps)
    if config.lr_schedule == "wsd" and (config.lr_decay_steps or 0) > num_left:
        logger.warning(
            f"lr_decay_steps {config.lr_decay_steps} is more than the {counted(num_left, 'step')} "
            "after the warm-up, so there is no stable phase"
        )
    if config.batch_warmup_steps > run.num_steps:
        logger.warning(
            f"batch_warmup_steps {config.batch_warmup_steps} is more than the run's "
            f"{counted(run.num_steps, 'step')}, so no step has the whole batch"
        )
    if config.entropy_target is not None:
        vocab_size = run.data.tokenizer.vocab_size
        if config.entropy_target >= (largest := math.log(vocab_size)):
            logger.warning(
                f"entropy_target {config.entropy_target:g} is out of reach: the largest entropy "
                f"over {counted(vocab_size, 'token')} is {largest:.2f} nats"
            )
    for note in settings_without_effect(config):
        logger.warning("%s", note)
    splits = config.optimizer == "muon" and config.muon_split_qkv
    if splits and not qkv_matrices(run.causal_lm):
        logger.warning(
            "muon_split_qkv true has no effect: %s has no c_attn of queries, keys and values",
            type(run.causal_lm).__name__,
        )


CHECKS: tuple[Callable[[Prospect], None], ...] = (
    check_device,
    check_processes,
    check_data,
    check_model,
    check_memory,
    build_the_model,
    check_folder,
    note_what_is_unusual,
)
