"""The files of one checkpoint: written whole or not at all, and put back into a run.

    step_00000500/
      config.json, generation_config.json, model.safetensors    the model, as HuggingFace writes it
      tokenizer.json, tokenizer_config.json                     its tokenizer
      training_state.json                                       step, settings, data position, ...
      training_state.safetensors                                optimizer state, random states
      checkpoint.json                                           sizes and hashes of all of them

safetensors and JSON only; nothing is executed on loading. The files are written to a folder with
another name, flushed to the disk, and that folder is renamed, so a folder called step_* is whole.

Optimizer tensors are named after their parameter: `optimizer/NAME/KEY`. PyTorch's distributed
checkpoint API maps optimizer state to these names and back, for any optimizer whose state is
tensors. Its flattened form is not used: it adds the settings of each parameter, which are not
tensors, and cannot be loaded when a parameter has no state (it never had a gradient).

The random states are those of PyTorch's generators, on the CPU and on the device: nothing in
training draws from Python's or NumPy's global ones (the order of the blocks has its own, a function
of seed and epoch).
"""

import contextlib
import copy
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sharpgpt.core.errors import UserError
from sharpgpt.core.files import make_folder, remove_folder, sync
from sharpgpt.runs.checkpoint import UNFINISHED, make_way
from sharpgpt.runs.manifest import MANIFEST, DamagedCheckpointError, Manifest, file_facts
from sharpgpt.runs.state import FORMAT_VERSION, STATE_JSON, AfterStep, TrainingState
from sharpgpt.runtime.device import random_states, set_random_states
from sharpgpt.runtime.environment import package_versions

STATE_TENSORS = "training_state.safetensors"


@dataclass(frozen=True)
class Contents:
    """What goes into a checkpoint: tensors (of the run, or copies of them) and the state."""

    weights: dict[str, Tensor]
    tensors: dict[str, Tensor]
    """Optimizer and random states."""
    state: TrainingState
    after_step: AfterStep

    def num_bytes(self) -> int:
        """Of the tensors in files, where tied weights are stored once."""
        tensors = [*self.weights.values(), *self.tensors.values()]
        return sum({(t.data_ptr(), t.shape): t.nbytes for t in tensors}.values())


@dataclass
class HostCopies:
    """Copies of tensors in host memory, in buffers that are used again each time.

    New memory is slow: its pages are made one by one when they are first written to.
    """

    _buffers: dict[str, Tensor] = field(default_factory=dict)

    def of(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """A copy of each tensor; those that share their memory (tied weights) share it again."""
        copies: dict[str, Tensor] = {}
        by_place: dict[tuple[Any, ...], Tensor] = {}
        cuda = False
        for name, tensor in tensors.items():
            place = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
            if place not in by_place:
                on_cuda = tensor.device.type == "cuda"
                buffer = self._buffers.get(name)
                if buffer is None or buffer.shape != tensor.shape or buffer.dtype != tensor.dtype:
                    buffer = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=on_cuda)
                    self._buffers[name] = buffer
                by_place[place] = buffer.copy_(tensor, non_blocking=on_cuda)
                cuda |= on_cuda
            copies[name] = by_place[place]
        if cuda:
            torch.cuda.synchronize()
        return copies


def training_tensors(
    causal_lm: nn.Module, optimizers: list[Optimizer], device: torch.device
) -> dict[str, Tensor]:
    """Optimizer and random states, each under its name; those on the CPU are not copied."""
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

    # An optimizer without state has none to save: PyTorch would initialise it, by a step with zero
    # gradients, and a run that is stopped here would differ from one that is not.
    with_state = [optimizer for optimizer in optimizers if optimizer.state]
    state = get_optimizer_state_dict(causal_lm, with_state)["state"] if with_state else {}
    return _by_name(state) | random_states(device)


def _by_name(optimizer_state: Any) -> dict[str, Tensor]:
    """`optimizer/NAME/KEY` -> tensor, of {NAME: {KEY: tensor}}."""
    return {
        f"optimizer/{name}/{key}": tensor.detach()
        for name, tensors in optimizer_state.items()
        for key, tensor in tensors.items()
    }


def write_checkpoint(
    checkpoint: Path,
    contents: Contents,
    *,
    causal_lm: nn.Module,
    tokenizer: Any,
    flush_first: Sequence[Path] = (),
) -> None:
    """Write a checkpoint folder: all of it, on the disk, or nothing.

    `flush_first` are files that must not be behind the checkpoint on the disk after a power cut,
    the records up to its step. `tokenizer` is HuggingFace's. Raises what writing raises.
    """
    from safetensors.torch import save_file

    temporary = checkpoint.with_name(UNFINISHED + checkpoint.name)
    make_folder(checkpoint.parent)
    _clear(temporary)
    try:
        temporary.mkdir()
        without_progress_bars(
            lambda: cast(Any, causal_lm).save_pretrained(
                temporary, state_dict=dict(contents.weights)
            )
        )
        tokenizer.save_pretrained(temporary)
        tensors = {name: value.cpu().contiguous() for name, value in contents.tensors.items()}
        save_file(tensors, temporary / STATE_TENSORS)
        state = contents.state.model_copy(update={"format_version": FORMAT_VERSION})
        text = state.model_dump_json(indent=1) + "\n"
        (temporary / STATE_JSON).write_text(text, encoding="utf-8")
        manifest = Manifest(
            step=contents.state.step,
            after_step=contents.after_step,
            versions={"python": platform.python_version(), **package_versions()},
            files={path.name: file_facts(path) for path in sorted(temporary.iterdir())},
        )
        (temporary / MANIFEST).write_text(manifest.sealed_text(), encoding="utf-8")
        # safetensors makes files for their owner alone; the folder has the modes of new files.
        mode = temporary.stat().st_mode & 0o666
        for path in temporary.iterdir():
            path.chmod(mode)
        folders = {path.parent for path in flush_first}
        for path in [*temporary.iterdir(), temporary, *flush_first, *folders]:
            sync(path)
        make_way(checkpoint)
        temporary.rename(checkpoint)
        sync(checkpoint.parent)
    finally:
        _clear(temporary)


