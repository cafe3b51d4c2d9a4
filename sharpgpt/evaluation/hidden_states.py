"""The last hidden states of a model over a text, in a temporary file: later passes need only the
output layer. Memory does not grow with the text.

Shapes: N rows, D width.
"""

import os
import shutil
import tempfile
from typing import Any

import torch

CACHE_BYTES = 8 * 2**30
"""Limit of the hidden states that are kept on disk: 2.8 million tokens of GPT-2 small."""


class HiddenStates:
    """The last hidden states of all rows, float32 [N, D] in a temporary file, or nothing.

    Rows are written in order, from the first to the last, and can be read once all are written.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._file: Any = None
        self._num_written = 0
        self._width = 0
        self._num_rows = 0

    def close(self) -> None:
        """Remove the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def write(self, first_row: int, hidden_ND: torch.Tensor, num_rows: int) -> None:
        """Keep rows of a text of `num_rows` rows, if there is room."""
        if first_row == 0 and self._num_written == 0:
            self._width, self._num_rows = hidden_ND.shape[1], num_rows
            size = 4 * num_rows * self._width
            if size <= min(self._max_bytes, shutil.disk_usage(tempfile.gettempdir()).free // 2):
                self._file = tempfile.TemporaryFile(prefix="sharpgpt-")  # noqa: SIM115
        if self._file is None or first_row != self._num_written:
            return
        try:
            self._file.write(hidden_ND.float().cpu().numpy().tobytes())
        except OSError:  # the disk is full: without the file it only takes longer
            self.close()
            return
        self._num_written += len(hidden_ND)

    def read(self, first_row: int, num_rows: int) -> torch.Tensor | None:
        """Rows [num_rows, D]; None until all rows are written."""
        if self._file is None or self._num_written < self._num_rows:
            return None
        self._file.flush()
        row_bytes = 4 * self._width
        data = os.pread(self._file.fileno(), num_rows * row_bytes, first_row * row_bytes)
        return torch.frombuffer(bytearray(data), dtype=torch.float32).view(-1, self._width)
