"""Checkpoints: a HuggingFace model folder plus the state that training needs to go on.

    step_00000500/
      config.json, generation_config.json, model.safetensors    the model, as HuggingFace writes it
      tokenizer.json, tokenizer_config.json                     its tokenizer
      training_state.json                                       step, settings, log state
      training_state.safetensors                                optimizer state, random states

No pickle anywhere. A checkpoint is written under a temporary name and renamed, so a folder called
step_* is whole. Optimizer tensors are named after their parameter: `optimizer/NAME/KEY`.
"""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sharpgpt.data import Tokenizer
from sharpgpt.device import device_random_state, set_device_random_state
from sharpgpt.files import UserError, make_readable

STATE_JSON = "training_state.json"
STATE_TENSORS = "training_state.safetensors"
STATE_TYPES = {
    "step": int,
    "config": dict,
    "data_sha256": str,
    "tokenizer_fingerprint": str,
    "window": dict,
}
"""What training_state.json holds; the loop writes it."""


@dataclass
class CheckpointFolder:
    """The checkpoints of one run: save, find, and keep the newest `keep`."""

    path: Path
    keep: int

    def newest(self) -> Path | None:
        """The checkpoint with the highest step, or None.

        Raises:
            UserError: there are checkpoints, but their state is missing from every one.
        """
        newest = max(_checkpoints(self.path), key=_step_of, default=None)
        if newest is None and (damaged := sorted(self.path.glob("step_*"))):
            raise UserError(
                f"resume: {damaged[-1]} has no {STATE_JSON}, so nothing in {self.path} can be "
                "continued; give another run_name, or delete that folder to start over"
            )
        return newest

    def save(
        self,
        step: int,
        *,
        causal_lm: nn.Module,
        tokenizer: Tokenizer,
        optimizers: list[Optimizer],
        max_seq_length: int,
        device: torch.device,
        state: dict[str, Any],
    ) -> Path:
        """Write the checkpoint of `step`, then remove all but the newest `keep`.

        Raises:
            UserError: it cannot be written; the checkpoints before it stay.
        """
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        self.path.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".unfinished_", dir=self.path))
        try:
            _without_progress_bars(lambda: cast(Any, causal_lm).save_pretrained(temporary))
            tokenizer.to_huggingface(max_seq_length).save_pretrained(temporary)
            tensors = {**_optimizer_tensors(causal_lm, optimizers), **_random_states(device)}
            save_file(tensors, temporary / STATE_TENSORS)
            (temporary / STATE_JSON).write_text(
                json.dumps({"step": step, **state}, indent=2), encoding="utf-8"
            )
            for file in temporary.iterdir():
                make_readable(file)
                with open(file, "rb+") as handle:
                    os.fsync(handle.fileno())
            make_readable(temporary)
            final = self.path / f"step_{step:08d}"
            if final.exists():  # left by an earlier run from the same checkpoint
                shutil.rmtree(final)
            temporary.rename(final)
        except (OSError, SafetensorError) as error:
            raise UserError(
                f"The checkpoint of step {step} could not be written to {self.path}: {error}. "
                "Earlier checkpoints are whole; make room there, or set checkpoint_dir"
            ) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        for old in sorted(_checkpoints(self.path), key=_step_of)[: -self.keep]:
            shutil.rmtree(old, ignore_errors=True)
        return final


def find_checkpoint(path: Path) -> Path:
    """The checkpoint that `path` means: itself, or the newest one in a run or checkpoints folder.

    Raises:
        UserError: there is none.
    """
    if (path / STATE_JSON).is_file():
        return path
    found = CheckpointFolder(path, 1).newest() or CheckpointFolder(path / "checkpoints", 1).newest()
    if found is None:
        raise UserError(
            f"resume: given {str(path)!r}, where there is no checkpoint; allowed is auto, a "
            "checkpoint folder such as outputs/NAME/checkpoints/step_00001000, or a run folder"
        )
    return found


def read_state(checkpoint: Path) -> dict[str, Any]:
    """The JSON state of a checkpoint. Raises `UserError` for one that is damaged."""
    try:
        state = json.loads((checkpoint / STATE_JSON).read_text(encoding="utf-8"))
        for name, kind in STATE_TYPES.items():
            if type(state[name]) is not kind:
                raise TypeError(f"{name} is {state[name]!r:.60}")
        if state["step"] < 0:
            raise ValueError(f"step is {state['step']}")
        return cast(dict[str, Any], state)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"resume: {checkpoint / STATE_JSON} is damaged ({type(error).__name__}: {error}); "
            "resume from an earlier checkpoint"
        ) from error


def load_tensors(
    checkpoint: Path, causal_lm: nn.Module, optimizers: list[Optimizer], device: torch.device
) -> None:
    """Put a checkpoint's weights, optimizer state and random states back.

    Raises:
        UserError: the files are damaged, or belong to another model.
    """
    from safetensors.torch import load_file

    try:
        tensors = load_file(checkpoint / STATE_TENSORS)
        loader = cast(Any, type(causal_lm)).from_pretrained
        saved = _without_progress_bars(lambda: loader(checkpoint, dtype=torch.float32))
        causal_lm.load_state_dict(saved.state_dict())
        _restore_optimizers(tensors, causal_lm, optimizers)
        torch.set_rng_state(tensors["random/cpu"])
        if f"random/{device.type}" in tensors and device.type != "cpu":
            set_device_random_state(device, tensors[f"random/{device.type}"])
    except Exception as error:  # transformers raises what it likes for a damaged config.json
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise UserError(
            f"resume: the checkpoint {checkpoint} cannot be continued with these settings, or is "
            f"damaged ({reason}). Use the settings it was made with, or an earlier checkpoint"
        ) from error


def _checkpoints(folder: Path) -> list[Path]:
    return [
        path
        for path in folder.glob("step_*")
        if re.fullmatch(r"step_\d+", path.name) and (path / STATE_JSON).is_file()
    ]


def _without_progress_bars(action: Callable[[], Any]) -> Any:
    """transformers shows a bar for each file it writes, across ours."""
    from transformers.utils import logging

    was_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        return action()
    finally:
        if was_enabled:
            logging.enable_progress_bar()


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step_"))


def _optimizer_tensors(causal_lm: nn.Module, optimizers: list[Optimizer]) -> dict[str, Tensor]:
    names = {id(parameter): name for name, parameter in causal_lm.named_parameters()}
    return {
        f"optimizer/{names[id(parameter)]}/{key}": value.detach().cpu().contiguous()
        for optimizer in optimizers
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    }


def _restore_optimizers(
    tensors: dict[str, Tensor], causal_lm: nn.Module, optimizers: list[Optimizer]
) -> None:
    parameters = dict(causal_lm.named_parameters())
    owner = {
        parameter: optimizer
        for optimizer in optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    for full_name, tensor in tensors.items():
        if full_name.startswith("optimizer/"):
            name, key = full_name.removeprefix("optimizer/").rsplit("/", 1)
            parameter = parameters[name]
            owner[parameter].state[parameter][key] = tensor.to(parameter.device)


def _random_states(device: torch.device) -> dict[str, Tensor]:
    states = {"random/cpu": torch.get_rng_state()}
    if device.type != "cpu":
        states[f"random/{device.type}"] = device_random_state(device)
    return states
