"""Resolves what a user gives for a run, a checkpoint or a model; every command asks here.

    RUN, RUN/latest, RUN/checkpoints    the newest checkpoint of a run, in its checkpoint_dir too
    RUN/best                            the one with the lowest val/ce_loss
    RUN/checkpoints/step_N              that very one
    FOLDER                              a HuggingFace model; no checkpoint, so not for resume, push
    ORG/NAME                            one of the hub, unless there is a folder ORG here; likewise

Where the newest checkpoint of a run is damaged, the newest undamaged one is taken and a warning
names the damaged one. A checkpoint that is given by its path is taken or refused.
"""

import re
from pathlib import Path

from sharpgpt.core.errors import UserError
from sharpgpt.core.files import user_path
from sharpgpt.core.hub import is_hub_name, offline_variable
from sharpgpt.core.terminal import one_line
from sharpgpt.runs.checkpoint import Checkpoint, CheckpointFolder, refuse_link
from sharpgpt.runs.manifest import MANIFEST
from sharpgpt.runs.places import checkpoints_of, has_records, name_of_run, run_of_folder

STEP = r"(damaged_)?step_\d+[^/]*"
CHECKPOINT_FORMS = (
    "a run folder such as outputs/NAME, outputs/NAME/best, or a checkpoint such as "
    "outputs/NAME/checkpoints/step_00001000"
)
MODEL_FORMS = f"{CHECKPOINT_FORMS}, the folder of a HuggingFace model, or its name on the hub"
MODEL_HELP = "run folder (its newest checkpoint), RUN/best, checkpoint, or HuggingFace model"

MODEL_FILES = (
    "config.json", "generation_config.json", "model*.safetensors", "model.safetensors.index.json",
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "vocab.txt", "merges.txt", "*.model",
)  # fmt: skip
"""What is needed to load a model: none of it code, and not the training state, which is twice the
size of the weights and names paths of the machine."""


def resolve_run(given: str | Path) -> Path:
    """The run folder of a run, its best, its checkpoints, or one of them.

    Raises:
        UserError: there is no run.
    """
    folder = user_path(given)
    inside = rf"(/checkpoints)?(/best|/latest|/{STEP})?$"
    if not has_records(folder):
        checkpoints = Path(re.sub(rf"(/best|/latest|/{STEP})$", "", folder.as_posix()))
        folder = run_of_folder(checkpoints) or Path(re.sub(inside, "", folder.as_posix()))
    if not folder.is_dir():
        raise UserError(f"{given}: no such run folder; expected a folder such as outputs/NAME")
    if not has_records(folder):
        raise UserError(
            f"{given}: holds no run (neither metrics.jsonl nor environment.json); expected a "
            "folder such as outputs/NAME"
        )
    return folder


def resolve_checkpoint(given: str | Path, *, setting: str) -> Checkpoint:
    """The checkpoint, every byte of it verified. `setting` names in messages what was given.

    Raises:
        UserError: there is none, or none that is undamaged, or it is a model without the state of
            its training.
    """
    path = checkpoint_path(given)
    if checkpoint := _checkpoint(path):
        return checkpoint
    what = "where there is no checkpoint"
    if (path / "config.json").is_file() or is_hub_name(given):
        what = "a HuggingFace model and not a checkpoint, without the state of its training"
    auto = "auto, " if setting == "resume" else ""
    raise UserError(f"{setting}: given {str(given)!r}, {what}; allowed is {auto}{CHECKPOINT_FORMS}")


def resolve_model(given: str | Path) -> Path:
    """The model folder; one of the hub is downloaded into HuggingFace's cache.

    Raises:
        UserError: there is no model, or no checkpoint that is undamaged.
    """
    path = checkpoint_path(given)
    if (path / "config.json").is_file():
        return path
    if checkpoint := _checkpoint(path):
        return checkpoint.path
    if is_hub_name(given):
        return _downloaded(str(given))
    problem = "no such folder"
    if path.is_dir():
        problem = "holds no model (neither config.json nor a checkpoint)"
    raise UserError(f"{given}: {problem}; allowed is {MODEL_FORMS}")


def checkpoint_path(given: str | Path) -> Path:
    """The path as it was given; for RUN/latest that of RUN, for RUN/best that of the checkpoint.

    Raises:
        UserError: no checkpoint there was validated at its step; or it is a link within a run.
    """
    path = user_path(given)
    if re.fullmatch(STEP, path.name) or has_records(path.parent):
        refuse_link(path)
    if re.fullmatch(STEP, path.name) and has_records(path.parent.parent):
        refuse_link(path.parent)
    if path.name not in ("best", "latest") or path.exists():
        return path
    if path.name == "latest":
        return path.parent
    for folder in (CheckpointFolder(path.parent), checkpoints_of(path.parent)):
        if best := folder.best():
            return best
    raise UserError(
        f"{given}: no checkpoint in {path.parent} was validated at its step; allowed is a "
        "checkpoint, a run folder, or RUN/latest"
    )


def model_name(folder: Path) -> str:
    """The run of a checkpoint, ORG/NAME in HuggingFace's cache, or the name of another folder."""
    if name := name_of_run(folder):
        return one_line(name)
    folder = folder.resolve()
    if folder.parent.name == "snapshots":
        return folder.parent.parent.name.removeprefix("models--").replace("--", "/")
    return one_line(folder.name)


def _checkpoint(path: Path) -> Checkpoint | None:
    """The checkpoint in this very folder, else the newest undamaged one of a run; verified."""
    is_one = re.fullmatch(STEP, path.name) or (path / MANIFEST).exists()
    if is_one:
        return Checkpoint.verified(path) if path.is_dir() else None
    if found := CheckpointFolder(path).newest():
        return found
    return checkpoints_of(path).newest()


def _downloaded(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    variable = offline_variable()
    try:
        folder = snapshot_download(
            name,
            allow_patterns=list(MODEL_FILES),
            ignore_patterns=["*/*"],
            local_files_only=variable is not None,
        )
    except (HFValidationError, OSError) as error:
        reason = f"{variable} is set" if variable else " ".join(str(error).split())[:300]
        raise UserError(
            f"{name}: no such folder here, and no such model can be had from the HuggingFace hub "
            f"({reason}); check the name, or run hf download {name} where there is a network; "
            f"allowed is {MODEL_FORMS}"
        ) from error
    return Path(folder)
