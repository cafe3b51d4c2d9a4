"""What can be a name on the HuggingFace hub, and whether the hub may be asked."""

import os
import re
from pathlib import Path

from sharpgpt.core.files import user_path


def has_hub_form(text: str) -> bool:
    """Whether this has the form ORG/NAME."""
    return re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", text, re.ASCII) is not None


def is_hub_name(given: str | Path, *, short: bool = False) -> bool:
    """Whether this can be ORG/NAME, or with `short`, as old models have it, NAME.

    A mistyped path is no such name: the folder before its end exists.
    """
    if short and re.fullmatch(r"\w[\w.-]*", str(given), re.ASCII):
        return True
    return has_hub_form(str(given)) and not user_path(given).parent.exists()


def is_offline() -> bool:
    """Whether the user forbids the network with SHARPGPT_OFFLINE=1 (any value but empty and 0)."""
    return os.environ.get("SHARPGPT_OFFLINE", "") not in ("", "0")


def offline_variable() -> str | None:
    """The environment variable with which the user forbids the HuggingFace hub, or None."""
    from huggingface_hub import constants

    if is_offline():
        return "SHARPGPT_OFFLINE"
    return "HF_HUB_OFFLINE" if constants.HF_HUB_OFFLINE else None
