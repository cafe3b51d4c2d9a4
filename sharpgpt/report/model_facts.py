"""The facts of a checkpoint: from its own files, its run folder, and evaluations of it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharpgpt.core.errors import UserError
from sharpgpt.core.jsonio import read_object
from sharpgpt.core.metrics import metrics_shown
from sharpgpt.model.softcap import FIELD, transformers_caps
from sharpgpt.report.arms import Json, mapping, number_of, objects, value_at
from sharpgpt.report.model_words import loss_words, model_words, validated_on
from sharpgpt.runs.places import run_folder_of
from sharpgpt.runs.reader import Metrics, read_run
from sharpgpt.runs.state import read_state

RECIPE = (
    "model_name", "n_layer", "n_head", "n_embd", "dropout", "tokenizer", "max_seq_length",
    "document_boundaries", "penalty_type", "penalty_weight", "top_k", "penalty_positions",
    "penalty_warmup_steps", "penalty_schedule", "penalty_final_ratio", "entropy_target",
    "penalty_weight_bounds", "z_loss_weight", "label_smoothing", "logit_softcap",
    "batch_size", "gradient_accumulation_steps", "batch_warmup_steps", "batch_warmup_start",
    "num_epochs", "max_steps", "optimizer", "learning_rate", "warmup_steps", "lr_schedule",
    "min_lr_ratio", "lr_decay_fraction", "lr_decay_steps", "weight_decay", "betas", "eps",
    "muon_learning_rate", "muon_momentum", "muon_momentum_warmup_steps", "muon_nesterov",
    "muon_weight_decay", "muon_ns_steps", "muon_normalization", "muon_split_qkv",
    "max_grad_norm", "seed",
)  # fmt: skip
"""The settings that make the model what it is; none of them is a path of a dataset or a run."""

VALIDATION = {
    metric: metric.label.lower() + (", nats" if metric.unit.startswith("nats") else "")
    for metric in metrics_shown("model card")
}


@dataclass(frozen=True)
class ModelFacts:
    """What is known from the files of the checkpoint and its run folder."""

    folder: Path
    name: str
    """Of the run."""
    settings: Mapping[str, Any]
    step: int
    model_type: str
    num_parameters: int | None
    num_positions: int
    newline_id: int | None
    """The id of the newline in a character vocabulary; None where a token ends a text."""
    data_name: str
    is_stand_in: bool
    validation: Mapping[str, str]
    """Validation metrics that were logged at this very step, by their words."""
    words: str
    """What the model is, as `GPT-2, 2 layers, 0.8 M parameters`."""
    validated_on: str
    """On how much of the validation split."""
    versions: Mapping[str, str]
    softcap: float | None = None
    """Of the logits, in config.json."""

    @property
    def penalty(self) -> str:
        """The setting penalty_type."""
        return str(self.settings.get("penalty_type"))

    @property
    def penalty_weight(self) -> float:
        """The setting penalty_weight; 0 where it is unknown."""
        return number_of(self.settings, "penalty_weight") or 0.0

    @property
    def ignored_softcap(self) -> float | None:
        """The soft cap of the logits, where transformers' own class does not apply it."""
        return None if self.softcap is None or transformers_caps(self.model_type) else self.softcap

    @property
    def other_terms(self) -> str:
        """The whole loss in words, where it is more than the cross-entropy and the penalty."""
        more = ("z_loss_weight", "label_smoothing", "logit_softcap")
        return loss_words(self.settings) if any(self.settings.get(name) for name in more) else ""


