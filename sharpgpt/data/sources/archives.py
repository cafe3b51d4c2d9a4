"""Compressed files as streams: gzip of one or more members, Zstandard of one or more frames.

Zeros after the last member of gzip are padding, as for gzip itself. Other bytes there are an error,
since a damaged member looks the same. Zstandard may have a window of up to 2 GiB (`--long=31`).
"""

import gzip
import importlib
import io
import shlex
import sys
from typing import Any, BinaryIO

from sharpgpt.core.errors import UserError

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
BUFFER_BYTES = 1 << 20
ZSTD_WINDOW_LOG = 31


def decompressed(raw: BinaryIO, kind: str, name: str) -> BinaryIO:
    """The content of `raw`, compressed as `kind` (a value of `COMPRESSIONS`), from its beginning.

    `name` is the file's name in messages. Reading raises OSError for a damaged file, `UserError`
    for one that is sound and cannot be read.
    """
    raw.seek(0)
    if not raw.read(1):  # an empty file is one without content
        return raw
    raw.seek(0)
    stream: Any
    if kind == "gzip":
        stream = gzip.GzipFile(fileobj=raw, mode="rb")
    elif (zstd := _zstd()) is not None:
        window = {zstd.DecompressionParameter.window_log_max: ZSTD_WINDOW_LOG}
        stream = zstd.ZstdFile(raw, options=window)
    else:
        import pyarrow as pa

        stream = pa.input_stream(raw, compression="zstd")
    return io.BufferedReader(_Explained(stream, kind, name), BUFFER_BYTES)


def _zstd() -> Any:
    """The module `compression.zstd` of Python 3.14, or its backport; None where it is missing."""
    try:
        name = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
        return importlib.import_module(name)
    except ImportError:
        return None


class _Explained(io.RawIOBase):
    """A stream whose errors are one kind of exception and say what is wrong with the file."""

    def __init__(self, stream: Any, kind: str, name: str) -> None:
        self._stream, self._kind, self._name = stream, kind, name
        self._is_begun = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        done = 0
        try:
            # Piece by piece: of what stands before an error it is known that it was there.
            while done < len(buffer) and (data := self._stream.read1(len(buffer) - done)):
                buffer[done : done + len(data)] = data
                done += len(data)
                self._is_begun = True
        except UserError:  # of the file below, such as one on the hub
            raise
        except EOFError:
            raise OSError("it ends too early") from None
        except Exception as error:  # each library has its own
            if getattr(error, "errno", None) is not None:  # of the disk
                raise
            self._refuse_what_is_not_damage(str(error))
            raise OSError(str(error)) from None
        return done

    def _refuse_what_is_not_damage(self, reason: str) -> None:
        name = shlex.quote(self._name)
        if "too much memory" in reason:
            raise UserError(
                f"{self._name}: its Zstandard window is longer than 128 MiB, and the package that "
                "reads such files is missing; pip install backports.zstd, or compress the file "
                f"again without --long: zstd -dc --long=31 {name} | zstd > COPY.zst"
            ) from None
        if self._is_begun and any(words in reason for words in _NO_BEGINNING):
            tool = "gzip" if self._kind == "gzip" else "zstd"
            raise UserError(
                f"{self._name}: the bytes after the end of its {self._kind} data are no "
                f"{self._kind}, so some of it may be missing; compare its size with the original's,"
                f" or keep what can be read: {tool} -dc {name} > COPY"
            ) from None


_NO_BEGINNING = ("Not a gzipped file", "Unknown frame descriptor")
