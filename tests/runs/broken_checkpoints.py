"""Checkpoints of a short run, and what may happen to them."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sharpgpt.runs.manifest import MANIFEST, file_facts, read_manifest

FILES = (
    "checkpoint.json", "config.json", "generation_config.json", "model.safetensors",
    "tokenizer.json", "tokenizer_config.json", "training_state.json", "training_state.safetensors",
)  # fmt: skip
SETTINGS: dict[str, Any] = {
    "max_steps": 6, "save_interval": 2, "keep_checkpoints": 9, "eval_interval": 2, "n_layer": 1,
}  # fmt: skip


def newest(checkpoints: Path) -> Path:
    return checkpoints / "step_00000006"


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def flip(place: float) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[int(place * (len(data) - 1))] ^= 1
        path.write_bytes(data)

    return damage


def grow(path: Path) -> None:
    with open(path, "ab") as file:
        file.write(b"\n")


DAMAGES = {
    "truncated": truncate, "emptied": empty, "deleted": Path.unlink, "grown": grow,
    "flipped at the start": flip(0), "flipped inside": flip(0.4), "flipped at the end": flip(1),
}  # fmt: skip


def reseal(checkpoint: Path, **changes: Any) -> None:
    """A manifest that fits the files as they are now, as a stranger can make one."""
    files = {
        path.name: file_facts(path)
        for path in checkpoint.iterdir()
        if path.is_file() and path.name != MANIFEST
    }
    manifest = read_manifest(checkpoint).model_copy(update={"files": files} | changes)
    (checkpoint / MANIFEST).write_text(manifest.sealed_text(), encoding="utf-8")


def write_as_newer_version(checkpoint: Path, name: str) -> None:
    """As a later SharpGPT may: another version, a field that this one does not know."""
    if name == "training_state.json":
        state = json.loads((checkpoint / name).read_text(encoding="utf-8"))
        text = json.dumps(state | {"format_version": 99, "unheard_of": [1]})
        (checkpoint / name).write_text(text, encoding="utf-8")
        reseal(checkpoint)
        return
    content = json.loads((checkpoint / name).read_text(encoding="utf-8"))
    content |= {"format_version": 99, "after_step": {"unheard_of": 1}, "manifest_sha256": ""}
    content["manifest_sha256"] = content.pop("manifest_sha256")  # at the end
    text = json.dumps(content, indent=1)
    seal = hashlib.sha256(text.encode()).hexdigest()
    sealed = text.replace('"manifest_sha256": ""', f'"manifest_sha256": "{seal}"') + "\n"
    (checkpoint / name).write_text(sealed, encoding="utf-8")
