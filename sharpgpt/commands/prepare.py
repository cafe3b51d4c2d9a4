"""`sharpgpt prepare`: turn texts into shards of tokens."""

from sharpgpt.data.prepare.options import PrepareOptions
from sharpgpt.data.prepare.options import parse_prepare_flags as parse

__all__ = ["parse", "run"]


def run(options: PrepareOptions) -> int:
    """Write the shards; log lines and a progress bar show how far it is."""
    from sharpgpt.data.prepare.pipeline import prepare

    prepare(options)
    return 0
