"""`sharpgpt inspect`: show what prepared data holds, and verify it."""

import sys
from collections.abc import Sequence

from sharpgpt.config.flags import flag_parser, parse_options
from sharpgpt.config.options import Options
from sharpgpt.config.values import CountOrNone, FileOrFolder
from sharpgpt.core.files import user_path
from sharpgpt.core.terminal import show
from sharpgpt.runtime.streams import is_terminal


class InspectOptions(Options):
    """What to inspect."""

    data: FileOrFolder
    """A folder of shards, or a .bin file or a folder of them."""

    num_documents: CountOrNone = 3
    """Documents to show."""

    hashes: bool = True
    """Verify the hashes; --no_hashes leaves them unchecked."""


def parse(argv: Sequence[str], prog: str) -> InspectOptions:
    """The options that the command line asks for. Raises `ConfigError` with all problems."""
    description = "Show what prepared data holds, and verify it."
    parser = flag_parser(prog=prog, description=description)
    return parse_options(InspectOptions, argv, parser=parser, positional=("data",))


def run(options: InspectOptions) -> int:
    """Print the description. Raises `UserError` for data that is damaged or unreadable."""
    from rich.progress import DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    from sharpgpt.data.inspect import inspect_data

    columns = (TextColumn("checking hashes"), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, transient=True, disable=not is_terminal(sys.stdout)) as bar:
        task = bar.add_task("", total=None)
        text = inspect_data(
            user_path(options.data),
            num_documents=options.num_documents,
            with_hashes=options.hashes,
            progress=lambda num_bytes: bar.advance(task, num_bytes),
        )
    show(text)
    return 0
