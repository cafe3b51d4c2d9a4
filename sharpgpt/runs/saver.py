"""Writes checkpoints while training continues: one at a time, from a copy, on a thread.

Training waits only for the copy from the device (on the CPU too: weights change in place). The copy
takes host memory once, 12 bytes per parameter with AdamW. The thread then writes, hashes and
flushes. The next checkpoint waits for the one before, and so does the end of the run.

When a checkpoint cannot be written, as on a full disk, its partial files are removed, the earlier
ones stay, a warning is logged, training continues, and the next interval tries again. Only the last
checkpoint of a run must be written: without it the run fails.
"""

import errno
import logging
import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from sharpgpt.core.errors import UserError
from sharpgpt.core.files import is_full, os_error_text
from sharpgpt.data.tokenizer import Tokenizer
from sharpgpt.runs.checkpoint import CheckpointFolder, step_folder, step_of
from sharpgpt.runs.checkpoint_files import Contents, HostCopies, training_tensors, write_checkpoint
from sharpgpt.runs.state import AfterStep, TrainingState

logger = logging.getLogger(__name__)


class CheckpointSaver:
    """Writes the checkpoints of one run into `folder`.

    `records` are the run's files that must not be behind a checkpoint after a power cut;
    `last_saved` is the newest checkpoint of this run that is complete on the disk.
    """

    def __init__(
        self,
        folder: CheckpointFolder,
        *,
        causal_lm: nn.Module,
        optimizers: list[Optimizer],
        tokenizer: Tokenizer,
        max_seq_length: int,
        device: torch.device,
        in_background: bool,
        records: Sequence[Path],
        last_saved: Path | None = None,
    ) -> None:
        self.folder = folder
        self.last_saved = last_saved
        self._causal_lm = causal_lm
        self._optimizers = optimizers
        self._tokenizer = tokenizer
        self._max_seq_length = max_seq_length
        self._device = device
        self._in_background = in_background
        self._records = records
        self._num_bytes = 0
        self._copies = HostCopies()
        self._huggingface_tokenizer: Any = None
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None

    def has(self, step: int) -> bool:
        """Whether the checkpoint of `step` is the newest one and on the disk."""
        return self.last_saved is not None and step_of(self.last_saved) == step

    def save(self, state: TrainingState, after_step: AfterStep) -> None:
        """Save while training continues; a failure is a warning, and training continues."""
        self.wait()
        contents = self._contents(state, after_step)
        if self._in_background:
            try:
                contents = Contents(
                    weights=self._copies.of(contents.weights),
                    tensors=self._copies.of(contents.tensors),
                    state=state,
                    after_step=after_step,
                )
            except (RuntimeError, MemoryError):  # torch raises RuntimeError for it
                self._in_background = False
                self._copies = HostCopies()
                logger.warning(
                    "no memory for a copy of weights and optimizer state, so training waits "
                    "while checkpoints are written (background_saving: false)"
                )
        self._writing = self._writer.submit(self._write_or_warn, contents)
        if not self._in_background:
            self.wait()

    def save_last(self, state: TrainingState, after_step: AfterStep) -> None:
        """Save the checkpoint that the run ends with, unless it exists; needs no copy.

        Raises:
            UserError: it cannot be written; the checkpoints before it stay.
        """
        self.wait()
        if self.has(state.step):
            return
        try:
            self._write(self._contents(state, after_step))
        except Exception as error:
            raise UserError(
                f"{self._failure(state.step, error)}. Earlier checkpoints are whole; make room "
                "there, or set checkpoint_dir"
            ) from error

    def amend(self, step: int, after_step: AfterStep) -> None:
        """Record work done after the checkpoint of `step` was written, if it was."""
        if self.has(step):
            try:
                self.folder.amend(step, after_step)
            except (OSError, UserError) as error:
                logger.warning("the checkpoint of step %d keeps its old metrics: %s", step, error)

    def wait(self) -> None:
        """Wait until the checkpoint in progress is written or has failed."""
        if self._writing is not None:
            self._writing.result()
            self._writing = None

    def close(self) -> None:
        """Wait, and end the thread."""
        self._writer.shutdown(wait=True)

    def _contents(self, state: TrainingState, after_step: AfterStep) -> Contents:
        return Contents(
            weights=self._causal_lm.state_dict(),
            tensors=training_tensors(self._causal_lm, self._optimizers, self._device),
            state=state,
            after_step=after_step,
        )

    def _write(self, contents: Contents) -> None:
        if self._huggingface_tokenizer is None:
            self._huggingface_tokenizer = self._tokenizer.to_huggingface(self._max_seq_length)
        path = step_folder(self.folder.path, contents.state.step)
        self._num_bytes = contents.num_bytes()
        write_checkpoint(
            path,
            contents,
            causal_lm=self._causal_lm,
            tokenizer=self._huggingface_tokenizer,
            flush_first=self._records,
        )
        self.last_saved = path
        self.folder.prune()

    def _write_or_warn(self, contents: Contents) -> None:
        try:
            self._write(contents)
        except Exception as error:  # of any kind: the run matters more than one checkpoint
            logger.warning(
                "%s. Training continues, earlier checkpoints are whole, and the next interval "
                "tries again",
                self._failure(contents.state.step, error),
            )

    def _failure(self, step: int, error: Exception) -> str:
        if is_full(error):
            path = step_folder(self.folder.path, step)
            # Weights and optimizer state; safetensors names neither the file nor the number.
            room = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            reason = os_error_text(room, needed_bytes=self._num_bytes, remedy="")
            return f"The checkpoint of step {step} could not be written: {reason}"
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        return f"The checkpoint of step {step} could not be written to {self.folder.path}: {reason}"
