import numpy as np
import pytest

from sharpgpt.data.permutation import Permutation


def drawn(size: int, seed: int = 0) -> Permutation:
    return Permutation(size, np.random.default_rng(seed))


@pytest.mark.parametrize("size", [*range(1, 70), 127, 128, 129, 1000, 65_537, 300_000])
def test_every_thing_stands_at_one_place(size: int) -> None:
    for seed in range(3):
        order = drawn(size, seed)(np.arange(size))
        assert np.array_equal(np.sort(order), np.arange(size))


def test_places_can_be_asked_for_in_any_grouping() -> None:
    permutation = drawn(10_000_019)
    places = np.array([0, 9_999_999, 5, 10_000_018, 77])
    assert np.array_equal(
        permutation(places), [int(permutation(places[i : i + 1])[0]) for i in range(5)]
    )
    assert permutation(places.reshape(1, 5)).shape == (1, 5)


def test_a_sample_of_ten_billion_places_has_no_repetition() -> None:
    """By construction; here 2 million random places, and neighbours, of 10**10."""
    size = 10**10
    permutation = drawn(size)
    places = np.unique(np.random.default_rng(1).integers(0, size, 2_000_000))
    for some in (places, np.arange(1_000_000), np.arange(size - 1_000_000, size)):
        order = permutation(some)
        assert order.min() >= 0
        assert order.max() < size
        assert len(np.unique(order)) == len(some)


@pytest.mark.parametrize("size", [1000, 1024, 4097])
def test_the_order_looks_random(size: int) -> None:
    """Against the moments of a uniform permutation, over 400 draws, in standard deviations.

    Place of each thing uniform (chi-squared over all cells of a 16 x 16 table), neighbours not
    correlated, fixed points about one.
    """
    num_draws, cells = 400, 16
    counts = np.zeros((cells, cells))
    correlations, fixed = [], []
    places = np.arange(size)
    for seed in range(num_draws):
        order = drawn(size, seed)(places)
        np.add.at(counts, (places * cells // size, order * cells // size), 1)
        correlations.append(np.corrcoef(order[:-1], order[1:])[0, 1])
        fixed.append((order == places).sum())
    width = np.bincount(places * cells // size, minlength=cells)
    expected = num_draws * np.outer(width, width) / size
    chi_squared = ((counts - expected) ** 2 / expected).sum()
    degrees = (cells - 1) ** 2
    assert abs(chi_squared - degrees) < 5 * np.sqrt(2 * degrees)
    assert abs(np.mean(correlations)) < 5 / np.sqrt(size * num_draws) + 1 / size
    assert 0.75 < np.std(correlations) * np.sqrt(size) < 1.25
    assert abs(np.mean(fixed) - 1) < 5 / np.sqrt(num_draws)


def test_orders_differ_between_draws() -> None:
    places = np.arange(5)
    assert len({tuple(drawn(5, seed)(places)) for seed in range(400)}) > 60  # of 120


@pytest.mark.parametrize("size", [0, -1, 1 << 63])
def test_impossible_sizes_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"size: given {size}, allowed is 1"):
        drawn(size)
