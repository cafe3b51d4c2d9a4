"""What a model writes: quality against diversity, for several ways to decode.

Quality is the perplexity of the texts under a judge, the unpenalised model; diversity are the
figures of diversity.py. Either alone is easy to have: greedy decoding is likely and repeats itself,
a high temperature is varied and improbable. A model is better where its curve is, not one point.

All texts have the same length, for the figures of diversity depend on it: the end-of-text token is
never drawn. The texts begin with the prompt, which counts for nothing.

Shapes: S texts, L tokens of a text without the prompt.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sharpgpt.device import Device, seeded
from sharpgpt.evaluation.diversity import distinct_n, self_bleu, seq_rep_n, zipf_coefficient
from sharpgpt.evaluation.streaming import head_logits, model_hidden

NUM_SAMPLES = 2
"""Texts of each way to decode that are kept."""

ENTROPY_BUCKETS = 12
"""Stretches of a text for which the entropy along the position is given."""


@dataclass(frozen=True)
class Decoding:
    """A way to decode. Temperature 0 is greedy; `top_p` 1 leaves nothing out."""

    temperature: float
    top_p: float = 1.0

    @property
    def name(self) -> str:
        """In words."""
        if self.temperature == 0:
            return "greedy"
        return f"top-p {self.top_p:g}" if self.top_p < 1 else f"temperature {self.temperature:g}"


def generation_figures(
    causal_lm: nn.Module,
    tokenizer: Any,
    *,
    judge: nn.Module,
    judge_name: str,
    prompt_ids: Sequence[int],
    num_texts: int,
    num_tokens: int,
    window: int,
    temperatures: Sequence[float],
    top_ps: Sequence[float],
    seed: int,
    validation_ids: Tensor | None,
    device: Device,
) -> dict[str, Any]:
    """The figures of texts by a model, as plain values.

    Args:
        causal_lm: writes; a HuggingFace causal LM with a linear head.
        tokenizer: HuggingFace's, for the samples.
        judge: gives the perplexity; may be the same model.
        judge_name: of it.
        prompt_ids: what every text begins with, at least one token.
        num_texts: S, at least 2.
        num_tokens: L.
        window: positions that both models have.
        temperatures: for ancestral sampling, above 0.
        top_ps: for nucleus sampling at temperature 1.
        seed: of the random numbers; the global generators are left as they were.
        validation_ids: text for comparison, at least S * L tokens or it is left out.
        device: of the models, and the arithmetic of their bodies.
    """
    ways = [
        Decoding(0.0),
        *(Decoding(temperature) for temperature in temperatures),
        *(Decoding(1.0, top_p) for top_p in top_ps),
    ]
    tokens = _Tokens(num_tokens, window, torch.tensor([list(prompt_ids)]))
    rows, samples, along = [], [], None
    for way in ways:
        count = 1 if way.temperature == 0 else num_texts
        ids_SL = written(causal_lm, tokens, way, count, seed, device)
        nll = _mean_nll(judge, tokens, ids_SL, device)
        rows.append(
            {"decoding": way.name, "temperature": way.temperature, "top_p": way.top_p}
            | {"perplexity": _exp(nll)}
            | diversity(ids_SL.tolist())
        )
        samples += [
            {"decoding": way.name, "text": tokenizer.decode(ids)}
            for ids in ids_SL[:NUM_SAMPLES].tolist()
        ]
        if way == Decoding(1.0):
            along = _entropy_by_position(causal_lm, tokens, ids_SL, device)
    text = None
    if validation_ids is not None and len(validation_ids) >= num_texts * num_tokens:
        ids_SL = validation_ids[: num_texts * num_tokens].view(num_texts, num_tokens)
        nll = _mean_nll(judge, tokens, ids_SL, device)
        text = {"perplexity": _exp(nll)} | diversity(ids_SL.tolist())
    return {
        "prompt": tokenizer.decode(list(prompt_ids)),
        "num_texts": num_texts,
        "num_tokens": num_tokens,
        "judge": judge_name,
        "ways": rows,
        "text": text,
        "entropy_by_position": along,
        "samples": samples,
    }


def diversity(sequences: Sequence[Sequence[int]]) -> dict[str, float | None]:
    """The figures of diversity.py; those of a set are None for one sequence."""
    found = {f"distinct_{n}": distinct_n(sequences, n) for n in (1, 2, 3)}
    found |= {
        "seq_rep_4": seq_rep_n(sequences, 4),
        "self_bleu": self_bleu(sequences),
        "zipf": zipf_coefficient(sequences),
    }
    return {name: value if math.isfinite(value) else None for name, value in found.items()}


@dataclass(frozen=True)
class _Tokens:
    """The shape of the texts."""

    num_tokens: int
    window: int
    prompt: Tensor
    """[1, P] token ids."""


@torch.no_grad()
def written(
    causal_lm: nn.Module, tokens: _Tokens, way: Decoding, count: int, seed: int, device: Device
) -> Tensor:
    """`count` texts of the model, int64 [S, L] on the CPU, without the prompt.

    Where a text outgrows the window, its later half is the context of what follows.
    """
    model = cast(Any, causal_lm)
    text_SL = tokens.prompt.repeat(count, 1).to(device.torch_device)
    prompt_length = text_SL.shape[1]
    last = prompt_length + tokens.num_tokens
    sampling: dict[str, Any] = {"do_sample": False}
    if way.temperature > 0:
        sampling = {
            "do_sample": True,
            "temperature": way.temperature,
            "top_p": way.top_p,
            "top_k": 0,
        }
    end_id = model.config.eos_token_id
    was_training = model.training
    model.eval()
    with seeded(seed, device.torch_device), device.autocast():
        while text_SL.shape[1] < last:
            context_SL = text_SL
            if text_SL.shape[1] >= tokens.window:
                context_SL = text_SL[:, -max(1, tokens.window // 2) :]
            longer_SL = model.generate(
                context_SL,
                attention_mask=torch.ones_like(context_SL),
                max_new_tokens=min(tokens.window - context_SL.shape[1], last - text_SL.shape[1]),
                eos_token_id=None,
                pad_token_id=0,
                suppress_tokens=None if end_id is None else [end_id],
                **sampling,
            )
            text_SL = torch.cat([text_SL, longer_SL[:, context_SL.shape[1] :]], dim=1)
    model.train(was_training)
    return text_SL[:, prompt_length:].cpu()


def _windows(tokens: _Tokens, ids_SL: Tensor) -> Iterator[tuple[Tensor, int]]:
    """Pieces [S, T] that fit the window, and how many of their last tokens are to be predicted:
    together all of the text, each with at least half a window before it where there is so much."""
    text_SL = torch.cat([tokens.prompt.repeat(len(ids_SL), 1), ids_SL], dim=1)
    done, length = tokens.prompt.shape[1], text_SL.shape[1]
    while done < length:
        end = min(length, tokens.window if done < tokens.window else done + tokens.window // 2)
        start = max(0, end - tokens.window)
        yield text_SL[:, start:end], end - done
        done = end


def _logits(
    causal_lm: nn.Module, tokens: _Tokens, ids_SL: Tensor, device: Device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits [C, V] and targets [C], text by text, in chunks of rows of one text and window."""
    for piece_ST, num_new in _windows(tokens, ids_SL):
        hidden_STD = model_hidden(causal_lm, device, piece_ST)
        for ids_T, hidden_TD in zip(piece_ST, hidden_STD, strict=True):
            target_N = ids_T[-num_new:].to(hidden_TD.device)
            start = 0
            for logits_CV in head_logits(causal_lm, hidden_TD[-num_new - 1 : -1]):
                yield logits_CV, target_N[start : start + len(logits_CV)]
                start += len(logits_CV)


