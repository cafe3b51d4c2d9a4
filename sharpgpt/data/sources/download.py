"""Downloads: whether they are allowed, where they are kept, and one small file over https.

The caller falls back to another text without a network, so everything that can go wrong (no route,
a proxy that answers with a page, a server that never answers, a changed file) becomes one
`DownloadError` with a short reason, within a minute.
"""

import hashlib
import os
import time
from pathlib import Path

from sharpgpt.core.files import user_path
from sharpgpt.core.hub import is_offline

CONNECT_TIMEOUT_S = 3.0
READ_TIMEOUT_S = 10.0
"""Longest silence within a download."""
TOTAL_TIMEOUT_S = 60.0


class DownloadError(Exception):
    """The download failed; the message is the reason, part of a sentence."""


def cache_folder(cache_dir: str | Path | None = None) -> Path:
    """`cache_dir`, else $SHARPGPT_CACHE, else $XDG_CACHE_HOME/sharpgpt, else ~/.cache/sharpgpt."""
    given = cache_dir or os.environ.get("SHARPGPT_CACHE")
    if given:
        return user_path(given)
    xdg = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (xdg if xdg.is_absolute() else Path.home() / ".cache") / "sharpgpt"


def hashes_folder() -> Path:
    """Where the hashes of files are kept (content.py), whatever `cache_dir` is."""
    return cache_folder() / "hashes"


def download(url: str, *, num_bytes: int, sha256: str) -> bytes:
    """The content of `url`, which has `num_bytes` bytes and the given SHA-256.

    Raises `DownloadError` for anything else, and at once when `is_offline()`.
    """
    if is_offline():
        raise DownloadError("SHARPGPT_OFFLINE is set")
    import httpx

    timeout = httpx.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
    end_s = time.monotonic() + TOTAL_TIMEOUT_S
    data = bytearray()
    try:
        with httpx.stream("GET", url, timeout=timeout, follow_redirects=True) as response:
            if response.status_code != httpx.codes.OK:
                raise DownloadError(f"{url} answered with status {response.status_code}")
            for part in response.iter_bytes():
                data += part
                if len(data) > num_bytes:
                    break
                if time.monotonic() > end_s:
                    raise DownloadError(f"{url} took longer than {TOTAL_TIMEOUT_S:g} s")
    # ValueError, ImportError: a proxy setting that httpx does not know, or has no module for.
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError, ImportError) as error:
        raise DownloadError(f"{url}: {error or type(error).__name__}") from error
    if len(data) != num_bytes or hashlib.sha256(data).hexdigest() != sha256:
        raise DownloadError(f"{url} gave something else than the file known by its SHA-256")
    return bytes(data)
