"""What a model predicts at each place of one text: statistics of every token, and its candidates.

A text longer than the model's window is read in windows that overlap by about half: of every window
after the first only the later predictions count, so each of them has at least half a window of text
before it. The last position of the window is left out, because training never uses it.

Shapes: n tokens of the text, R = n - 1 rows, row i predicts token i + 1; C tokens of context at
most, D width, V vocabulary, k candidates.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from sharpgpt.evaluation.logits import head_logits
from sharpgpt.evaluation.row_statistics import STATISTICS, UNCHANGED, row_statistics, target_ranks
from sharpgpt.sharpness.rows import first_largest

CHUNK_BYTES = 2**24
"""Logits held at a time, or those of one row where that is more."""


@dataclass(frozen=True)
class TokenPredictions:
    """A model's predictions of tokens 1 to n - 1 of a text, [R] each, on the CPU."""

    ce: Tensor
    """-ln p of the text's token, nats."""
    entropy: Tensor
    """Nats."""
    max_prob: Tensor
    rank: Tensor
    """1 for the most probable token; of equally probable ones the lower id comes first."""
    candidate_ids: Tensor
    """The k most probable tokens, most probable first, [R, k]."""
    candidate_probs: Tensor
    """Their probabilities, [R, k]."""

    @property
    def all_finite(self) -> bool:
        """Whether nothing is NaN or infinite, as after a training that diverged."""
        return bool((self.ce.isfinite() & self.entropy.isfinite()).all())


def context_length(window: int) -> int:
    """C, the most tokens that a prediction is made from, for a model with `window` positions."""
    return max(1, window - 1)


def shortest_later_context(window: int) -> int:
    """The fewest tokens that a prediction is made from once the text has filled a window."""
    return context_length(window) // 2 + 1


@torch.no_grad()
def predict_tokens(
    causal_lm: nn.Module, ids_n: Tensor, *, window: int, num_candidates: int
) -> TokenPredictions:
    """The predictions of every token of a text but the first.

    Equal, row by row and without the [R, V] arrays, to

        log_p = causal_lm(context).logits.log_softmax(-1)
        ce, max_prob = -log_p[target], log_p.exp().max()
        entropy = -(log_p.exp() * log_p).sum()

    Args:
        causal_lm: a HuggingFace causal LM in evaluation mode whose output layer is one linear map
            of its last hidden state.
        ids_n: int64 tokens of the text, at least 2, on the model's device.
        window: positions of the model.
        num_candidates: k, at most V.
    """
    model = cast(Any, causal_lm)
    chunks: list[tuple[Tensor, ...]] = []
    for start, first_row, end in _windows(len(ids_n), context_length(window)):
        hidden_1CD = model.base_model(input_ids=ids_n[None, start:end], use_cache=False)[0]
        target_S, done = ids_n[first_row + 1 : end + 1], 0
        for logits_NV in head_logits(
            causal_lm, hidden_1CD[0, first_row - start :], chunk_bytes=CHUNK_BYTES
        ):
            target_N = target_S[done : done + len(logits_NV)]
            done += len(logits_NV)
            chunks.append(tuple(one.cpu() for one in _rows(logits_NV, target_N, num_candidates)))
    return TokenPredictions(*(torch.cat(column) for column in zip(*chunks, strict=True)))


def _windows(num_tokens: int, context: int) -> Iterator[tuple[int, int, int]]:
    """(start, first row that counts, end) of each window [start, end); rows are counted once."""
    num_rows, start, done = num_tokens - 1, 0, 0
    while done < num_rows:
        end = min(start + context, num_rows)
        yield start, done, end
        done = end
        start += context - context // 2


def _rows(logits_NV: Tensor, target_N: Tensor, num_candidates: int) -> tuple[Tensor, ...]:
    """The columns of `TokenPredictions` for some rows."""
    [statistics_SN] = row_statistics(logits_NV, target_N, [UNCHANGED], top_k=1)
    candidate_Nk = _largest(logits_NV, num_candidates)
    log_p_Nk = logits_NV.gather(1, candidate_Nk) - logits_NV.logsumexp(-1, keepdim=True)
    order_Nk = log_p_Nk.argsort(dim=-1, descending=True, stable=True)
    return (
        *(statistics_SN[STATISTICS.index(name)] for name in ("ce", "entropy", "max_prob")),
        target_ranks(logits_NV, target_N[:, None]),
        candidate_Nk.gather(1, order_Nk),
        log_p_Nk.gather(1, order_Nk).exp(),
    )


def _largest(logits_NV: Tensor, k: int) -> Tensor:
    """Columns of the k largest logits of each row, ascending; of equal ones the first. [N, k].

    torch.topk is ten times faster than `first_largest`, and as good where the k-th largest is
    larger than the next.
    """
    top = logits_NV.topk(min(k + 1, logits_NV.shape[1]), dim=-1)
    if k < logits_NV.shape[1] and bool((top.values[:, k - 1] == top.values[:, k]).any()):
        return first_largest(logits_NV, k)
    return top.indices[:, :k].sort(dim=-1).values
