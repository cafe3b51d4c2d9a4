"""Folders of files as a broken disk, a careless hand or a stranger leaves them: strategies.

A plan is a list of changes to the files of a sound folder, and whether what vouches for them (the
hashes in checkpoint.json or manifest.json) is then made to fit, as a stranger would who wants his
files read. What is changed inside a file is up to the kind of folder: `contents`.
"""

import contextlib
import copy
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from tests.faults.hostile import CANARY, mutated, plain_values

PICKLE = f"cposix\nsystem\n(S'touch {CANARY}'\ntR.".encode()
"""Runs a command when it is unpickled."""
MODULE = f"open({CANARY!r}, 'w').close()\n".encode()

_HOSTILE_VALUES = [
    None, True, -1, 0, 1, 10**6, 2**31, 2**53, 2**63, 10**40, 1e308, float("nan"), float("inf"),
    "", "x" * 3000, "../../up", "/etc/passwd", CANARY, "\x1b[2J", "\x00", "\ud800", [], {},
    [[]] * 50, [0] * 3000, {"a": {"b": {}}}, "gpt2", "llama", "GPT2LMHeadModel", "torch.float16",
    {"AutoModelForCausalLM": "evil.Evil"},
]  # fmt: skip
JSON_VALUES: SearchStrategy[Any] = plain_values.filter(
    lambda value: _is_json(value)
) | st.sampled_from(_HOSTILE_VALUES)
KEYS = st.sampled_from(
    [
        "auto_map", "trust_remote_code", "_name_or_path", "model_type", "architectures",
        "quantization_config", "__class__", "torch_dtype", "transformers_version", "format",
        "step", "files", "", "x" * 300,
    ]
)  # fmt: skip


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
    "removed": lambda _: None,
    "a folder": lambda path: path.mkdir(),
    "a pipe": os.mkfifo,
    "a link to /etc/passwd": lambda path: path.symlink_to("/etc/passwd"),
    "a link to nowhere": lambda path: path.symlink_to("nowhere"),
    "a link to itself": lambda path: path.symlink_to(path.name),
}


Contents = Callable[[str, Data], SearchStrategy[bytes]]
"""For a file's name and its bytes, other bytes of nearly the right form."""


@st.composite
def _changes(
    draw: st.DrawFn, files: Files, contents: Contents, often: Sequence[str], new: Sequence[str]
) -> Change:
    name = draw(st.sampled_from([*often, *sorted(files)]))
    data = files[name]
    what = draw(
        st.sampled_from(["content"] * 6 + ["bytes", "bytes", "random", "swap", "kind", "new file"])
    )
    if what == "content":
        return Change(what, name, _write(name, draw(contents(name, data))))
    if what == "bytes":
        return Change(what, name, _write(name, draw(mutated(st.just(data)))))
    if what == "random":
        some = st.sampled_from([PICKLE, b"{}", b"[]", b"null", b"[" * 10**5, b""])
        return Change(what, name, _write(name, draw(st.binary(max_size=30) | some)))
    if what == "swap":
        other = draw(st.sampled_from(sorted(files)))
        return Change(f"{other} as", name, _write(name, files[other]))
    if what == "kind":
        kind = draw(st.sampled_from(sorted(_KINDS)))
        return Change(kind, name, _replace_by(name, _KINDS[kind]))
    added = draw(st.sampled_from(new))
    content = draw(st.sampled_from([PICKLE, MODULE, b"{}", *files.values()]))
    return Change(what, added, _write(added, content))


def plans(
    files: Files, contents: Contents, *, often: Sequence[str] = (), new: Sequence[str]
) -> SearchStrategy[Plan]:
    """What may happen to these files; those in `often` are drawn more often, `new` ones added."""
    is_sealed = st.sampled_from([True, True, True, False])
    return st.builds(
        Plan, st.lists(_changes(files, contents, often, new), min_size=1, max_size=3), is_sealed
    )


def write_folder(folder: Path, files: Files, plan: Plan, seal: Callable[[Path], None]) -> None:
    """The files after the plan; `seal` makes the hashes fit, as far as that can be."""
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    for change in plan.changes:
        with contextlib.suppress(FileExistsError):  # a pipe or folder was made there before
            change.apply(folder)
    if plan.is_sealed:
        seal(folder)