def _mean_nll(judge: nn.Module, tokens: _Tokens, ids_SL: Tensor, device: Device) -> float:
    """Mean negative log-likelihood of the texts after the prompt, in nats a token."""
    total = sum(
        float(F.cross_entropy(logits_CV, target_C, reduction="sum"))
        for logits_CV, target_C in _logits(judge, tokens, ids_SL, device)
    )
    return total / ids_SL.numel()


def _entropy_by_position(
    causal_lm: nn.Module, tokens: _Tokens, ids_SL: Tensor, device: Device
) -> list[dict[str, float]]:
    """Mean entropy of the model's predictions along its texts, in stretches of equal length."""
    num_tokens = ids_SL.shape[1]
    sums_L = torch.zeros(num_tokens, dtype=torch.float64)
    done = 0
    for piece_ST, num_new in _windows(tokens, ids_SL):
        hidden_STD = model_hidden(causal_lm, device, piece_ST)
        for hidden_TD in hidden_STD:
            place = done
            for logits_CV in head_logits(causal_lm, hidden_TD[-num_new - 1 : -1]):
                log_p_CV = logits_CV.log_softmax(-1)
                entropy_C = -(log_p_CV.exp() * log_p_CV).sum(-1)
                sums_L[place : place + len(entropy_C)] += entropy_C.double().cpu()
                place += len(entropy_C)
        done += num_new
    means_L = sums_L / len(ids_SL)
    num_buckets = min(ENTROPY_BUCKETS, num_tokens)
    bounds = [num_tokens * k // num_buckets for k in range(num_buckets + 1)]
    return [
        {"from": first + 1, "below": end + 1, "entropy": float(means_L[first:end].mean())}
        for first, end in itertools.pairwise(bounds)
    ]


def _exp(nll: float) -> float | None:
    return math.exp(nll) if nll < 700 else None
