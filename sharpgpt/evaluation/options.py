"""The options of `evaluate` and `compare`: keyword arguments in Python, flags on the command line,
checked by the same rules."""

import argparse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from sharpgpt.config import ConfigError, TrainingConfig
from sharpgpt.config.flags import add_options, python_value
from sharpgpt.config.options import Options, Text, annotations
from sharpgpt.evaluation.verdict import MARGIN, MIN_MARGIN

BATCH_TOKENS = 8192
"""Tokens of a batch where `batch_size` is not given."""


class EvaluationOptions(Options):
    """How models are evaluated."""

    dataset: Text | None = None
    """Name or path, as the setting dataset of a training; its validation split is used. null takes
    what the first model was trained on."""

    text_column: Text | None = None
    """Column or field of the dataset that holds the text; null takes that of the training."""

    max_seq_length: Annotated[int, Field(ge=2)] | None = None
    """Tokens of a block; null takes that of the training, at most 1024."""

    max_blocks: Annotated[int, Field(ge=4)] | None = None
    """Number of blocks to evaluate, evenly spread over the split; null takes all."""

    top_k: Annotated[int, Field(ge=1)] | None = None
    """k of the top-k accuracy and mass; null takes that of the training, else 5."""

    batch_size: Annotated[int, Field(ge=1)] | None = None
    """Blocks at a time; null takes 8,192 tokens of them."""

    num_texts: Annotated[int, Field(ge=0)] = 20
    """Texts to generate with each decoding method, at least 2; 0 generates none."""

    num_tokens: Annotated[int, Field(ge=8)] = 256
    """Tokens of each generated text."""

    prompt: Text | None = None
    """What generated texts begin with; null takes that of the training, else a newline."""

    seed: Annotated[int, Field(ge=0, lt=1 << 32)] = 0
    """Random seed of the generated texts."""

    device: Text = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the model's body. The output layer is evaluated in float32."""

    @classmethod
    def broken_rules(cls, values: Mapping[str, Any]) -> Iterable[tuple[Sequence[str], str]]:
        """(the options concerned, the problem) for each rule that is broken."""
        if values.get("num_texts") == 1:
            yield ("num_texts",), "num_texts: given 1, allowed is 0 for none, else at least 2"
        if "device" in values:
            try:
                TrainingConfig(device=values["device"])
            except ConfigError as error:
                yield ("device",), error.problems[0]


def checked_options(
    values: Mapping[str, Any], *, output: str | Path | None, margin: float = MARGIN
) -> EvaluationOptions:
    """The options with these values, paths as text. Raises `ConfigError` with every problem, those
    of the other arguments of `evaluate` and `compare` included."""
    problems = []
    if output == "":
        problems.append("output: given '', allowed is a folder")
    if not MIN_MARGIN <= margin < float("inf"):
        problems.append(f"margin: given {margin}, allowed is at least {MIN_MARGIN} nats")
    plain = {name: str(one) if isinstance(one, Path) else one for name, one in values.items()}
    return EvaluationOptions.from_dict(plain, problems=problems)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add a flag for each option."""
    add_options(parser, EvaluationOptions)
    parser.add_argument("--data", dest="dataset", help="the same as --dataset")


def flag_values(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options that were given as flags, not checked yet."""
    given = vars(arguments)
    return {
        name: python_value(hint, given[name])
        for name, hint in annotations(EvaluationOptions).items()
        if given[name] is not None
    }
