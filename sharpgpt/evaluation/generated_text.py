"""Texts that a model generates: quality against diversity, for several decoding methods.

Quality is the perplexity of the texts under a judge, the unpenalised model; diversity.py has the
metrics of diversity. Either alone is easy to have: greedy decoding is likely and repeats itself, a
high temperature is varied and improbable. A model is better where its curve is, not one point.

All texts have the same length, for the metrics of diversity depend on it: the end-of-text token is
never drawn. The texts begin with the prompt, which is not counted. Greedy decoding gives one text
only, so what depends on how many texts there are is left out for it. Every decoding method draws
the same random numbers.

Shapes: S texts, L tokens of a text without the prompt.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sharpgpt.evaluation.diversity import diversity
from sharpgpt.evaluation.generation import generate_ids
from sharpgpt.evaluation.intervals import t_quantile
from sharpgpt.evaluation.logits import head_logits, model_hidden
from sharpgpt.evaluation.saved_model import SavedModel
from sharpgpt.model.row_means import perplexity
from sharpgpt.runtime.device import Device

NUM_SAMPLES = 2
"""Texts of each decoding method that are kept."""

ENTROPY_BUCKETS = 12
"""Parts of a text for which the entropy along the position is given."""

TEXTS_AT_ONCE = 8
"""Texts whose hidden states are held at one time when they are judged."""


@dataclass(frozen=True)
class Decoding:
    """A decoding method. Temperature 0 is greedy; 1, with `top_p` 1, is ancestral sampling."""

    temperature: float
    top_p: float = 1.0

    @property
    def name(self) -> str:
        """In words."""
        if self.temperature == 0:
            return "greedy"
        return f"top-p {self.top_p:g}" if self.top_p < 1 else f"temperature {self.temperature:g}"


DECODINGS = (
    Decoding(0.0),
    *(Decoding(temperature) for temperature in (0.3, 0.5, 0.7, 0.85, 1.0, 1.2)),
    Decoding(1.0, top_p=0.9),
)
"""How texts are generated for the curves of quality against diversity."""


@dataclass(frozen=True, kw_only=True)
class TextPlan:
    """What texts are generated."""

    prompt_ids: Sequence[int]
    """What every text begins with, at least one token."""
    num_texts: int
    """S, at least 2."""
    num_tokens: int
    """L."""
    seed: int
    decodings: Sequence[Decoding] = DECODINGS


def generation_metrics(
    saved: SavedModel, plan: TextPlan, *, judge: SavedModel, validation_ids: Tensor, device: Device
) -> dict[str, Any]:
    """The metrics of texts by a model, in JSON types: `generation` of evaluation.json.

    Metrics that are no finite number are None; a model with weights that are not finite has no
    texts. The global random states are left as they were.

    Args:
        saved: generates the texts; a causal LM with a linear head.
        plan: what texts.
        judge: gives the perplexity; may be the same model.
        validation_ids: text for comparison, at least S * L tokens or it is left out.
        device: of the models, and the arithmetic of their bodies.
    """
    decode = saved.tokenizer.decode
    writer = Texts(saved, plan, min(saved.max_length, judge.max_length), device)
    ancestral = Decoding(1.0)

    def metrics(ids_SL: Tensor) -> dict[str, float | None]:
        nll = writer.mean_nll(judge.causal_lm, ids_SL)
        value = perplexity(nll)
        shown = value if math.isfinite(value) else None
        return {"perplexity": shown} | diversity(ids_SL.tolist())

    ways, samples, along, calibration = [], [], [], None
    size = plan.num_texts * plan.num_tokens
    text_SL = (
        validation_ids[:size].view(-1, plan.num_tokens) if len(validation_ids) >= size else None
    )
    is_finite = all(bool(one.isfinite().all()) for one in saved.causal_lm.parameters())
    for decoding in dict.fromkeys([*plan.decodings, ancestral]) if is_finite else ():
        ids_SL = writer.written(decoding)
        if decoding == ancestral:
            own_SL, entropy_SL = writer.nll_and_entropy(ids_SL)
            along = writer.by_position(entropy_SL)
            if text_SL is not None:
                real_SL, _ = writer.nll_and_entropy(text_SL)
                calibration = generation_calibration(entropy_SL, own_SL, real_SL)
        if decoding in plan.decodings:
            facts = {
                "decoding": decoding.name,
                "temperature": decoding.temperature,
                "top_p": decoding.top_p,
            }
            ways.append(facts | metrics(ids_SL))
            samples += [
                {"decoding": decoding.name, "text": decode(ids)}
                for ids in ids_SL[:NUM_SAMPLES].tolist()
            ]
    return {
        "prompt": decode(list(plan.prompt_ids)),
        "num_texts": plan.num_texts,
        "num_tokens": plan.num_tokens,
        "judge": judge.name,
        "ways": ways,
        "text": None if text_SL is None else metrics(text_SL),
        "entropy_by_position": along,
        "calibration": calibration,
        "samples": samples,
    }


def generation_calibration(
    entropy_SL: Tensor, own_nll_SL: Tensor, real_nll_SL: Tensor
) -> dict[str, Any]:
    """Is the text that a model writes as uncertain as real text is to it? In nats a token, with 95%
    intervals over texts (Braverman et al. 2020, arXiv 1906.05664).

    The entropy rate of its text, the mean entropy of its predictions along it, against its log loss
    on real text. The model whose distribution is that of the text has no difference.

    Args:
        entropy_SL: of its predictions along its own texts at temperature 1.
        own_nll_SL: -ln p of the tokens of its own texts, of the same expectation.
        real_nll_SL: of as many pieces of real text, of the same length, after the same prompt.
    """
    rate_S, loss_S = entropy_SL.mean(-1).numpy(), real_nll_SL.mean(-1).numpy()
    squares = [values_S.var(ddof=1) / len(values_S) for values_S in (rate_S, loss_S)]

    def interval(estimate: float, *parts: float) -> dict[str, float]:
        total = sum(parts)
        degrees = total**2 / sum(part**2 for part in parts) * (len(rate_S) - 1) if total else 1e4
        half_width = t_quantile(0.95, degrees) * math.sqrt(total)
        return {"estimate": estimate, "low": estimate - half_width, "high": estimate + half_width}

    rate, loss = float(rate_S.mean()), float(loss_S.mean())
    return {
        "entropy_rate": interval(rate, squares[0]),
        "log_loss": interval(loss, squares[1]),
        "difference": interval(rate - loss, *squares),
        "log_loss_of_own_text": float(own_nll_SL.mean()),
    }


class Texts:
    """The texts of a model, and what models predict along them in windows of `window` tokens."""

    def __init__(self, saved: SavedModel, plan: TextPlan, window: int, device: Device) -> None:
        self._model: Any = saved.causal_lm
        self._plan = plan
        self._window = window
        self._device = device
        # Token ids from here on pad the vocabulary and stand for nothing.
        self._num_known = max(saved.tokenizer.get_vocab().values()) + 1

    def written(self, decoding: Decoding) -> Tensor:
        """Texts of the model, int64 [S, L] on the CPU, without the prompt."""
        num_prompt = len(self._plan.prompt_ids)
        with self._device.autocast():
            text_SL = generate_ids(
                self._model,
                self._plan.prompt_ids,
                num_texts=1 if decoding.temperature == 0 else self._plan.num_texts,
                max_length=num_prompt + self._plan.num_tokens,
                window=self._window,
                temperature=decoding.temperature,
                top_p=decoding.top_p,
                seed=self._plan.seed,
                never=self._never(),
            )
        return text_SL[:, num_prompt:].cpu()

    def _never(self) -> list[int]:
        """The tokens that end a text for this model, and those that pad its vocabulary."""
        found = set(range(self._num_known, len(self._model.get_output_embeddings().weight)))
        for config in (self._model.config, self._model.generation_config):
            ids = config.eos_token_id
            found |= set(ids) if isinstance(ids, list) else {ids} - {None}
        return sorted(found)

    def mean_nll(self, judge: nn.Module, ids_SL: Tensor) -> float:
        """Mean negative log-likelihood of the texts after the prompt, in nats a token."""
        total = sum(
            float(F.cross_entropy(logits_CV, target_C, reduction="none").double().sum())
            for _, _, logits_CV, target_C in self._predictions(judge, ids_SL)
        )
        return total / ids_SL.numel()

    def nll_and_entropy(self, ids_SL: Tensor) -> tuple[Tensor, Tensor]:
        """Of the model's prediction of each token of some texts, float64 [S, L]."""
        nll_SL = torch.empty(ids_SL.shape, dtype=torch.float64)
        entropy_SL = torch.empty_like(nll_SL)
        for text, place, logits_CV, target_C in self._predictions(self._model, ids_SL):
            log_p_CV = logits_CV.log_softmax(-1)
            columns = slice(place, place + len(target_C))
            nll_SL[text, columns] = -log_p_CV.gather(1, target_C[:, None]).flatten().double().cpu()
            entropy_SL[text, columns] = -(log_p_CV.exp() * log_p_CV).sum(-1).double().cpu()
        return nll_SL, entropy_SL

    @staticmethod
    def by_position(entropy_SL: Tensor) -> list[dict[str, float | int]]:
        """Mean entropy along texts, in parts of equal length."""
        num_tokens = entropy_SL.shape[1]
        means_L = entropy_SL.mean(0)
        num_parts = min(ENTROPY_BUCKETS, num_tokens)
        bounds = [num_tokens * k // num_parts for k in range(num_parts + 1)]
        return [
            {"from": first + 1, "below": end + 1, "entropy": float(means_L[first:end].mean())}
            for first, end in itertools.pairwise(bounds)
        ]

    def _predictions(
        self, causal_lm: nn.Module, ids_SL: Tensor
    ) -> Iterator[tuple[int, int, Tensor, Tensor]]:
        """The predictions of the texts' tokens: the text, the place in it of the first, logits
        [C, V], targets [C]; chunks of rows of one text."""
        place = 0
        for piece_ST, num_new in self._pieces(ids_SL):
            text = 0
            for some_ST in torch.split(piece_ST, TEXTS_AT_ONCE):
                hidden_STD = model_hidden(causal_lm, self._device, some_ST)
                for ids_T, hidden_TD in zip(some_ST, hidden_STD, strict=True):
                    target_N = ids_T[-num_new:].to(hidden_TD.device)
                    start = 0
                    for logits_CV in head_logits(causal_lm, hidden_TD[-num_new - 1 : -1]):
                        end = start + len(logits_CV)
                        yield text, place + start, logits_CV, target_N[start:end]
                        start = end
                    text += 1
            place += num_new

    def _pieces(self, ids_SL: Tensor) -> Iterator[tuple[Tensor, int]]:
        """Pieces [S, T] that fit the window, and how many of their last tokens are to be predicted:
        together all of the text, each with half a window before it where there is so much."""
        prompt_1P = torch.tensor([list(self._plan.prompt_ids)])
        text_SL = torch.cat([prompt_1P.repeat(len(ids_SL), 1), ids_SL], dim=1)
        done, length = prompt_1P.shape[1], text_SL.shape[1]
        while done < length:
            new = self._window if done < self._window else done + self._window // 2
            end = min(length, new)
            start = max(0, end - self._window)
            yield text_SL[:, start:end], end - done
            done = end
