"""Facts of the text that models are evaluated on."""

import numpy as np

from sharpgpt.evaluation.validation_text import frequency_ranks


def test_frequency_is_the_share_of_more_frequent_tokens() -> None:
    ranks = frequency_ranks(np.array([1, 5, 0, 4]))
    np.testing.assert_allclose(ranks, [0.9, 0.0, 1.0, 0.5])
    assert frequency_ranks(np.zeros(3, dtype=np.int64)).tolist() == [0, 0, 0]
