"""Checkpoint folders as a broken disk, a careless hand or a stranger leaves them: strategies.

A plan is a list of changes to the files of a sound checkpoint, and whether checkpoint.json is then
written anew to fit, as a stranger would who wants his files read.
"""

import contextlib
import copy
import json
import os
import stat
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from sharpgpt.training.manifest import MANIFEST, Manifest, file_facts
from tests.faults.hostile import CANARY, mutated, plain_values

PICKLE = f"cposix\nsystem\n(S'touch {CANARY}'\ntR.".encode()
"""Runs a command when it is unpickled."""
MODULE = f"open({CANARY!r}, 'w').close()\n".encode()

JSON_VALUES: SearchStrategy[Any] = plain_values.filter(lambda value: _is_json(value)) | st.sampled_from(
    [
        None, True, -1, 0, 1, 10**6, 2**31, 2**53, 2**63, 10**40, 1e308, float("nan"), float("inf"), "",
        "x" * 3000, "../../up", "/etc/passwd", CANARY, "\x1b[2J", "\x00", "\ud800", [], {}, [[]] * 50, [0] * 3000,
        {"a": {"b": {}}}, "gpt2", "llama", "GPT2LMHeadModel", "torch.float16", {"AutoModelForCausalLM": "evil.Evil"},
    ]
)  # fmt: skip
KEYS = st.sampled_from(
    ["auto_map", "trust_remote_code", "_name_or_path", "model_type", "architectures", "quantization_config",
     "__class__", "torch_dtype", "transformers_version", "format", "step", "files", "", "x" * 300]
)  # fmt: skip
NEW_NAMES = [
    "README.md", ".hidden", "pytorch_model.bin", "model.safetensors.index.json", "adapter_config.json",
    "model-00001-of-00002.safetensors", "evil.py", "modeling_gpt2.py", "tokenizer.model", "vocab.json",
    "merges.txt", "special_tokens_map.json", "chat_template.jinja", "optimizer.pt", "training_args.bin",
    "é", "a b", "-x", "\x1b[2J", "x" * 200,
]  # fmt: skip


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


class Data(bytes):
    """Bytes that a report of hypothesis does not spell out."""

    def __repr__(self) -> str:
        return f"<{len(self)} bytes>"


class Files(dict[str, Data]):
    """The files of a sound checkpoint by name."""

    @classmethod
    def of(cls, folder: Path) -> "Files":
        return cls({path.name: Data(path.read_bytes()) for path in sorted(folder.iterdir())})

    def __repr__(self) -> str:
        return f"<{len(self)} files>"


class Change(NamedTuple):
    """One change to a folder; `apply` does it, the rest is for the reader of a failure."""

    what: str
    name: str
    apply: Callable[[Path], None]

    def __repr__(self) -> str:
        return f"{self.what} {self.name}"


class Plan(NamedTuple):
    """Changes, and whether checkpoint.json then says that all is well."""

    changes: list[Change]
    is_sealed: bool


# ---- inside a file ----


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    found = []
    for key, content in inner:
        found.append((*path, key))
        if isinstance(content, dict | list):
            found += _places(content, (*path, key))
    return found


@st.composite
def changed_json(draw: st.DrawFn, data: Data) -> bytes:
    """The JSON in `data` with up to three values changed, removed, added or renamed."""
    root = [json.loads(data)]
    for _ in range(draw(st.integers(1, 3))):
        places = _places(root)
        if not places:
            break
        *way, key = draw(st.sampled_from(places))
        holder: Any = root
        for part in way:
            holder = holder[part]
        what = draw(st.sampled_from(["replace", "replace", "number", "remove", "add", "rename"]))
        if what == "number" and isinstance(holder[key], int | float):
            holder[key] += draw(st.sampled_from([1, -1, 0.5, 10**9, -(10**9)]))
        elif what == "remove" and way:
            del holder[key]
        elif what == "add" and isinstance(holder, dict):
            holder[draw(KEYS)] = copy.deepcopy(draw(JSON_VALUES))
        elif what == "rename" and isinstance(holder, dict):
            holder[draw(KEYS)] = holder.pop(key)
        else:
            holder[key] = copy.deepcopy(draw(JSON_VALUES))
    return json.dumps(root[0] if root else None, ensure_ascii=draw(st.booleans())).encode(
        "utf-8", "surrogatepass"
    )


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
            entry["dtype"] = draw(st.sampled_from(["F64", "F16", "BF16", "I64", "U8", "BOOL", "F8_E4M3", "X"]))
            entry["shape"] = draw(st.sampled_from([entry["shape"], [], [0], [-1], [2**40], [1] * 70]))
        header = Data(json.dumps(tensors).encode())
        length = len(header)
    return struct.pack("<Q", length) + header + numbers


# ---- a file as a whole ----


def _write(name: str, data: bytes) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / name
        if not path.is_symlink() and (path.is_file() or not path.exists()):
            path.write_bytes(data.replace(CANARY.encode(), bytes(folder.parent.parent / "canary")))

    return apply


def _replace_by(name: str, make: Callable[[Path], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / name
        if path.is_dir():
            return
        path.unlink(missing_ok=True)
        make(path)

    return apply


_KINDS: dict[str, Callable[[Path], object]] = {
    "removed": lambda path: None,
    "a folder": lambda path: path.mkdir(),
    "a pipe": os.mkfifo,
    "a link to /etc/passwd": lambda path: path.symlink_to("/etc/passwd"),
    "a link to nowhere": lambda path: path.symlink_to("nowhere"),
    "a link to itself": lambda path: path.symlink_to(path.name),
}


_LARGE = ("model.safetensors", "training_state.safetensors", "training_state.json", "config.json")
"""What a run reads; drawn more often."""


@st.composite
def _changes(draw: st.DrawFn, files: Files) -> Change:
    name = draw(st.sampled_from([*_LARGE, *sorted(files)]))
    data = files[name]
    what = draw(
        st.sampled_from(["content"] * 6 + ["bytes", "bytes", "random", "swap", "kind", "new file"])
    )
    if what == "content":
        how = changed_json(data) if name.endswith(".json") else changed_tensors(data)
        return Change(what, name, _write(name, draw(how)))
    if what == "bytes":
        return Change(what, name, _write(name, draw(mutated(st.just(data)))))
    if what == "random":
        content = draw(st.binary(max_size=30) | st.sampled_from([PICKLE, b"{}", b"[]", b"null", b"[" * 10**5]))
        return Change(what, name, _write(name, content))
    if what == "swap":
        other = draw(st.sampled_from(sorted(files)))
        return Change(f"{other} as", name, _write(name, files[other]))
    if what == "kind":
        kind = draw(st.sampled_from(sorted(_KINDS)))
        return Change(kind, name, _replace_by(name, _KINDS[kind]))
    new = draw(st.sampled_from(NEW_NAMES))
    return Change(what, new, _write(new, draw(st.sampled_from([PICKLE, MODULE, b"{}", *files.values()]))))


def plans(files: Files) -> SearchStrategy[Plan]:
    """What may happen to a checkpoint of these files."""
    is_sealed = st.sampled_from([True, True, True, False])
    return st.builds(Plan, st.lists(_changes(files), min_size=1, max_size=3), is_sealed)


def write_folder(folder: Path, files: Files, plan: Plan) -> None:
    """The checkpoint after the plan."""
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    for change in plan.changes:
        change.apply(folder)
    if plan.is_sealed:
        seal(folder, Manifest.model_validate_json(files[MANIFEST]))


def seal(folder: Path, before: Manifest) -> None:
    """Write a checkpoint.json that fits what is there, as far as that can be."""
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
