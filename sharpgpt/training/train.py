"""`train(config)`: a run from its settings to its folder.

    outputs/<run name>/
      config.yaml  environment.json  metrics.jsonl  samples.jsonl  summary.json  log.txt
      checkpoints/step_00000500/   report.html

In order: what can refuse the run (checks.py: device, text and tokens, model, memory, run folder),
training, report. Errors of the user are found before the run folder is made, wherever possible.
"""

import logging
import os
from contextlib import ExitStack, nullcontext
from dataclasses import replace

import torch

from sharpgpt.config import TrainingConfig
from sharpgpt.data.prepare.stopping import Stopped
from sharpgpt.runtime.console import console_logging
from sharpgpt.runtime.device import torch_settings_kept
from sharpgpt.runtime.distributed import is_torchrun, ranks_from_environment
from sharpgpt.runtime.signals import DUPLICATE_S, StopSignal, deliver
from sharpgpt.training.build import build_training
from sharpgpt.training.checks import Prospect
from sharpgpt.training.loop import RunFailedError, run_steps
from sharpgpt.training.memory import explain_out_of_memory
from sharpgpt.training.result import RunResult, conclude
from sharpgpt.training.startup import Startup
from sharpgpt.training.state import Training

__all__ = ["RunResult", "run_training", "train"]

logger = logging.getLogger(__name__)


def train(config: TrainingConfig) -> RunResult:
    """Train as `config` says and write a run folder that explains itself.

    A signal that asks to stop (Ctrl-C, SIGTERM) saves a checkpoint after the current step, writes
    the report, and is then delivered as it would be without this call: Ctrl-C raises
    KeyboardInterrupt, so a loop over several runs ends too. Outside the main thread, where Python
    handles no signals, none is noticed. PyTorch's random states and matmul precision are as before
    when this returns.

    Raises:
        KeyboardInterrupt: Ctrl-C, once the checkpoint is saved; at once if pressed again.
        ConfigError: settings that contradict each other.
        UserError: anything else that the user can fix, such as a missing text, a folder that cannot
            be written or is in use, too little memory, a checkpoint that is damaged or belongs to
            other settings, a loss that is no longer finite.
    """
    if not isinstance(config, TrainingConfig):
        raise TypeError(f"train: given {type(config).__name__}, expected a TrainingConfig")
    try:
        result = run_training(config)
    except Stopped as stopped:
        deliver(stopped.signal_number)
        raise
    if result.signal_number is not None:
        deliver(result.signal_number)
    return result


def run_training(config: TrainingConfig, startup: Startup | None = None) -> RunResult:
    """`train`, but a signal that stopped it is only in the result: for a command's exit code.

    `startup` has the time before this call; without it the first phase begins here.
    """
    with ExitStack() as stack:
        stack.enter_context(torch_settings_kept())
        if config.compile:
            # PyTorch compiles a function for eight models; the ninth run would be eager.
            stack.callback(torch.compiler.reset)
        rank = ranks_from_environment()[0]
        console = stack.enter_context(console_logging(is_shown=rank == 0))
        memory = stack.enter_context(explain_out_of_memory(config))
        found = Prospect(config, memory, stack, startup=startup or Startup())
        found.check()
        setup, folder = found.setup, found.folder
        if setup.processes.is_main:
            config = replace(
                config, run_name=folder.path.name, checkpoint_dir=folder.checkpoint_dir
            )
            setup = replace(setup, config=config)
            console.open_log_file(folder.path / "log.txt")
        run = build_training(setup, folder, console=console, startup=found.startup)
        stack.callback(run.outputs.saver.close)  # before the folder is released
        return _run_and_conclude(run)


def _duplicate_s() -> float:
    """torchrun forwards a signal that all its processes have had, and so does a job of Slurm."""
    return DUPLICATE_S if is_torchrun() or "SLURM_JOB_ID" in os.environ else 0.0


def _run_and_conclude(run: Training) -> RunResult:
    first_step = run.progress.step
    peers = run.processes.peers
    explain = peers.explain() if peers else nullcontext()
    try:
        with explain, StopSignal(duplicate_s=_duplicate_s()) as stop:
            run_steps(run, stop)
    except Exception as error:
        conclude(run, exit_code=1)
        if isinstance(error, RunFailedError):
            run.processes.barrier()
        raise
    except BaseException:  # a second Ctrl-C: end at once, without a report
        run.outputs.log.finish(1)
        raise
    result = conclude(run, exit_code=0, signal_number=stop.number)
    logger.info("%s", result.text(run.plan.total_steps, first_step))
    # torchrun ends the other processes when one exits with a code that is not 0.
    run.processes.barrier()
    return result
