"""Attention for short blocks in bfloat16 on a CPU, against PyTorch's in float32."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sharpgpt.model import attention
from sharpgpt.model.attention import NAME, short_attention, use_short_attention
from sharpgpt.model.build import create_gpt2_model

SIZES = {"n_layer": 2, "n_head": 3, "n_embd": 48, "vocab_size": 70, "end_of_text_id": None}


def query_key_value(dtype: torch.dtype, length: int = 33) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(2, 3, length, 20, generator=generator).to(torch.bfloat16).to(dtype)
        for _ in range(3)
    ]


def outcome(function: Any, inputs: list[Tensor]) -> list[Tensor]:
    """The output, and the gradients of query, key and value."""
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    output = function(*leaves)
    weight = torch.linspace(-1, 1, output.numel()).view(output.shape).to(output.dtype)
    return [output.detach(), *torch.autograd.grad((output * weight).sum(), leaves)]


def test_it_is_as_exact_as_the_kernel_of_pytorch() -> None:
    """Errors of output and gradients are at most twice the kernel's, which rounds no scores."""

    def ours(*inputs: Tensor) -> Tensor:
        return short_attention(nn.Module(), *inputs, None, scaling=20**-0.5)[0]

    def pytorch(*inputs: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(*inputs, is_causal=True).transpose(1, 2)

    true = outcome(pytorch, query_key_value(torch.float64))
    kernel = outcome(pytorch, query_key_value(torch.bfloat16))
    found = outcome(ours, query_key_value(torch.bfloat16))
    for f, k, t in zip(found, kernel, true, strict=True):
        assert (f - t).norm() <= 2 * (k - t).norm()
        assert (f - t).norm() <= 0.02 * t.norm()


@pytest.mark.parametrize("case", ["float32", "mask", "dropout", "long", "cache"])
def test_all_else_is_left_to_transformers(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "LONGEST_BLOCK", 40)
    dtype = torch.float32 if case == "float32" else torch.bfloat16
    inputs = query_key_value(dtype, length=41 if case == "long" else 33)
    if case == "cache":
        inputs[0] = inputs[0][:, :, -1:]
    mask = torch.eye(33, dtype=torch.bool)[None, None] if case == "mask" else None
    seen = []

    def given(*arguments: Any, **settings: Any) -> tuple[Tensor, None]:
        seen.append(arguments[4])
        return arguments[1], None

    monkeypatch.setattr("transformers.integrations.sdpa_attention.sdpa_attention_forward", given)
    short_attention(nn.Module(), *inputs, mask, dropout=0.5 if case == "dropout" else 0.0)
    assert len(seen) == 1
    assert seen[0] is mask


def test_a_model_with_it_computes_the_same_and_is_exported_as_before(tmp_path: Path) -> None:
    model: Any = create_gpt2_model(**SIZES, max_seq_length=32)
    ids_BT = torch.arange(64).view(2, 32) % 70
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        before = model(ids_BT).logits
        use_short_attention(model, 32)
        after = model(ids_BT).logits
        padded = model(ids_BT, attention_mask=(ids_BT > 3).long()).logits
    assert model.config._attn_implementation == NAME
    assert 0 < (after - before).abs().max() < 0.05
    assert padded.isfinite().all()
    model.save_pretrained(tmp_path)
    assert NAME not in json.dumps(json.loads((tmp_path / "config.json").read_text()))


def test_long_blocks_and_other_architectures_keep_theirs() -> None:
    model: Any = create_gpt2_model(**SIZES, max_seq_length=32)
    use_short_attention(model, attention.LONGEST_BLOCK + 1)
    assert model.config._attn_implementation != NAME
    model.config.model_type = "other"
    use_short_attention(model, 32)
    assert model.config._attn_implementation != NAME
