import math
from collections.abc import Iterator
from typing import Any, cast

import pytest
import torch

from sharpgpt.evaluation import predictions
from sharpgpt.evaluation.logits import head_logits
from sharpgpt.evaluation.predictions import (
    TokenPredictions,
    context_length,
    predict_tokens,
    shortest_later_context,
)
from sharpgpt.model.build import create_gpt2_model
from sharpgpt.sharpness import reference

VOCABULARY, WINDOW = 67, 12


@pytest.fixture(scope="module")
def model() -> Any:
    """A model with logits of a few units, so that every statistic differs from row to row."""
    causal_lm = create_gpt2_model(
        n_layer=1, n_head=2, n_embd=16, vocab_size=VOCABULARY, max_seq_length=WINDOW, seed=3
    ).eval()
    cast(Any, causal_lm).transformer.ln_f.weight.data *= 30
    return causal_lm


def text(num_tokens: int) -> torch.Tensor:
    return torch.randint(VOCABULARY, (num_tokens,), generator=torch.manual_seed(1))


def predicted(model: Any, ids_n: torch.Tensor, k: int = 4) -> TokenPredictions:
    return predict_tokens(model, ids_n, window=WINDOW, num_candidates=k)


@torch.no_grad()
def dense_logits(model: Any, context_C: torch.Tensor) -> torch.Tensor:
    """The logits after the last token of a context, [V]."""
    return cast(torch.Tensor, model(input_ids=context_C[None]).logits[0, -1])


def test_statistics_are_those_of_the_reference_loss(model: Any) -> None:
    ids_n = text(WINDOW)
    got = predicted(model, ids_n)
    logits_RV = torch.stack([dense_logits(model, ids_n[: i + 1]) for i in range(len(ids_n) - 1)])
    out = reference.sharpness_loss(logits_RV, ids_n[1:], per_row=True)
    assert out.rows is not None
    for name in ("ce", "entropy", "max_prob"):
        torch.testing.assert_close(getattr(got, name), getattr(out.rows, name))
    probs_RV = logits_RV.softmax(-1)
    order_RV = probs_RV.argsort(dim=-1, descending=True)
    assert got.candidate_ids.tolist() == order_RV[:, :4].tolist()
    torch.testing.assert_close(got.candidate_probs, probs_RV.gather(1, order_RV[:, :4]))
    assert got.rank.tolist() == (1 + (order_RV == ids_n[1:, None]).int().argmax(-1)).tolist()
    assert len(set(got.rank.tolist())) > 5
    assert got.all_finite


@pytest.mark.parametrize("num_tokens", [2, WINDOW, WINDOW + 1, 3 * WINDOW + 2])
def test_each_later_prediction_has_half_a_window_of_context(model: Any, num_tokens: int) -> None:
    """Windows of 11 tokens advance by 6: the rows of the later ones see 6 to 11 tokens."""
    assert (context_length(WINDOW), shortest_later_context(WINDOW)) == (11, 6)
    ids_n = text(num_tokens)
    got = predicted(model, ids_n)
    assert len(got.ce) == num_tokens - 1
    for row in range(num_tokens - 1):
        length = row + 1 if row < 11 else 6 + (row - 11) % 6
        log_p = dense_logits(model, ids_n[row + 1 - length : row + 1]).log_softmax(-1)
        assert got.ce[row] == pytest.approx(-float(log_p[ids_n[row + 1]]), abs=1e-4)


def test_a_prediction_does_not_know_what_follows(model: Any) -> None:
    ids_n = text(30)
    changed_n = ids_n.clone()
    changed_n[20:] = (changed_n[20:] + 1) % VOCABULARY
    before, after = predicted(model, ids_n), predicted(model, changed_n)
    torch.testing.assert_close(before.entropy[:20], after.entropy[:20], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(before.entropy[20:], after.entropy[20:], atol=1e-2)


def test_logits_are_held_a_chunk_at_a_time(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ids_n = text(40)
    whole = predicted(model, ids_n)
    num_rows = []

    def watched(causal_lm: Any, hidden_ND: torch.Tensor, **how: Any) -> Iterator[torch.Tensor]:
        for logits_CV in head_logits(causal_lm, hidden_ND, **how):
            num_rows.append(len(logits_CV))
            yield logits_CV

    monkeypatch.setattr(predictions, "CHUNK_BYTES", 2 * 4 * VOCABULARY)
    monkeypatch.setattr(predictions, "head_logits", watched)
    chunked = predicted(model, ids_n)
    assert max(num_rows) == 2
    torch.testing.assert_close(chunked.ce, whole.ce)
    assert chunked.candidate_ids.tolist() == whole.candidate_ids.tolist()


def test_of_equally_likely_tokens_the_lower_id_comes_first() -> None:
    flat: Any = create_gpt2_model(n_layer=1, n_head=1, n_embd=8, vocab_size=9, max_seq_length=8)
    flat.transformer.ln_f.weight.data.zero_()
    flat.transformer.ln_f.bias.data.zero_()
    ids_n = torch.tensor([0, 5, 8, 0, 2])
    got = predict_tokens(flat.eval(), ids_n, window=8, num_candidates=3)
    assert got.candidate_ids.tolist() == [[0, 1, 2]] * 4
    assert got.rank.tolist() == [6, 9, 1, 3]
    assert got.entropy.tolist() == pytest.approx([math.log(9)] * 4)
    every = predict_tokens(flat, ids_n, window=8, num_candidates=9)
    assert every.candidate_ids.tolist() == [list(range(9))] * 4


def test_a_model_that_diverged_is_seen() -> None:
    broken: Any = create_gpt2_model(n_layer=1, n_head=1, n_embd=8, vocab_size=9, max_seq_length=8)
    broken.transformer.ln_f.bias.data[0] = math.nan
    got = predict_tokens(broken.eval(), torch.tensor([1, 2, 3]), window=8, num_candidates=3)
    assert not got.all_finite
