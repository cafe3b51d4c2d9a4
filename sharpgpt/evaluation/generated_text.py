"""What a model writes: quality against diversity, for several ways to decode.

Quality is the perplexity of the texts under a judge, the unpenalised model; diversity are the
figures of diversity.py. Either alone is easy to have: greedy decoding is likely and repeats itself,
a high temperature is varied and improbable. A model is better where its curve is, not one point.

All texts have the same length, for the figures of diversity depend on it: the end-of-text token is
never drawn. The texts begin with the prompt, which counts for nothing. Greedy decoding knows one
text only, so what depends on how many texts there are is left out for it. Every way to decode draws
the same random numbers.

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

from sharpgpt.evaluation.diversity import distinct_n, self_bleu, seq_rep_n, zipf_coefficient
from sharpgpt.evaluation.generation import generate_ids
from sharpgpt.evaluation.logits import head_logits, model_hidden
from sharpgpt.runtime.device import Device

NUM_SAMPLES = 2
"""Texts of each way to decode that are kept."""

ENTROPY_BUCKETS = 12
"""Stretches of a text for which the entropy along the position is given."""

TEXTS_AT_ONCE = 8
"""Texts whose hidden states are held at one time when they are judged."""


@dataclass(frozen=True)
class Decoding:
    """A way to decode. Temperature 0 is greedy; 1, with `top_p` 1, is ancestral sampling."""

    temperature: float
    top_p: float = 1.0

    @property
    def name(self) -> str:
        """In words."""
        if self.temperature == 0:
            return "greedy"
        return f"top-p {self.top_p:g}" if self.top_p < 1 else f"temperature {self.temperature:g}"


def generation_metrics(
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
    """The figures of texts by a model, as plain values: GENERATION of evaluation.json.

    Figures that are no finite number are None; a model whose weights are none has no texts.

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
    num_known = max(tokenizer.get_vocab().values()) + 1
    tokens = _Tokens(num_tokens, window, torch.tensor([list(prompt_ids)]), num_known)
    ancestral = Decoding(1.0)
    shown = [
        Decoding(0.0),
        *(Decoding(temperature) for temperature in temperatures),
        *(Decoding(1.0, top_p) for top_p in top_ps),
    ]

    def figures(ids_SL: Tensor) -> dict[str, float | None]:
        nll = _mean_nll(judge, tokens, ids_SL, device)
        return {"perplexity": _exp(nll)} | diversity(ids_SL.tolist())

    rows, samples, along = [], [], []
    for way in dict.fromkeys([*shown, ancestral]) if _is_finite(causal_lm) else ():
        count = 1 if way.temperature == 0 else num_texts
        ids_SL = written(causal_lm, tokens, way, count, seed, device)
        if way == ancestral:
            along = _entropy_by_position(causal_lm, tokens, ids_SL, device)
        if way in shown:
            facts = {"decoding": way.name, "temperature": way.temperature, "top_p": way.top_p}
            rows.append(facts | figures(ids_SL))
            samples += [
                {"decoding": way.name, "text": tokenizer.decode(ids)}
                for ids in ids_SL[:NUM_SAMPLES].tolist()
            ]
    text = None
    if validation_ids is not None and len(validation_ids) >= num_texts * num_tokens:
        text = figures(validation_ids[: num_texts * num_tokens].view(num_texts, num_tokens))
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
    """The figures of diversity.py. For one sequence those that depend on how much text there is are
    None: they would not compare with those of a set."""
    is_set = len(sequences) > 1
    found = {f"distinct_{n}": distinct_n(sequences, n) if is_set else math.nan for n in (1, 2, 3)}
    found |= {
        "seq_rep_4": seq_rep_n(sequences, 4),
        "self_bleu": self_bleu(sequences),
        "zipf": zipf_coefficient(sequences) if is_set else math.nan,
    }
    return {name: value if math.isfinite(value) else None for name, value in found.items()}


@dataclass(frozen=True)
class _Tokens:
    """The shape of the texts."""

    num_tokens: int
    window: int
    prompt: Tensor
    """[1, P] token ids."""
    num_known: int
    """Ids from here on pad the vocabulary and stand for nothing."""


