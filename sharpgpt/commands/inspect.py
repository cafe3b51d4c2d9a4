"""`sharpgpt inspect`: show what prepared data holds, and verify it."""

import argparse
import sys
from pathlib import Path

from sharpgpt.core.terminal import show


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `sharpgpt inspect`."""
    parser.add_argument("data", type=Path, help="a folder of shards, or .bin files")
    parser.add_argument("--num_documents", type=int, default=3, help="documents to show [3]")
    parser.add_argument("--no_hashes", action="store_true", help="leave the hashes unchecked")


def run(arguments: argparse.Namespace) -> int:
    """Print the description. Raises `UserError` for data that is damaged or unreadable."""
    from rich.progress import DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    from sharpgpt.data.inspect import inspect_data

    columns = (TextColumn("checking hashes"), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, transient=True, disable=not sys.stdout.isatty()) as bar:
        task = bar.add_task("", total=None)
        text = inspect_data(
            arguments.data,
            num_documents=arguments.num_documents,
            with_hashes=not arguments.no_hashes,
            progress=lambda num_bytes: bar.advance(task, num_bytes),
        )
    show(text)
    return 0
