"""The options of `evaluate` and `compare`: keyword arguments in Python, flags on the command line.

The docstring under an option is the only place where its meaning is written, and every value is
checked by its annotation, wherever it comes from.
"""

import argparse
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field

from sharpgpt.config import ConfigError, TrainingConfig
from sharpgpt.config.descriptions import setting_descriptions
from sharpgpt.config.rules import allowed, setting_types, validated
from sharpgpt.config.yaml_files import read_value
from sharpgpt.evaluation.verdict import MARGIN, SMALLEST_MARGIN

Text = Annotated[str, Field(min_length=1)]

BATCH_TOKENS = 8192
"""Tokens of a batch where `batch_size` is not given."""


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """How models are evaluated. Raises `ConfigError` with every problem of its values."""

    dataset: Text | None = None
    """Name or path, as the setting dataset, whose validation split is used; null takes what the
    first model was trained on."""

    max_seq_length: Annotated[int, Field(ge=2)] | None = None
    """Tokens of a block; null takes that of the training, at most 1024."""

    max_blocks: Annotated[int, Field(ge=4)] | None = None
    """Evaluate so many blocks, evenly spread; null takes all."""

    top_k: Annotated[int, Field(ge=1)] | None = None
    """k of the top-k accuracy and mass; null takes that of the training, else 5."""

    batch_size: Annotated[int, Field(ge=1)] | None = None
    """Blocks at a time; null takes 8,192 tokens of them."""

    num_texts: Annotated[int, Field(ge=0)] = 20
    """Texts to generate for each decoding method, at least 2; 0 generates none."""

    num_tokens: Annotated[int, Field(ge=8)] = 256
    """Tokens of each generated text."""

    prompt: Text | None = None
    """What generated texts begin with; null takes that of the training, else a newline."""

    seed: Annotated[int, Field(ge=0, lt=1 << 32)] = 0
    """Random seed of the generated texts."""

    device: Text = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the model's body, float32 or bfloat16. The output layer is evaluated in
    float32."""

    def __post_init__(self) -> None:
        if problems := self.problems(vars(self)):
            raise ConfigError(problems)
        for name, value in vars(self).items():
            object.__setattr__(self, name, validated(type(self), name, value)[0])

    @classmethod
    def problems(cls, values: Mapping[str, Any], output: str | Path | None = None) -> list[str]:
        """What is wrong with these values, unknown names included, and with an output folder."""
        found = [problem for name in values if (problem := validated(cls, name, values[name])[1])]
        if values.get("num_texts") == 1:
            found.append("num_texts: given 1, allowed is 0 for none, else at least 2")
        if isinstance(device := values.get("device"), str) and device:
            try:
                TrainingConfig(device=device)
            except ConfigError as error:
                found += error.problems
        if output == "":
            found.append("output: given '', allowed is a folder")
        return found

    @classmethod
    def of(cls, values: Mapping[str, Any], output: str | Path | None) -> Self:
        """The options with these values, paths as text, for results that go into a folder.

        Raises `ConfigError` with every problem, also for a name that is unknown.
        """
        plain: dict[str, Any] = {
            name: str(value) if isinstance(value, Path) else value for name, value in values.items()
        }
        if problems := cls.problems(plain, output):
            raise ConfigError(problems)
        return cls(**plain)


@dataclass(frozen=True, kw_only=True)
class ComparisonOptions(EvaluationOptions):
    """How models are compared."""

    margin: Annotated[float, Field(ge=SMALLEST_MARGIN)] = MARGIN
    """Nats within which nothing is called different."""


def add_flags(parser: argparse.ArgumentParser, options: type[EvaluationOptions]) -> None:
    """A flag for each option."""
    descriptions = setting_descriptions(EvaluationOptions) | setting_descriptions(options)
    for field in dataclasses.fields(options):
        default = "" if field.default is None else f" [{field.default}]"
        parser.add_argument(
            *(["--data", "--dataset"] if field.name == "dataset" else [f"--{field.name}"]),
            dest=field.name,
            default=argparse.SUPPRESS,
            help=(descriptions[field.name] + default).replace("%", "%%"),
        )


def flag_values(arguments: argparse.Namespace, options: type) -> dict[str, Any]:
    """The options that were given as flags, as Python values that are not checked yet."""
    types, given = setting_types(options), vars(arguments)
    return {
        name: given[name] if "a text" in allowed(hint) else read_value(given[name])
        for name, hint in types.items()
        if name in given
    }