def _clear(temporary: Path) -> None:
    with contextlib.suppress(OSError):
        remove_folder(temporary.parent, temporary.name)


def load_tensors(
    checkpoint: Path, causal_lm: nn.Module, optimizers: list[Optimizer], device: torch.device
) -> None:
    """Put a verified checkpoint's weights, optimizer state and random states back.

    Raises:
        UserError: they are of another model, another optimizer, another shape or another type.
    """
    from safetensors.torch import load_file
    from torch.distributed.checkpoint.state_dict import (
        StateDictOptions,
        get_optimizer_state_dict,
        set_optimizer_state_dict,
    )

    without_state = [optimizer for optimizer in optimizers if not optimizer.state]
    try:
        tensors = load_file(checkpoint / STATE_TENSORS)
        # A new optimizer takes a step with zero gradients here, so that its state can be compared.
        # That may touch the weights, which are therefore loaded last.
        own = cast(dict[str, Any], get_optimizer_state_dict(causal_lm, optimizers))
        _check_tensors(tensors, _by_name(own["state"]))
        weights = _read_weights(checkpoint, causal_lm)
        set_random_states(tensors, device)
        state = {
            name: {key: tensors[f"optimizer/{name}/{key}"] for key in keys}
            for name, keys in own["state"].items()
            if any(f"optimizer/{name}/{key}" in tensors for key in keys)
        }
        if state:  # strict: every parameter must have state
            set_optimizer_state_dict(
                causal_lm,
                optimizers,
                cast(Any, {"state": state, "param_groups": own["param_groups"]}),
                options=StateDictOptions(strict=False),
            )
        else:
            for optimizer in optimizers:
                optimizer.state.clear()
        causal_lm.load_state_dict(weights)
    except Exception as error:  # transformers raises what it likes for a damaged config.json
        for optimizer in without_state:
            optimizer.state.clear()
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise UserError(
            f"resume: the checkpoint {checkpoint} cannot be continued with these settings, or is "
            f"damaged ({reason}). Use the settings it was made with, or an earlier checkpoint"
        ) from error


def check_shapes(checkpoint: Path, causal_lm: nn.Module) -> None:
    """Compare names and shapes of the weights with those of a model, which needs no values.

    Raises:
        DamagedCheckpointError: they cannot be read.
        UserError: they are of another model.
    """
    from safetensors import SafetensorError, safe_open

    own = {name: list(tensor.shape) for name, tensor in causal_lm.state_dict().items()}
    for path in sorted(checkpoint.glob("model*.safetensors")):
        try:
            with safe_open(path, framework="pt") as file:
                names = list(file.keys())
                shapes = {name: file.get_slice(name).get_shape() for name in names}
        except (SafetensorError, OSError) as error:
            raise DamagedCheckpointError(checkpoint, f"{path.name}: {error}") from error
        for name, shape in shapes.items():
            if own.get(name, shape) != shape:
                raise UserError(
                    f"resume: the checkpoint {checkpoint} is of another model: {name} has shape "
                    f"{shape} there and {own[name]} here. Use the settings it was made with, or "
                    "start a new run"
                )


def _read_weights(checkpoint: Path, causal_lm: nn.Module) -> dict[str, Tensor]:
    """The weights as a state of this very model, complete and in float32.

    The architecture is the run's own and not that of the checkpoint's config.json, so no file from
    outside can ask for another one, or for one of any size.
    """
    from safetensors import safe_open

    for path in sorted(checkpoint.glob("model*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a dictionary
                if (dtype := file.get_slice(name).get_dtype()) != "F32":
                    raise ValueError(f"{name} in {path.name} has type {dtype}, expected F32")
    model_class = cast(Any, type(causal_lm))
    saved, report = without_progress_bars(
        lambda: model_class.from_pretrained(
            checkpoint,
            config=copy.deepcopy(cast(Any, causal_lm).config),
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    )
    if problems := {what: sorted(names)[:3] for what, names in report.items() if names}:
        raise ValueError(f"model.safetensors: {problems}")
    return cast("dict[str, Tensor]", saved.state_dict())


def _check_tensors(tensors: dict[str, Tensor], own: dict[str, Tensor]) -> None:
    """Refuse names, shapes and types that this run would not have written."""
    for name, tensor in sorted(tensors.items()):
        shape, dtype = tuple(tensor.shape), tensor.dtype
        if name.startswith("random/"):
            is_right = len(shape) == 1 and dtype == torch.uint8
        else:
            is_right = name in own and (shape, dtype) == (tuple(own[name].shape), own[name].dtype)
        if not is_right:
            raise ValueError(f"{name[:100]!r} of shape {shape} and type {dtype} is not its own")
    if "random/cpu" not in tensors:
        raise ValueError("random/cpu is missing")
    present = {name.rpartition("/")[0] for name in tensors}
    for name in own.keys() - tensors.keys():
        if name.rpartition("/")[0] in present:
            raise ValueError(f"{name} is missing")


def without_progress_bars(action: Callable[[], Any]) -> Any:
    """Without the bars of transformers, which would break the run's own."""
    from transformers.utils import logging

    was_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        return action()
    finally:
        if was_enabled:
            logging.enable_progress_bar()
