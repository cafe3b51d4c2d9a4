"""`Tokens`, the long row of token ids that batches are cut from, and `ArrayTokens`, in memory.

`shards.ShardedTokens` is the implementation on disk, for prepared data.
"""

from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

TokenArray = npt.NDArray[np.uint16 | np.uint32]


class Tokens(Protocol):
    """A row of token ids that is cut into blocks."""

    def __len__(self) -> int:
        """The number of tokens."""

    def __getitem__(self, index: slice) -> TokenArray:
        """The ids of a range, with step 1."""

    def gather(self, starts: npt.NDArray[np.int64], length: int) -> torch.Tensor:
        """The ids of `length` tokens from each of `starts` on: int64 [len(starts), length].

        Every start lies in 0 .. len(self) - length.
        """


class ArrayTokens:
    """Token ids in memory: `array` [num_tokens], which is not copied."""

    def __init__(self, array: TokenArray) -> None:
        self.array = array

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, index: slice) -> TokenArray:
        return self.array[index]

    def gather(self, starts: npt.NDArray[np.int64], length: int) -> torch.Tensor:
        """See `Tokens.gather`."""
        blocks = self.array[starts[:, None] + np.arange(length)]
        return torch.from_numpy(blocks.astype(np.int64))
