"""Checkpoints that were changed and given a manifest that fits the change."""

import hashlib
import json
from pathlib import Path
from typing import Any

from sharpgpt.runs.manifest import MANIFEST, file_facts, read_manifest


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
