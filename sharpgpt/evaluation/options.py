"""The options of `evaluate` and `compare`: keyword arguments in Python, flags on the command line,
checked by the same rules."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from sharpgpt.config.flags import flag_parser
from sharpgpt.config.options import Options, Text, annotations
from sharpgpt.config.values import (
    MAX_COUNT,
    MAX_GENERATED,
    Count,
    DeviceName,
    PathText,
    Rule,
    Seed,
)
from sharpgpt.core.files import user_path
from sharpgpt.evaluation.verdict import MARGIN, MIN_MARGIN

BATCH_TOKENS = 8192
"""Tokens of a batch where `batch_size` is not given."""


class PassOptions(Options):
    """On what text models are evaluated, and with what."""

    dataset: PathText | None = None
    """Name or path, as the setting dataset of a training; its validation split is used. null takes
    what the first model was trained on."""

    text_column: Text | None = None
    """Column or field of the dataset that holds the text; null takes that of the training."""

    max_seq_length: Annotated[int, Field(ge=2, le=MAX_COUNT)] | None = None
    """Tokens of a block; null takes that of the training, at most 1024."""

    max_blocks: Annotated[int, Field(ge=4, le=MAX_COUNT)] | None = None
    """Number of blocks to evaluate, evenly spread over the split; null takes all."""

    top_k: Count | None = None
    """k of the top-k accuracy and mass; null takes that of the training, else 5."""

    batch_size: Count | None = None
    """Blocks at a time; null takes 8,192 tokens of them."""

    device: DeviceName = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the model's body. The output layer is evaluated in float32."""

    def of_passes(self) -> dict[str, Any]:
        """These options alone, without those of a subclass."""
        return {name: getattr(self, name) for name in annotations(PassOptions)}


class EvaluationOptions(PassOptions):
    """How models are evaluated."""

    num_texts: Annotated[
        int,
        Rule(
            f"a whole number, 0 for none, else 2 to {MAX_GENERATED}",
            lambda number: None if number == 0 or 2 <= number <= MAX_GENERATED else "",
        ),
    ] = 20
    """Texts to generate with each decoding method, at least 2; 0 generates none."""

    num_tokens: Annotated[int, Field(ge=8, le=MAX_GENERATED)] = 256
    """Tokens of each generated text."""

    prompt: Text | None = None
    """What generated texts begin with; null takes that of the training, else a newline."""

    seed: Seed = 0
    """Random seed of the generated texts."""

    def of_evaluation(self) -> dict[str, Any]:
        """These options alone, without those of a subclass."""
        return {name: getattr(self, name) for name in annotations(EvaluationOptions)}


def checked_options(
    values: Mapping[str, Any], *, output: str | Path | None, margin: float = MARGIN
) -> EvaluationOptions:
    """The options with these values, paths as text. Raises `ConfigError` with every problem, those
    of the other arguments of `evaluate` and `compare` included."""
    problems = []
    if output == "":
        problems.append("output: given '', allowed is a folder")
    elif output is not None and (figures := user_path(output) / "figures").is_symlink():
        problems.append(f"output: {figures} is a link, and nothing is written through one")
    if not MIN_MARGIN <= margin < float("inf"):
        problems.append(f"margin: given {margin}, allowed is at least {MIN_MARGIN} nats")
    plain = {name: str(one) if isinstance(one, Path) else one for name, one in values.items()}
    return EvaluationOptions.from_dict(plain, problems=problems)


def evaluation_parser(**texts: str) -> argparse.ArgumentParser:
    """A parser for flags of these options; `texts` are argparse's prog and description."""
    parser = flag_parser(**texts)
    parser.add_argument("--data", dest="dataset", help="the same as --dataset")
    return parser
