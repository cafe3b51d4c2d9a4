"""`PrepareOptions`: everything that `sharpgpt prepare` can be told, and its flags.

As in `TrainingConfig`, the docstring under an option is the only place where its meaning is
written, and every value is checked by its annotation. Nothing here imports torch.
"""

import argparse
import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field

from sharpgpt.config.descriptions import setting_descriptions
from sharpgpt.config.rules import ConfigError, allowed, nearest, setting_types, shown, validated
from sharpgpt.config.yaml_files import read_value

Text = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, kw_only=True)
class PrepareOptions:
    """What to prepare, and how. Raises `ConfigError` with every problem of its values."""

    dataset: Text
    """tinyshakespeare, openwebtext, fineweb-edu, or org/name of a dataset on the HuggingFace hub;
    or the path of a file or folder, or a glob, of .txt, .jsonl (both also .gz and .zst) or .parquet
    (docs/data.md)."""

    output: Text
    """The folder for the shards: new, or one in which the same preparation was stopped."""

    tokenizer: Literal["gpt2", "char"] = "gpt2"
    """gpt2: byte-pair encoding, 50257 tokens. char: a token for each distinct character."""

    text_column: Text | None = None
    """Column or field that holds the text; null means text."""

    config_name: Text | None = None
    """Subset of a dataset that has several, such as sample-100BT of fineweb-edu."""

    revision: Text | None = None
    """Branch, tag or commit of a dataset of the hub; null means its main branch."""

    streaming: bool = False
    """Read a dataset of the hub over the network and keep nothing of it, instead of downloading
    each file into the cache."""

    val_fraction: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Part for validation; null means 0.1 of a single text, nanoGPT's split of OpenWebText, and
    0.005 of the documents of anything else."""

    max_documents: Count | None = None
    """Stop after so many documents, of training and validation together."""

    max_tokens: Count | None = None
    """Stop after the document with which the tokens, of training and validation together, reach
    this number: documents stay whole, so there is a little more."""

    shard_tokens: Count = 100_000_000
    """Tokens in a shard file."""

    form: Literal["sharpgpt", "nanogpt", "llm.c"] = "sharpgpt"
    """Form of the files: sharpgpt; nanogpt: train.bin and val.bin, one file each; llm.c: shards
    with its header. Training reads all three."""

    num_workers: Annotated[int, Field(ge=0, le=1024)] | None = None
    """Processes that tokenize; null takes one for each processor, at most 4. 0 tokenizes in the
    main process. The result is the same for all."""

    cache_dir: Text | None = None
    """Where downloads are kept; null means the hub's cache, and ~/.cache/sharpgpt for
    tinyshakespeare."""

    commit_seconds: Annotated[float, Field(ge=0)] = 5.0
    """Seconds between commits, the most that is lost when the process is killed."""

    def __post_init__(self) -> None:
        problems = []
        for name in setting_types(PrepareOptions):
            value, problem = validated(PrepareOptions, name, getattr(self, name))
            object.__setattr__(self, name, value)
            problems += [problem] if problem else []
        if problems:
            raise ConfigError(problems)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The options with these values. Raises `ConfigError`, also for names that are unknown."""
        problems = [
            f"{name}: missing; {setting_descriptions(cls)[name]}"
            for name in ("dataset", "output")
            if values.get(name) is None
        ]
        for name, value in values.items():
            _, problem = validated(cls, name, value)
            problems += [problem] if problem and value is not None else []
        if problems:
            raise ConfigError(problems)
        return cls(**values)


def prepare_parser(prog: str) -> argparse.ArgumentParser:
    """The parser of `sharpgpt prepare`, made from the options."""
    parser = _Parser(
        prog=prog,
        usage="%(prog)s --dataset NAME|PATH --output FOLDER [--OPTION VALUE ...]",
        description="Turn texts into shards of tokens, which training reads from the disk. Stopped "
        "at any moment, the same command goes on where it was.",
        epilog="sharpgpt inspect FOLDER shows what was made; train on it with --dataset FOLDER.",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    descriptions = setting_descriptions(PrepareOptions)
    defaults = {field.name: field.default for field in dataclasses.fields(PrepareOptions)}
    for name, hint in setting_types(PrepareOptions).items():
        default = defaults[name]
        text = descriptions[name]
        if default is not dataclasses.MISSING:
            text += f" [{shown(default)}]"
        text = text.replace("%", "%%")
        if hint is bool:
            parser.add_argument(f"--{name}", nargs="?", const=True, metavar="BOOL", help=text)
        else:
            parser.add_argument(f"--{name}", metavar=_metavar(hint), help=text)
    return parser


def parse_prepare_flags(argv: Sequence[str], prog: str) -> PrepareOptions:
    """The options that the command line asks for.

    Raises `ConfigError` with all problems. `--help` exits.
    """
    known, unknown = prepare_parser(prog).parse_known_args(argv)
    values = {name: _python_value(name, text) for name, text in vars(known).items()}
    problems = []
    for argument in unknown:
        flag = argument.split("=")[0]
        if flag.startswith("--"):
            close = nearest(flag[2:].replace("-", "_"), [*setting_types(PrepareOptions), "help"])
            problems.append(
                f"{flag}: no such flag"
                f"{close.replace('mean ', 'mean --') or '; --help lists every flag'}"
            )
        elif not problems or argument.startswith("-"):
            problems.append(f"{argument}: not a flag; options are given as --name value")
    try:
        options = PrepareOptions.from_dict(values)
    except ConfigError as error:
        problems += error.problems
    if problems:
        raise ConfigError(problems)
    return options


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise ConfigError([f"{message}; --help lists every flag"])


def _metavar(hint: Any) -> str:
    words = allowed(hint)
    if words.startswith("one of "):
        return "{" + words.removeprefix("one of ").replace(", ", ",") + "}"
    return {"a whole number": "INT", "a number": "NUM", "a text": "TEXT"}[
        words.removesuffix(", or null").split(",")[0]
    ]


def _python_value(name: str, text: Any) -> Any:
    """A flag's text as the value that the same text has in YAML; texts stay as they are."""
    hint = setting_types(PrepareOptions)[name]
    if not isinstance(text, str):
        return text
    if type(None) in get_args(hint) and text.lower() in ("null", "none"):
        return None
    if "a text" in allowed(hint):
        return text
    if re.fullmatch(r"\d+(\.\d+)?e\d+", text):  # 1e9, which YAML takes for a text
        return float(text)
    return read_value(text)
