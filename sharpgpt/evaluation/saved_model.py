"""A trained model from its folder: a checkpoint of a run, or any HuggingFace causal LM.

Nothing in the folder is executed: weights are safetensors, the rest is JSON, and no kernel that it
names is fetched.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from sharpgpt.config import ConfigError, TrainingConfig
from sharpgpt.core.errors import UserError
from sharpgpt.core.terminal import make_library_visible
from sharpgpt.model.build import check_layers, plain_config
from sharpgpt.model.folder import refuse_strange_files
from sharpgpt.model.head import head_problem
from sharpgpt.model.quiet import quiet_transformers
from sharpgpt.model.softcap import apply_softcap
from sharpgpt.runs.manifest import MANIFEST, verify_files
from sharpgpt.runs.resolve import model_name, resolve_model
from sharpgpt.runs.state import TrainingState, read_state


@dataclass(frozen=True)
class SavedModel:
    """A model in evaluation mode with its tokenizer, and what is known about its training."""

    folder: Path
    causal_lm: nn.Module
    tokenizer: Any
    """HuggingFace's."""
    max_length: int
    """Positions of the model, in tokens."""
    settings: dict[str, Any] | None
    """The `TrainingConfig` it was trained with, as a dictionary; None for a foreign model."""
    step: int | None
    """Optimizer steps it was trained for; None for a foreign model."""
    text_sha256: str | None
    """Of the text it was trained on; None for a foreign model."""

    @property
    def name(self) -> str:
        """The run of a checkpoint, or the name of another model."""
        return model_name(self.folder)


def load_model(path: str | Path, device: torch.device | str = "cpu") -> SavedModel:
    """Load the model of `path` (see `runs.resolve`), in float32.

    Raises:
        UserError: there is none, or it is damaged or of a kind that cannot be read.
    """
    folder = resolve_model(path)
    if (folder / MANIFEST).is_file():
        verify_files(folder)
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    make_library_visible("transformers")
    logging.disable_progress_bar()
    how: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        refuse_strange_files(folder)
        with quiet_transformers():
            config = plain_config(AutoConfig.from_pretrained(folder, **how))
            check_layers(config)
            causal_lm, loading = AutoModelForCausalLM.from_pretrained(
                folder,
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                output_loading_info=True,
                **how,
            )
            apply_softcap(causal_lm)
            tokenizer = AutoTokenizer.from_pretrained(folder, **how)
    except Exception as error:  # transformers raises anything for a damaged folder
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise UserError(
            f"{folder}: cannot be read as a HuggingFace causal LM with safetensors and a tokenizer "
            f"({reason}); give another checkpoint"
        ) from error
    if missing := sorted(loading["missing_keys"]):  # transformers would leave them random
        raise UserError(
            f"{folder}: the weights lack {len(missing)} of the model's tensors ({missing[0]}); "
            "give another checkpoint"
        )
    state, record = _state(folder), training_record(folder)
    positions = getattr(causal_lm.config, "max_position_embeddings", None)
    return SavedModel(
        folder=folder,
        causal_lm=cast(nn.Module, causal_lm).to(device).eval(),
        tokenizer=tokenizer,
        max_length=int(positions or 1024),
        settings=record.settings if record else None,
        step=state.step if state else None,
        text_sha256=state.text if state else None,
    )


def load_saved_tokenizer(folder: Path) -> Any:
    """HuggingFace's tokenizer of a model folder. Raises `UserError` where it cannot be read."""
    from transformers import AutoTokenizer

    try:
        refuse_strange_files(folder)
        with quiet_transformers():
            return AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
    except Exception as error:  # transformers raises anything for a damaged folder
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise UserError(f"{folder}: its tokenizer cannot be read ({reason})") from error


def require_linear_head(saved: SavedModel) -> None:
    """Raise `UserError` unless the logits are one linear map of the last hidden state."""
    if problem := head_problem(saved.causal_lm):
        raise UserError(f"{saved.folder}: {problem}")


@dataclass(frozen=True)
class TrainingRecord:
    """How a model was trained, from its checkpoint."""

    settings: dict[str, Any]
    """The `TrainingConfig`, as a dictionary."""
    step: int
    blocks_per_step: int
    text_sha256: str


def training_record(folder: Path) -> TrainingRecord | None:
    """How the model in `folder` was trained; None for a foreign model, and for settings that this
    version does not know."""
    state = _state(folder)
    if state is None:
        return None
    try:
        settings = TrainingConfig.from_dict(dict(state.config)).to_dict()
    except ConfigError:
        return None
    return TrainingRecord(settings, state.step, state.blocks_per_step, state.text)


def _state(folder: Path) -> TrainingState | None:
    try:
        return read_state(folder)
    except (OSError, ValueError):
        return None