def read_facts(checkpoint: Path) -> ModelFacts:
    """The facts of a checkpoint, as far as they are known: its run folder may be gone.

    Raises:
        UserError: the folder is not a checkpoint of a run.
    """
    try:
        state = read_state(checkpoint)
        config = read_object(checkpoint / "config.json", follow_links=False)
        tokenizer = read_object(checkpoint / "tokenizer.json", follow_links=False)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{checkpoint}: cannot be read as a checkpoint ({error}); allowed is a checkpoint that "
            "train.py wrote, such as outputs/NAME/checkpoints/step_00001000, or its run folder"
        ) from None
    run_folder = run_folder_of(checkpoint)
    run = read_run(run_folder) if run_folder else None
    environment = run.environment if run else {}
    data = value_at(environment, "data")
    is_own_data = value_at(data, "sha256") == state.text
    name = value_at(data, "name") if is_own_data else None
    num_parameters = number_of(environment, "model", "num_parameters")
    versions = value_at(environment, "versions")
    ends_texts = value_at(config, "eos_token_id") is not None
    newline_id = None if ends_texts else number_of(tokenizer, "model", "vocab", "\n")
    positions = (
        number_of(config, "n_positions")
        or number_of(config, "max_position_embeddings")
        or number_of(state.config, "max_seq_length")
    )
    return ModelFacts(
        folder=checkpoint,
        name=run_folder.resolve().name if run_folder else checkpoint.resolve().name,
        settings=state.config,
        step=state.step,
        model_type=str(value_at(config, "model_type") or ""),
        softcap=number_of(config, FIELD),
        num_parameters=None if num_parameters is None else int(num_parameters),
        num_positions=int(positions or 1024),
        newline_id=None if newline_id is None else int(newline_id),
        # Of a path only the last part may be published; a run is named after it.
        data_name=str(name or re.split(r"[/\\]", str(state.config.get("dataset")))[-1]),
        is_stand_in=is_own_data and value_at(data, "is_stand_in") is True,
        validation=_validation(run.metrics, state.step) if run else {},
        words=model_words(state.config, _known_model(environment, config)),
        validated_on=validated_on(state.config, environment if is_own_data else {}),
        versions={str(package): str(version) for package, version in versions.items()}
        if isinstance(versions, dict)
        else {},
    )


def _validation(metrics: Metrics, step: int) -> dict[str, str]:
    found = {}
    for metric, words in VALIDATION.items():
        column = metrics.column(f"val/{metric.name}").finite()
        if step in column.steps:
            found[words] = metric.text(column.values[column.steps.index(step)])
    return found


def _known_model(environment: Json, config: Json) -> Json:
    """The model of environment.json, else what config.json of the checkpoint says."""
    architectures = value_at(config, "architectures")
    layers = number_of(config, "num_hidden_layers") or number_of(config, "n_layer")
    known = {
        "class": architectures[0] if isinstance(architectures, list) and architectures else "",
        "num_layers": layers,
        **mapping(environment, "model"),
    }
    return {"model": known}


def run_of(runs: Sequence[Json], facts: ModelFacts) -> Json | None:
    """The EVALUATION of this checkpoint among several, or None.

    It has the checkpoint's path, or else the run's name, and always its step and its settings: a
    path or a name may have been reused.
    """
    alike = [run for run in runs if _same_training(run, facts)]
    for run in alike:
        path = run.get("path")
        if not isinstance(path, str) or "\0" in path:
            continue
        if Path(path).resolve() == facts.folder.resolve():
            return run
    for run in alike:
        if re.sub(r", step [\d,]+$", "", str(run.get("name"))) == facts.name:
            return run
    return None


def _same_training(run: Json, facts: ModelFacts) -> bool:
    settings = run.get("settings")
    known = settings if isinstance(settings, Mapping) else {}
    return number_of(run, "step") == facts.step and all(
        known[name] == facts.settings[name]
        for name in RECIPE
        if name in known and name in facts.settings
    )


def arm_of(comparison: Json, facts: ModelFacts) -> tuple[Json | None, Json | None]:
    """(ARM, EVALUATION) of this checkpoint in comparison.json; a run of the baseline has no ARM,
    and a checkpoint that was not compared has neither."""
    for arm in objects(comparison.get("models")):
        if run := run_of(objects(arm.get("runs")), facts):
            return arm, run
    return None, run_of(objects(value_at(comparison, "baseline", "runs")), facts)
