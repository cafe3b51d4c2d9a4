"""The settings of `TrainingConfig` for the model, its data and the sharpness penalty."""

from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from pydantic import Field

from sharpgpt.config.architectures import MAX_LAYERS
from sharpgpt.config.kinds import Fixed, Housekeeping, Mathematics, Rounding, Schedule
from sharpgpt.config.options import Options, Text
from sharpgpt.config.values import (
    MAX_COUNT,
    BelowOne,
    Count,
    CountOrNone,
    NewPath,
    NonNegative,
    PathText,
    Positive,
)
from sharpgpt.sharpness.penalties import PENALTIES

if TYPE_CHECKING:
    BuiltInPenalty: TypeAlias = str
else:
    BuiltInPenalty = Literal[tuple(PENALTIES)]
FORMULAS = " ".join(f"{name}: {penalty.formula}." for name, penalty in PENALTIES.items())
ImportPath = Annotated[str, Field(pattern=r"^\w+(\.\w+)*:\w+$")]
PenaltyType = Annotated[BuiltInPenalty, Field(description=FORMULAS)] | ImportPath


class ModelSettings(Options):
    """What is trained, on what text, and with which penalty."""

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

    penalty_warmup_steps: Schedule[CountOrNone] = 0
    """Steps over which the penalty weight rises linearly from 0 to penalty_weight."""

    penalty_schedule: Schedule[Literal["constant", "linear", "cosine"]] = "constant"
    """Penalty weight after its warm-up: constant, or a linear or cosine schedule to
    penalty_final_ratio * penalty_weight at the last step."""

    penalty_final_ratio: Schedule[NonNegative] = 0.0
    """Weight at the last step over penalty_weight, for the linear and cosine schedules."""

    entropy_target: Mathematics[Positive | None] = None
    """Nats a token: after penalty_warmup_steps a controller moves the penalty weight, starting with
    penalty_weight, so that the entropy in training follows this (docs/recipe.md); null is off."""

    penalty_weight_bounds: Mathematics[tuple[float, float]] = (-1.0, 0.9)
    """Smallest and largest penalty weight with entropy_target. Below 0 it flattens. Near 1 the
    entropy penalty collapses rows; the other penalties need more for the same entropy."""

    z_loss_weight: Mathematics[NonNegative] = 0.0
    """Weight of the z-loss, (ln sum e^logits)^2 of every row, in the loss. It keeps logits from
    drifting; 1e-4 in PaLM (Chowdhery et al. 2022, section 5), 0 for none."""

    label_smoothing: Mathematics[BelowOne] = 0.0
    """Weight e of label smoothing, in [0, 1): training minimises the cross-entropy against
    (1 - e) one-hot + e / V (Szegedy et al. 2016, section 7). ce_loss stays the plain one."""

    logit_softcap: Mathematics[Positive | None] = None
    """Soft cap c: the logits are c tanh(z / c) before all else, in training and afterwards (30 in
    Gemma 2, arXiv 2408.00118, section 2). null: the model's own, none for GPT-2 (docs/loss.md)."""
