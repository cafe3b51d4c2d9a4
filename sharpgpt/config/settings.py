"""`TrainingConfig`: every setting of a run, its meaning and its range.

To add a setting, write it here: its type with its kind (kinds.py), its default, and a docstring,
from which `--help` and the comments in every `config.yaml` are made. A value is checked when it is
assigned; rules between settings (rules.py) when the configuration is made, read or used (`check`).
Nothing here imports torch.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeAlias

from pydantic import Field

from sharpgpt.config import rules
from sharpgpt.config.architectures import MAX_LAYERS
from sharpgpt.config.kinds import Fixed, Housekeeping, Mathematics, Policy, Records, Rounding
from sharpgpt.config.options import Options, Text
from sharpgpt.config.values import (
    MAX_COUNT,
    BelowOne,
    Count,
    CountOrNone,
    DeviceName,
    NewPath,
    NonNegative,
    PathText,
    Positive,
    Seed,
    Share,
    ShareAboveNone,
    Temperature,
)
from sharpgpt.config.yaml_files import read_settings, write_settings
from sharpgpt.sharpness.penalties import PENALTIES

if TYPE_CHECKING:
    BuiltInPenalty: TypeAlias = str
else:
    BuiltInPenalty = Literal[tuple(PENALTIES)]
FORMULAS = " ".join(f"{name}: {penalty.formula}." for name, penalty in PENALTIES.items())
ImportPath = Annotated[str, Field(pattern=r"^\w+(\.\w+)*:\w+$")]
PenaltyType = Annotated[BuiltInPenalty, Field(description=FORMULAS)] | ImportPath

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


class TrainingConfig(Options):
    """Every setting of a training run. Raises `ConfigError` (a ValueError) for bad values."""

    sections = SECTIONS

    model_name: Fixed[PathText] = "gpt2"
    """Architecture: gpt2, gpt2-medium, gpt2-large, gpt2-xl (no network needed), or the local folder
    or hub name of any HuggingFace causal LM with a linear output layer. Its weights are random."""

    n_layer: Fixed[Annotated[int, Field(ge=1, le=MAX_LAYERS)] | None] = None
    """Number of transformer layers; null takes the architecture's."""

    n_head: Fixed[Count | None] = None
    """Number of attention heads; null takes the architecture's. Must divide n_embd."""

    n_embd: Fixed[Count | None] = None
    """Width of the model; null takes the architecture's."""

    dropout: Mathematics[BelowOne] = 0.0
    """Dropout probability on embeddings, attention and residual paths, in [0, 1)."""

    tokenizer: Fixed[Literal["gpt2", "char"]] = "gpt2"
    """gpt2: byte-pair encoding, 50257 tokens. char: a token for each distinct character."""

    dataset: Housekeeping[PathText] = "tinyshakespeare"
    """A short name such as tinyshakespeare or openwebtext (sharpgpt prepare --help lists them), or
    org/name of a dataset on the HuggingFace hub; the path of a text file, of .jsonl or .parquet
    files, of a folder of such files, of a folder that sharpgpt prepare wrote, or of the .bin files
    of nanoGPT or llm.c (docs/data.md)."""

    text_column: Housekeeping[Text | None] = None
    """Column or field of the dataset that holds the text; null means text."""

    config_name: Housekeeping[Text | None] = None
    """Subset of a dataset that has several, such as sample-100BT of fineweb-edu."""

    revision: Housekeeping[Text | None] = None
    """Branch, tag or commit of a dataset of the hub; null means its main branch."""

    streaming: Housekeeping[bool] = False
    """Read a dataset of the hub over the network while it is prepared, and keep nothing of it."""

    val_fraction: Mathematics[Annotated[float, Field(gt=0, lt=1)] | None] = None
    """Fraction for validation; null means 0.1 of a single text, nanoGPT's split of OpenWebText, and
    0.005 of the documents of anything else. Prepared data is split already."""

    max_seq_length: Fixed[Annotated[int, Field(ge=2, le=MAX_COUNT)]] = 1024
    """Tokens in a block, the context length T. Each block predicts its T - 1 later tokens."""

    document_boundaries: Mathematics[Literal["ignore", "respect"]] = "ignore"
    """respect: no token attends to another document of its block. ignore is faster, and what GPT-2
    and nanoGPT do. The end-of-text token separates documents, so a single text has only one."""

    cache_dir: Housekeeping[NewPath | None] = None
    """Where downloads are kept; null means ~/.cache/sharpgpt."""

    num_workers: Housekeeping[Annotated[int, Field(ge=0, le=1024)]] = 2
    """Threads that tokenize and prefetch batches; 0 does both in the main thread."""

    penalty_type: Mathematics[PenaltyType] = "non_max_sum"
    """All fall as p sharpens. Or module:name, the import path of a Penalty (docs/loss.md)."""

    penalty_weight: Mathematics[float] = 0.01
    """Weight w in loss = cross_entropy + w * penalty. Above 0 sharpens, 0 is plain cross-entropy,
    below 0 flattens (the confidence penalty of Pereyra et al. 2017)."""

    top_k: Mathematics[Count] = 5
    """k of the top-k mass, in the top_k_mass penalty and in the logged top_k_mass."""

    loss: Rounding[Literal["fused", "reference"]] = "fused"
    """fused: one pass in chunks that never holds the logits. reference: the same from dense logits,
    slow and memory-hungry, for checking the fused loss."""

    penalty_positions: Mathematics[Text] = "0:N-2"
    """Penalised positions of a block of N tokens, first:last, inclusive, each written as a number,
    N, N-2 or N/2. 0:N-2 is every position that predicts a token of the block."""

    penalty_warmup_steps: Mathematics[CountOrNone] = 0
    """Steps over which the penalty weight rises linearly from 0 to penalty_weight."""

    penalty_schedule: Mathematics[Literal["constant", "linear", "cosine"]] = "constant"
    """Penalty weight after its warm-up: constant, or a linear or cosine schedule to
    penalty_final_ratio * penalty_weight at the last step."""

    penalty_final_ratio: Mathematics[NonNegative] = 0.0
    """Weight at the last step over penalty_weight, for the linear and cosine schedules."""

    batch_size: Rounding[Count] = 8
    """Blocks in one forward pass (a micro-batch)."""

    gradient_accumulation_steps: Rounding[Count] = 4
    """Micro-batches in one optimizer step; their gradients equal those of one large batch."""

    num_epochs: Mathematics[Annotated[float, Field(gt=0, le=MAX_COUNT)]] = 10
    """Passes over the training text; max_steps overrides it."""

    max_steps: Mathematics[Count | None] = None
    """Optimizer steps; null trains for num_epochs."""

    optimizer: Fixed[Literal["adamw", "muon"]] = "adamw"
    """adamw for all parameters, or muon for the matrices inside the layers, adamw for the rest."""

    learning_rate: Mathematics[Positive] = 6e-4
    """Peak learning rate."""

    warmup_steps: Mathematics[CountOrNone] = 500
    """Steps of linear learning-rate warm-up."""

    min_lr_ratio: Mathematics[Share] = 0.1
    """Learning rate at the end of the cosine decay over learning_rate."""

    weight_decay: Mathematics[NonNegative] = 0.1
    """Decoupled weight decay, on matrices and embeddings only."""

    betas: Mathematics[tuple[BelowOne, BelowOne]] = (0.9, 0.95)
    """Adam's two decay rates, each in [0, 1)."""

    eps: Mathematics[Positive] = 1e-8
    """Adam's epsilon."""

    max_grad_norm: Mathematics[NonNegative] = 1.0
    """Gradient clipping: gradients are scaled down to this global norm; 0 turns it off."""

    on_nonfinite: Policy[Literal["stop", "skip"]] = "stop"
    """A loss or gradient that is not finite: stop saves the weights before that step and ends the
    run; skip skips the step, counts it (train/num_skipped_steps) and continues."""

    max_skipped_steps: Policy[Count] = 10
    """With on_nonfinite skip: this many skipped steps in a row end the run."""

    on_spike: Policy[Literal["log", "rollback"]] = "log"
    """A loss spike: log counts it (train/num_loss_spikes) and continues; rollback also returns to
    the newest checkpoint and skips the batches since then."""

    spike_threshold: Policy[Positive] = 10
    """A loss is a spike if it is this many spreads above the median loss of the last 100 steps; the
    spread is the median absolute deviation from that median, at least 0.02."""

    seed: Mathematics[Seed] = 42
    """Seed of the weights, the order of the blocks, dropout and the samples."""

    device: Rounding[DeviceName] = "auto"
    """auto takes cuda, else mps, else cpu; or name one: cpu, cuda, cuda:1, mps."""

    dtype: Housekeeping[Literal["auto", "float32", "bfloat16"]] = "auto"
    """Arithmetic of the forward and backward pass; weights stay float32. auto is bfloat16 on CUDA
    devices that have it, else float32."""

    compile: Rounding[bool] = False
    """Compile the model with torch.compile: a slow first step, faster ones after it."""

    gradient_checkpointing: Rounding[bool] = False
    """Recompute activations in the backward pass: less memory, about a third more time."""

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
