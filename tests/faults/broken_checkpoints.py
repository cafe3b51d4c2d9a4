"""Checkpoint folders as a broken disk, a careless hand or a stranger leaves them."""

import contextlib
import json
import stat
import struct
import warnings
from collections.abc import Callable
from pathlib import Path

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from sharpgpt.runs.manifest import MANIFEST, Manifest, file_facts
from tests.faults.broken_folders import Data, Files, Plan, changed_json, plans
from tests.faults.hostile import mutated

_LARGE = ("model.safetensors", "training_state.safetensors", "training_state.json", "config.json")
"""What a run reads; drawn more often."""


NEW_NAMES = [
    "README.md", ".hidden", "pytorch_model.bin", "model.safetensors.index.json",
    "adapter_config.json", "model-00001-of-00002.safetensors", "evil.py", "modeling_gpt2.py",
    "tokenizer.model", "vocab.json", "merges.txt", "special_tokens_map.json",
    "chat_template.jinja", "optimizer.pt", "training_args.bin", "é", "a b", "-x", "\x1b[2J",
    "x" * 200,
]  # fmt: skip


def checkpoint_plans(files: Files) -> SearchStrategy[Plan]:
    """What may happen to a checkpoint of these files."""

    def contents(name: str, data: Data) -> SearchStrategy[bytes]:
        return changed_json(data) if name.endswith(".json") else changed_tensors(data)

    return plans(files, contents, often=_LARGE, new=NEW_NAMES)


@st.composite
def changed_tensors(draw: st.DrawFn, data: Data) -> bytes:
    """A safetensors file with another header, another length of it, or other numbers."""
    (length,) = struct.unpack("<Q", data[:8])
    header, numbers = Data(data[8 : 8 + length]), Data(data[8 + length :])
    what = draw(st.sampled_from(["header", "header", "length", "numbers", "tensor", "not finite"]))
    if what == "header":
        header = Data(draw(changed_json(header)))
        length = len(header)
    elif what == "length":
        length = draw(st.sampled_from([0, 1, length - 1, length + 1, 2**31, 2**63, 2**64 - 1]))
    elif what == "numbers":
        numbers = Data(draw(mutated(st.just(numbers))))
    elif what == "not finite":
        number = struct.pack("<f", draw(st.sampled_from([float("nan"), float("inf"), 1e38])))
        numbers = Data(number * (len(numbers) // 4))
    else:
        tensors = json.loads(header)
        name = draw(st.sampled_from(sorted(tensors)))
        entry = tensors[name]
        if isinstance(entry, dict) and "dtype" in entry:
            entry["dtype"] = draw(
                st.sampled_from(["F64", "F16", "BF16", "I64", "U8", "BOOL", "F8_E4M3", "X"])
            )
            entry["shape"] = draw(
                st.sampled_from([entry["shape"], [], [0], [-1], [2**40], [1] * 70])
            )
        header = Data(json.dumps(tensors).encode())
        length = len(header)
    return struct.pack("<Q", length) + header + numbers


def sealer(files: Files) -> Callable[[Path], None]:
    """A function that writes a checkpoint.json that fits what is there."""
    before = Manifest.model_validate_json(files[MANIFEST])

    def seal(folder: Path) -> None:
        plain = [path for path in sorted(folder.iterdir()) if stat.S_ISREG(path.lstat().st_mode)]
        state = folder / "training_state.json"
        step = before.step
        if state in plain:
            with contextlib.suppress(ValueError, TypeError, LookupError, RecursionError):
                step = json.loads(state.read_bytes())["step"]
        facts = {path.name: file_facts(path) for path in plain if path.name != MANIFEST}
        # Not checked here: the names may be ones that the type refuses, and the step anything.
        manifest = before.model_copy(update={"step": step, "files": facts})
        target = folder / MANIFEST
        if not target.exists() or target in plain:
            with warnings.catch_warnings(action="ignore"), contextlib.suppress(Exception):
                target.write_text(manifest.sealed_text(), encoding="utf-8")

    return seal
