"""Files of a dataset of the hub at one commit: downloaded one ahead of the reader, or streamed.

What can go wrong on the way to the hub becomes one message with a remedy; no network is
`UnreachableError`.
"""

import contextlib
import io
import logging
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast

from sharpgpt.core.errors import UserError
from sharpgpt.core.files import user_path
from sharpgpt.core.hub import offline_variable
from sharpgpt.core.numbers import counted
from sharpgpt.data.sources.archives import BUFFER_BYTES
from sharpgpt.data.sources.documents import SourceOptions
from sharpgpt.data.sources.files import DataFile, format_of, open_file
from sharpgpt.data.sources.readers import count_parquet_documents

logger = logging.getLogger(__name__)

STREAM_BYTES = 1 << 24
"""Read over the network at a time when streaming."""


class UnreachableError(UserError):
    """The hub cannot be reached, or the user forbids it."""


@dataclass
class HubFiles:
    """The files `paths`, with their sizes in bytes, of `repo` at the commit `revision`."""

    repo: str
    revision: str
    paths: Sequence[tuple[str, int | None]]
    options: SourceOptions

    def __post_init__(self) -> None:
        cache_dir = self.options.cache_dir
        self._where: dict[str, Any] = {
            "repo_type": "dataset",
            "revision": self.revision,
            "cache_dir": None if cache_dir is None else user_path(cache_dir) / "hub",
        }
        self._downloads: dict[int, Future[Path]] = {}
        open_ = self.open_streamed if self.options.streaming else self.open_downloaded
        self.files = [
            DataFile(
                f"{self.repo}/{path}",
                size,
                *(format_of(path) or ("", None)),
                open=partial(open_, i),
                label=path,
                identity=f"{self.repo}@{self.revision}",
            )
            for i, (path, size) in enumerate(self.paths)
        ]

    def count_documents(self, column: str) -> int:
        """The rows of all files, which are Parquet, from their ends, without downloading them."""
        logger.info(
            "counting the documents of %s in %s", self.repo, counted(len(self.files), "file")
        )
        with ThreadPoolExecutor(8) as threads:
            return sum(threads.map(partial(self._count, column), range(len(self.files))))

    def check_column(self, column: str) -> None:
        """Raise `UserError` if the first file is Parquet without this column of strings."""
        if self.files[0].format == "parquet":
            self._count(column, 0)

    def _count(self, column: str, index: int) -> int:
        path = self._cached(index)
        opener = partial(self.open_streamed, index) if path is None else partial(open_file, path)
        return count_parquet_documents(replace(self.files[index], open=opener), column)

    def open_streamed(self, index: int) -> BinaryIO:
        """The file over the network, seekable."""
        from huggingface_hub import HfFileSystem, HfFileSystemFile

        repo = self.repo

        class RemoteFile(HfFileSystemFile):  # type: ignore[misc]
            def _fetch_range(self, start: int, end: int) -> bytes:
                with hub_errors(repo):
                    data: bytes = super()._fetch_range(start, end)
                return data

        require_online(repo)
        path = f"datasets/{repo}@{self.revision}/{self.files[index].label}"
        with hub_errors(repo):
            file = RemoteFile(HfFileSystem(), path, mode="rb", block_size=STREAM_BYTES)
        return io.BufferedReader(cast(io.RawIOBase, file), BUFFER_BYTES)

    def open_downloaded(self, index: int) -> BinaryIO:
        """The file in the cache, downloaded if need be; meanwhile the next one is downloaded."""
        path = self._cached(index)
        if path is None:
            download = self._downloads.pop(index, None) or self._started(index)
            if not download.done():
                size = self.files[index].num_bytes
                in_words = f" ({size / 1e6:,.1f} MB)" if size else ""
                logger.info("downloading %s%s", self.files[index].name, in_words)
            path = download.result()
        following = index + 1
        if following < len(self.files) and following not in self._downloads:
            self._downloads[following] = self._started(following)
        return open_file(path)

    def _cached(self, index: int) -> Path | None:
        from huggingface_hub import try_to_load_from_cache

        path = try_to_load_from_cache(self.repo, self.files[index].label, **self._where)
        return Path(path) if isinstance(path, str) else None

    def _started(self, index: int) -> "Future[Path]":
        """A download on a thread that does not keep the process alive."""
        future: Future[Path] = Future()

        def download() -> None:
            try:
                future.set_result(self._download(index))
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=download, daemon=True).start()
        return future

    def _download(self, index: int) -> Path:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.utils import disable_progress_bars

        require_online(self.repo)
        disable_progress_bars()  # the preparation has its own
        with hub_errors(self.repo):
            return Path(hf_hub_download(self.repo, self.files[index].label, **self._where))


def require_online(repo: str) -> None:
    """Raise `UnreachableError` if the user forbids the network."""
    if variable := offline_variable():
        raise UnreachableError(_unreachable(repo, f"{variable} is set", "unset it"))


def _unreachable(repo: str, reason: str, remedy: str) -> str:
    return (
        f"{repo}: the HuggingFace hub cannot be reached ({reason}); {remedy}, or download the "
        f"dataset on a machine with a network (hf download {repo} --repo-type dataset --local-dir "
        "FOLDER), copy the folder here and give its path as dataset"
    )


@contextlib.contextmanager
def hub_errors(repo: str) -> Iterator[None]:
    """Turn what `datasets` and `huggingface_hub` raise for the hub into `UserError`.

    A missing file remains a FileNotFoundError.
    """
    from huggingface_hub import errors
    from huggingface_hub.utils import httpx

    try:
        yield
    except (httpx.HTTPError, OSError, errors.HFValidationError) as error:
        explained = _explained(repo, error)
        if explained is None:
            raise
        raise explained from error


def _explained(repo: str, error: Exception) -> UserError | None:
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub import constants, errors
    from huggingface_hub.utils import httpx

    page = f"{constants.ENDPOINT}/datasets/{repo}"
    # datasets has one error for three causes, which its message tells apart.
    cause = str(error) if isinstance(error, DatasetNotFoundError) else ""
    if isinstance(error, errors.GatedRepoError) or "is a gated dataset" in cause:
        return UserError(
            f"{repo}: a gated dataset; accept its terms on {page}, then run hf auth login (or set "
            "HF_TOKEN) and try again"
        )
    if isinstance(error, errors.RevisionNotFoundError) or cause.startswith("Revision "):
        return UserError(
            f"{repo}: the dataset has no such revision; allowed is a branch, tag or commit of "
            f"{page}, or none for the main branch"
        )
    if cause or isinstance(error, errors.RepositoryNotFoundError | errors.HFValidationError):
        return UserError(
            f"dataset: given {repo!r}, which is not a local file or folder, and the hub has no "
            "dataset of this name, or only a private one; check the spelling, or run hf auth login "
            "(or set HF_TOKEN) if it is yours"
        )
    if isinstance(error, errors.HfHubHTTPError):
        reason = f"{constants.ENDPOINT} answered with status {error.response.status_code}"
    elif isinstance(error, httpx.HTTPError | ConnectionError | errors.LocalEntryNotFoundError):
        reason = " ".join(str(error.__cause__ or error).split()) or type(error).__name__
    elif isinstance(error, FileNotFoundError):
        return None
    else:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        return UserError(f"{repo}: could not be downloaded: {reason}")
    remedy = "try again later (finished work is kept)"
    return UnreachableError(_unreachable(repo, reason, remedy))
