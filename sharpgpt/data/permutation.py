"""A shuffled order of n things, computed element by element and never held in memory.

A permutation of a billion blocks as an array takes 8 GB and minutes. Here it is a function: a
Feistel network (Luby and Rackoff 1988) over the smallest power of two that is at least n. A round

    left, right -> left xor F(right), right     with the sides swapped in the next round

is invertible for any F, so the network is a bijection of 0 .. 2**b - 1. A result outside 0 .. n - 1
is fed in again until it falls inside ("cycle walking", Black and Rogaway 2002), which gives a
bijection of 0 .. n - 1; less than twice on average, since 2**b < 2n. F is the finaliser of
SplitMix64 (Steele et al. 2014) with a random key for each round. It is not cryptographic.
"""

import numpy as np
import numpy.typing as npt

NUM_ROUNDS = 8
"""Four suffice for a random F; more are used because the sides may have few bits."""


class Permutation:
    """A pseudorandom bijection of 0 .. `size` - 1, drawn with `random`."""

    def __init__(self, size: int, random: np.random.Generator) -> None:
        if not 1 <= size <= 1 << 62:
            raise ValueError(f"size: given {size}, allowed is 1 .. 2**62")
        self.size = size
        num_bits = max(2, (size - 1).bit_length())
        self._right_bits = np.uint64(num_bits // 2)
        self._left_mask = np.uint64((1 << (num_bits - num_bits // 2)) - 1)
        self._right_mask = np.uint64((1 << (num_bits // 2)) - 1)
        self._keys = random.integers(0, 1 << 64, size=NUM_ROUNDS, dtype=np.uint64)

    def __call__(self, places: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The elements at `places`: int64 of the same shape, in 0 .. size - 1."""
        values = self._network(places.astype(np.uint64))
        while (outside := values >= self.size).any():
            values[outside] = self._network(values[outside])
        return values.astype(np.int64)

    def _network(self, values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        left, right = values >> self._right_bits, values & self._right_mask
        for number, key in enumerate(self._keys):
            if number % 2:
                right = right ^ (_mixed(left + key) & self._right_mask)
            else:
                left = left ^ (_mixed(right + key) & self._left_mask)
        return (left << self._right_bits) | right


def _mixed(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """SplitMix64's finaliser: each bit of the result depends on every bit of the value."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
