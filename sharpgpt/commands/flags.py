"""What the flags of several commands share: the message about a bad value, and --device."""

import argparse
from collections.abc import Mapping

from sharpgpt.core.errors import UserError


def broken(arguments: argparse.Namespace, rules: Mapping[str, tuple[bool, str]]) -> list[str]:
    """A message for each rule that is broken.

    Args:
        arguments: the values.
        rules: the flag as it is typed -> (whether its value is allowed, what is allowed).
    """
    return [
        f"{flag}: given {getattr(arguments, flag.removeprefix('--').lower())!r}, allowed is {words}"
        for flag, (is_good, words) in rules.items()
        if not is_good
    ]


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add --device, whose value `usable_device` checks."""
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, mps [cpu]")


def usable_device(name: str) -> str:
    """`name` if PyTorch can use that device on this machine. Raises `UserError` if not."""
    import torch

    try:
        torch.empty(1, device=torch.device(name))
    except (RuntimeError, AssertionError) as error:  # PyTorch without CUDA asserts
        reason = str(error).splitlines()[0]
        raise UserError(
            f"--device: given {name!r}, which cannot be used here ({reason}); cpu always can"
        ) from None
    return name