def written(
    causal_lm: nn.Module, tokens: _Tokens, way: Decoding, count: int, seed: int, device: Device
) -> Tensor:
    """`count` texts of the model, int64 [S, L] on the CPU, without the prompt."""
    num_prompt = tokens.prompt.shape[1]
    with device.autocast():
        text_SL = generate_ids(
            causal_lm,
            tokens.prompt[0].tolist(),
            num_texts=count,
            max_length=num_prompt + tokens.num_tokens,
            window=tokens.window,
            temperature=way.temperature,
            top_p=way.top_p,
            seed=seed,
            never=_never(causal_lm, tokens.num_known),
        )
    return text_SL[:, num_prompt:].cpu()


def _is_finite(causal_lm: nn.Module) -> bool:
    """Whether texts can be drawn: no weight of a model that diverged is NaN or infinite."""
    return all(bool(parameter.isfinite().all()) for parameter in causal_lm.parameters())


def _never(causal_lm: nn.Module, num_known: int) -> list[int]:
    """The tokens that end a text for this model, and those that pad its vocabulary."""
    model = cast(Any, causal_lm)
    found = set(range(num_known, len(model.get_output_embeddings().weight)))
    for config in (model.config, model.generation_config):
        ids = config.eos_token_id
        found |= set(ids) if isinstance(ids, list) else {ids} - {None}
    return sorted(found)


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


def _predictions(
    causal_lm: nn.Module, tokens: _Tokens, ids_SL: Tensor, device: Device
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """The predictions of the texts' tokens: the place in its text of the first, logits [C, V],
    targets [C]; chunks of rows of one text."""
    place = 0
    for piece_ST, num_new in _windows(tokens, ids_SL):
        for some_ST in torch.split(piece_ST, TEXTS_AT_ONCE):
            hidden_STD = model_hidden(causal_lm, device, some_ST)
            for ids_T, hidden_TD in zip(some_ST, hidden_STD, strict=True):
                target_N = ids_T[-num_new:].to(hidden_TD.device)
                start = 0
                for logits_CV in head_logits(causal_lm, hidden_TD[-num_new - 1 : -1]):
                    yield place + start, logits_CV, target_N[start : start + len(logits_CV)]
                    start += len(logits_CV)
        place += num_new


def _mean_nll(judge: nn.Module, tokens: _Tokens, ids_SL: Tensor, device: Device) -> float:
    """Mean negative log-likelihood of the texts after the prompt, in nats a token."""
    total = sum(
        float(F.cross_entropy(logits_CV, target_C, reduction="none").double().sum())
        for _, logits_CV, target_C in _predictions(judge, tokens, ids_SL, device)
    )
    return total / ids_SL.numel()


def _entropy_by_position(
    causal_lm: nn.Module, tokens: _Tokens, ids_SL: Tensor, device: Device
) -> list[dict[str, float | int | None]]:
    """Mean entropy of the model's predictions along its texts, in stretches of equal length."""
    num_tokens = ids_SL.shape[1]
    sums_L = torch.zeros(num_tokens, dtype=torch.float64)
    for place, logits_CV, _ in _predictions(causal_lm, tokens, ids_SL, device):
        log_p_CV = logits_CV.log_softmax(-1)
        entropy_C = -(log_p_CV.exp() * log_p_CV).sum(-1)
        sums_L[place : place + len(entropy_C)] += entropy_C.double().cpu()
    means_L = sums_L / len(ids_SL)
    num_buckets = min(ENTROPY_BUCKETS, num_tokens)
    bounds = [num_tokens * k // num_buckets for k in range(num_buckets + 1)]
    return [
        {"from": first + 1, "below": end + 1, "entropy": mean if math.isfinite(mean) else None}
        for first, end in itertools.pairwise(bounds)
        for mean in [float(means_L[first:end].mean())]
    ]


def _exp(nll: float) -> float | None:
    """The perplexity, None where it is no finite number (NaN < 700 is false)."""
    return math.exp(nll) if nll < 700 else None
