"""`PrepareOptions`: the options of `sharpgpt prepare` and their flags. Imports no torch."""

import argparse
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from sharpgpt.config.flags import add_options, flag_parser, read_flags
from sharpgpt.config.options import Options, Text
from sharpgpt.config.values import Count, NewPath, NonNegative, PathText
from sharpgpt.data.sources.aliases import DATASET_NAMES


class PrepareOptions(Options):
    """What to prepare, and how. Raises `ConfigError` with every problem of its values."""

    dataset: PathText
    """A short name (--help lists them), or org/name of a dataset on the HuggingFace hub; or the
    path of a file or folder, or a glob, of .txt, .jsonl (both also .gz and .zst) or .parquet
    (docs/data.md)."""

    output: NewPath
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
    """Fraction for validation; null means 0.1 of a single text, nanoGPT's split of OpenWebText, and
    0.005 of the documents of anything else."""

    max_documents: Count | None = None
    """Stop after this many documents, of training and validation together."""

    max_tokens: Count | None = None
    """Stop after the document with which the tokens of training and validation together reach this
    number. Documents stay whole, so the total is slightly larger."""

    shard_tokens: Count = 100_000_000
    """Tokens in a shard file."""

    form: Literal["sharpgpt", "nanogpt", "llm.c"] = "sharpgpt"
    """Form of the files: sharpgpt; nanogpt: train.bin and val.bin, one file each; llm.c: shards
    with its header. Training reads all three."""

    num_workers: Annotated[int, Field(ge=0, le=1024)] | None = None
    """Processes that tokenize; null takes one for each processor, at most 4. 0 tokenizes in the
    main process. The result is always the same."""

    cache_dir: NewPath | None = None
    """Where downloads are kept; null means the hub's cache, and ~/.cache/sharpgpt for
    tinyshakespeare."""

    commit_seconds: NonNegative = 5.0
    """Seconds between commits: the most work that is lost when the process is killed."""


def prepare_parser(prog: str) -> argparse.ArgumentParser:
    """The parser of `sharpgpt prepare`, made from the options."""
    parser = flag_parser(
        prog=prog,
        usage="%(prog)s --dataset NAME|PATH --output FOLDER [--OPTION VALUE ...]",
        description="Turn texts into shards of tokens, which training reads from the disk.\n"
        "Stopped at any moment, the same command continues where it was.",
        epilog=f"Short names of datasets: {', '.join(DATASET_NAMES)}.\n"
        "sharpgpt inspect FOLDER shows what was made; train on it with --dataset FOLDER.",
    )
    add_options(parser, PrepareOptions)
    return parser


def parse_prepare_flags(argv: Sequence[str], prog: str) -> PrepareOptions:
    """The options that the command line asks for.

    Raises `ConfigError` with all problems. `--help` exits.
    """
    flags = read_flags(prepare_parser(prog), PrepareOptions, argv)
    return PrepareOptions.from_dict(flags.values, problems=flags.problems)
