"""The fused loss on a GPU against the reference in float64 on the same device.

Errors are norms of differences relative to the norm of the truth.
"""

import pytest
import torch

from sharpgpt.sharpness import PENALTIES, linear_sharpness_loss, reference
from tests.sharpness.test_fused import losses_and_gradients, problem, relative_error

HOW = {"penalty_weight": 0.5, "top_k": 5}


@pytest.mark.parametrize("vocab_size", [65, 50257])
@pytest.mark.parametrize("name", sorted(PENALTIES))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_it_is_the_reference(
    gpu: torch.device, dtype: torch.dtype, name: str, vocab_size: int
) -> None:
    """float32 to 1e-5, half precision no worse than 1.5 times the dense path."""
    given = [tensor.to(gpu) for tensor in problem(67, 64, vocab_size, dtype=dtype)]
    given[2][:3] = reference.IGNORE_INDEX
    how = HOW | {"penalty": name}
    exact = (given[0].double(), given[1].double(), given[2])
    truth, true_gradients = losses_and_gradients(reference.linear_sharpness_loss, *exact, **how)
    dense, dense_gradients = losses_and_gradients(reference.linear_sharpness_loss, *given, **how)
    ours, gradients = losses_and_gradients(linear_sharpness_loss, *given, chunk_size=16, **how)
    assert int(ours.num_rows) == 64
    for a, b, t in zip(
        [ours.loss, *gradients], [dense.loss, *dense_gradients], [truth.loss, *true_gradients],
        strict=True,
    ):  # fmt: skip
        error = relative_error(a.detach(), t.detach())
        if dtype == torch.float32:
            assert error < 1e-5
        else:
            assert error <= 1.5 * relative_error(b.detach(), t.detach()) + 1e-7
    for statistic in ("entropy", "max_prob", "top_k_mass"):
        ours_mean, true_mean = getattr(ours, statistic), getattr(truth, statistic)
        torch.testing.assert_close(ours_mean.double(), true_mean, rtol=0.02, atol=1e-4)


def test_the_result_does_not_depend_on_the_chunks(gpu: torch.device) -> None:
    given = [tensor.to(gpu) for tensor in problem(67, 64, 5000, dtype=torch.float32)]
    how = HOW | {"penalty": "neg_entropy"}
    _, one = losses_and_gradients(linear_sharpness_loss, *given, **how)
    for size in (1, 16, 66):
        _, other = losses_and_gradients(linear_sharpness_loss, *given, chunk_size=size, **how)
        for a, b in zip(one, other, strict=True):
            assert relative_error(a, b) < 1e-5
