"""The folder of a HuggingFace model from anyone, looked at before transformers reads it.

transformers opens whatever is there: it waits for a pipe for ever, and reads an endless device or a
file of any size whole. Links are followed, since HuggingFace's cache is made of them.
"""

import stat
from itertools import chain
from pathlib import Path
from typing import Any

from sharpgpt.core.jsonio import read_object
from sharpgpt.core.terminal import one_line

MAX_TEXT_BYTES = 256 * 2**20
"""Of a tokenizer.json, a vocabulary or a template: several times the largest in use."""
JSON_FILES = (
    "config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json",
    "model.safetensors.index.json",
)  # fmt: skip


def refuse_strange_files(folder: Path) -> None:
    """Raise ValueError for a pipe, a device, a text that is too large, and JSON that is none.

    Names with control characters are refused too.
    """
    for path in chain(folder.iterdir(), folder.glob("additional_chat_templates/*")):
        try:
            facts = path.stat()
        except OSError:
            continue  # a link to nowhere, which transformers takes for a missing file
        if stat.S_ISDIR(facts.st_mode):
            continue
        if not stat.S_ISREG(facts.st_mode):
            raise ValueError(f"{path.name} is no plain file")
        if path.suffix != ".safetensors" and facts.st_size > MAX_TEXT_BYTES:
            raise ValueError(f"{path.name} has more than {MAX_TEXT_BYTES:,} bytes")
    for name in JSON_FILES:
        if (folder / name).is_file():
            _refuse_controls(name, read_object(folder / name, allow_nan=True))


def _refuse_controls(file: str, content: Any) -> None:
    """Raise ValueError for a name that could control the terminal: tokenizers prints names."""
    if isinstance(content, dict):
        for name in content:
            if one_line(name) != name:
                raise ValueError(f"{file}: a name with control characters, {name[:80]!r}")
    if isinstance(content, dict | list):
        for value in content.values() if isinstance(content, dict) else content:
            _refuse_controls(file, value)
