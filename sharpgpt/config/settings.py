"""`TrainingConfig`: every setting of a run, its meaning and its range.

Its first sections are in settings_model.py and settings_optimisation.py. To add a setting, write it
in its section: its type with its kind (kinds.py), its default, and a docstring, from which `--help`
and the comments in every `config.yaml` are made. A value is checked when it is assigned; rules
between settings (rules.py) when the configuration is made, read or used (`check`). Nothing here
imports torch.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, Literal, Self

from pydantic import Field

from sharpgpt.config import rules
from sharpgpt.config.kinds import Housekeeping, Records, Rounding
from sharpgpt.config.options import Text
from sharpgpt.config.settings_model import ModelSettings
from sharpgpt.config.settings_optimisation import OptimisationSettings
from sharpgpt.config.values import (
    MAX_COUNT,
    Count,
    CountOrNone,
    DeviceName,
    NewPath,
    PathText,
    ShareAboveNone,
    Temperature,
)
from sharpgpt.config.yaml_files import read_settings, write_settings

SECTIONS = {
    "model_name": "Model",
    "dataset": "Data",
    "penalty_type": "Sharpness penalty",
    "batch_size": "Optimisation",
    "device": "Machine",
    "eval_interval": "Validation, samples, checkpoints",
    "run_name": "Run folder",
    "use_wandb": "Weights & Biases",
}
"""The first setting of each section of `--help` and YAML files, and the title of the section."""


class TrainingConfig(OptimisationSettings, ModelSettings):
    """Every setting of a training run. Raises `ConfigError` (a ValueError) for bad values."""

    sections = SECTIONS

    device: Rounding[DeviceName] = "auto"
    """auto takes cuda, else mps, else cpu; or name one: cpu, cuda, cuda:1, mps."""

    dtype: Housekeeping[Literal["auto", "float32", "bfloat16"]] = "auto"
    """Arithmetic of the forward and backward pass; weights stay float32. auto is bfloat16 on CUDA
    devices that have it, and on a CPU that has it and measures it faster for this model; else
    float32. A run that is continued keeps the arithmetic that it began with."""

    compile: Rounding[bool] = False
    """Compile the model with torch.compile: a slow first step, faster ones after it."""

    gradient_checkpointing: Rounding[bool] = False
    """Recompute activations in the backward pass: less memory, about a third more time."""

    profile: Housekeeping[Annotated[int, Field(ge=0, le=100)]] = 0
    """Steps to profile, after the first three; 0 for none. profile/operations.txt in the run folder
    then tells where their time went, and profile/trace.json.gz opens in Perfetto."""

    eval_interval: Records[CountOrNone] = 500
    """Steps between validations; 0 validates at the end only."""

    eval_max_blocks: Records[Count | None] = None
    """Maximum number of validation blocks, always the same ones; null takes the whole split."""

    log_interval: Records[Count] = 10
    """Steps between log lines; train/* losses are means over all rows since the last one."""

    generate_interval: Records[CountOrNone] = 500
    """Steps between samples; 0 samples at the end only."""

    num_generate_samples: Records[CountOrNone] = 3
    """Samples generated each time; 0 for none."""

    generate_max_length: Records[Annotated[int, Field(ge=2, le=MAX_COUNT)]] = 100
    """Tokens in a sample, prompt included, or after it where the prompt has as many or more. May
    exceed max_seq_length."""

    generate_temperature: Records[Temperature] = 1.0
    """Sampling temperature; 0 takes the most probable token each time."""

    generate_top_p: Records[ShareAboveNone] = 0.9
    """Nucleus sampling: the smallest set of tokens with this mass; 1 keeps all."""

    generate_prompt: Records[Text] = "\n"
    """The text that samples continue; "<|endoftext|>" in it is GPT-2's end-of-text token. Where a
    character vocabulary has no newline, its default is the first character of the text."""

    save_interval: Housekeeping[CountOrNone] = 1000
    """Steps between checkpoints; 0 saves at the end only."""

    keep_checkpoints: Housekeeping[Count] = 2
    """Number of newest checkpoints kept. The best one, by val/ce_loss at its own step, is kept
    beside them."""

    keep_every_steps: Housekeeping[CountOrNone] = 0
    """Checkpoints of steps divisible by this are never deleted; 0 for none."""

    background_saving: Housekeeping[bool] = True
    """Write checkpoints while training continues, from a copy in host memory (12 bytes per
    parameter, kept between checkpoints). false: no copy, and training waits for the disk."""

    run_name: Housekeeping[Text | None] = None
    """Name of the run and of its folder; null derives one from the time and the settings."""

    output_dir: Housekeeping[NewPath] = "./outputs"
    """The run folder is output_dir/run_name."""

    checkpoint_dir: Housekeeping[NewPath | None] = None
    """Checkpoints go to checkpoint_dir/run_name; null means the run folder's checkpoints/."""

    resume: Housekeeping[PathText | None] = None
    """auto continues from run_name's newest undamaged checkpoint, or starts without one. A path (of
    a checkpoint, a run folder, or RUN/best) continues from there: that run if run_name names
    it, else a new run."""

    allow_config_change: Housekeeping[bool] = False
    """Resume even if settings that change the mathematics differ from the checkpoint's."""

    use_wandb: Housekeeping[bool] = True
    """Track the run in Weights & Biases. metrics.jsonl is always written."""

    wandb_project: Housekeeping[Text] = "gpt2-entropy-regularization"
    """W&B project."""

    wandb_entity: Housekeeping[Text | None] = None
    """W&B team or user; null is your default."""

    wandb_mode: Housekeeping[Literal["auto", "online", "offline", "disabled"]] = "auto"
    """auto is online if there is an API key and W&B is reachable, else offline."""

    @classmethod
    def broken_rules(cls, values: Mapping[str, Any]) -> Iterable[tuple[Sequence[str], str]]:
        """The rules of rules.py."""
        return rules.broken_rules(SimpleNamespace(**values))

    @classmethod
    def from_yaml(cls, path: str | Path, *, allow_import: bool = False) -> Self:
        """Read a YAML file of settings; those not in it keep their defaults.

        A file may come from anyone, so a penalty with an import path, which runs when a training
        imports it, is refused unless `allow_import` is given.
        """
        settings = read_settings(path, cls)
        problems = [] if allow_import else rules.code_in_file(settings, path)
        return cls.from_dict(settings, problems=problems)

    def to_yaml(self, path: str | Path) -> None:
        """Write every setting, its meaning as a comment; loads back to an equal configuration."""
        self.check()
        write_settings(self, path)
