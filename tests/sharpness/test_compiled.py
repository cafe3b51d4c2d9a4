from typing import Any

import pytest
import torch
from torch import Tensor

from sharpgpt.sharpness import compiled, fused, linear_sharpness_loss, reference
from sharpgpt.sharpness.compiled import compiled_tile_statistics, row_mathematics
from sharpgpt.sharpness.penalties import PENALTIES
from sharpgpt.sharpness.rows import tile_statistics

# torch's compiler imports its own deprecated parts (PyTorch 2.13).
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")


def test_only_built_in_penalties_on_a_gpu_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    assert row_mathematics("cpu", "neg_entropy") is tile_statistics
    assert row_mathematics("mps", "neg_entropy") is tile_statistics
    assert row_mathematics("cuda", "docs.examples.tsallis:GINI") is tile_statistics
    monkeypatch.setattr(compiled, "has_triton", lambda: True)
    assert row_mathematics("cuda", "neg_entropy") is compiled_tile_statistics()
    monkeypatch.setattr(compiled, "has_triton", lambda: False)
    assert row_mathematics("cuda", "neg_entropy") is tile_statistics


@pytest.mark.parametrize("penalty", PENALTIES)
def test_the_compiled_rows_give_the_same_loss(
    penalty: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The path of a GPU on a CPU: compiled rows, no scratch, chunks of two sizes (5, 5 and 4).

    Weight 1 and logits of standard deviation 4, so that penalty and peaks weigh as much as the
    cross-entropy; and without gradients, which is another compilation. With a z-loss, label
    smoothing and both forms of the soft cap, and without.
    """
    how = {
        "penalty": penalty,
        "penalty_weight": 1.0,
        "z_loss_weight": 0.0 if penalty == "non_max_sum" else 0.1,
        "label_smoothing": 0.2 if penalty == "neg_entropy" else 0.0,
        "logit_softcap": {"neg_max_prob": 4.0, "top_k_mass": 40.0}.get(penalty),
    }
    generator = torch.Generator().manual_seed(0)
    hidden_ND = torch.randn(14, 16, generator=generator)
    weight_VD = torch.randn(127, 16, generator=generator)
    target_N = torch.randint(127, (14,), generator=generator)
    target_N[3] = -100

    def gradients(loss: Any, **more: Any) -> tuple[Any, list[Tensor]]:
        leaves = [hidden_ND.clone().requires_grad_(), weight_VD.clone().requires_grad_()]
        output = loss(*leaves, target_N, **how, **more)
        return output, list(torch.autograd.grad(output.loss, leaves))

    monkeypatch.setattr(fused, "row_mathematics", lambda *_: compiled_tile_statistics())
    ours, ours_gradients = gradients(linear_sharpness_loss, chunk_size=5)
    expected, expected_gradients = gradients(reference.linear_sharpness_loss)
    for name in reference.SharpnessRows._fields:
        torch.testing.assert_close(getattr(ours, name), getattr(expected, name), rtol=1e-5, atol=0)
    torch.testing.assert_close(ours.loss, expected.loss, rtol=1e-5, atol=0)
    for gradient, truth in zip(ours_gradients, expected_gradients, strict=True):
        assert (gradient - truth).norm() <= 1e-5 * truth.norm()
    with torch.no_grad():
        alone = linear_sharpness_loss(hidden_ND, weight_VD, target_N, chunk_size=5, **how)
    torch.testing.assert_close(alone.loss, ours.loss.detach())
