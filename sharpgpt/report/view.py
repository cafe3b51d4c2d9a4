"""`write_view`: a text as models predict it, token by token, on one self-contained HTML page.

Every token is tinted by the entropy of the prediction at its place, by the largest probability, by
the token's own loss, or by the difference of the losses of two models; the page switches between
these without a script. The details of a token show under the pointer, on the keyboard's focus and
on a tap. Ten steps of tint keep the page small: a class of two letters in place of a colour.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from sharpgpt.core.numbers import fixed, signed
from sharpgpt.model.row_means import perplexity
from sharpgpt.report.arms import mean
from sharpgpt.report.pages import write_page
from sharpgpt.report.visible import printable, texts_of_tokens

STRONGEST = 9
"""Tints go from 0, none, to this."""
SCALE_SHARE = 0.95
"""The strongest tint begins above this share of the tokens, over all models."""


@dataclass(frozen=True)
class Prediction:
    """What a model predicted at the place of one token; entropies and losses in nats."""

    ce: float
    """-ln p of the token in the text."""
    entropy: float
    max_prob: float
    rank: int
    """1 for the most probable token."""
    candidates: Sequence[tuple[bytes, float]]
    """The most probable tokens and their probabilities, in falling order."""
    target_place: int | None = None
    """Index of the token among the candidates; None if it is not one of them."""

    @property
    def probability(self) -> float:
        """Of the token in the text."""
        return math.exp(-self.ce)


@dataclass(frozen=True)
class ModelView:
    """One model on the text."""

    name: str
    about: str
    """Its penalty and the like, in a few words."""
    predictions: Sequence[Prediction]
    """Of every token but the first."""
    context_tokens: int
    """The most tokens that it predicts from."""
    least_context_tokens: int
    """The fewest, after the first window."""
    vocab_size: int


@dataclass(frozen=True)
class TextView:
    """A text, split into tokens, and what each model predicted."""

    title: str
    tokens: Sequence[bytes]
    models: Sequence[ModelView]
    notes: Sequence[str] = ()


def write_view(view: TextView, path: Path) -> Path:
    """Write the page to `path`, atomically, and return `path`.

    The first model is the one that the others are compared with. The predictions of all models
    belong to the same tokens.
    """
    for model in view.models:
        assert len(model.predictions) == len(view.tokens) - 1, "the first token is not predicted"
    tints = Tints(view.models)
    measures = [_measures(model) for model in view.models]
    first = view.models[0].predictions
    comparisons = []
    for index, model in enumerate(view.models[1:], 1):
        pairs = list(zip(model.predictions, first, strict=True))
        better = sum(own.ce < other.ce for own, other in pairs)
        sharper = sum(own.entropy < other.entropy for own, other in pairs)
        comparisons.append((_letter(index), better, sharper))
    return write_page(
        path,
        "view.html.jinja",
        title=printable(view.title),
        num_tokens=len(view.tokens),
        notes=[printable(note) for note in view.notes],
        columns=[_column(view, index, tints) for index in range(len(view.models))],
        tints=tints,
        measures=list(measures[0]),
        rows=list(_rows(view.models, measures)),
        comparisons=comparisons,
        is_one_vocabulary=len({model.vocab_size for model in view.models}) == 1,
    )


class Tints:
    """The scales that all models of a page share, so that equal tints mean equal values."""

    def __init__(self, models: Sequence[ModelView]) -> None:
        every = [prediction for model in models for prediction in model.predictions]
        differences = [
            abs(other.ce - first.ce)
            for model in models[1:]
            for first, other in zip(models[0].predictions, model.predictions, strict=True)
        ]
        self.entropy = _scale_end([prediction.entropy for prediction in every])
        self.loss = _scale_end([prediction.ce for prediction in every])
        self.difference = _scale_end(differences)

    def classes(self, prediction: Prediction, first: Prediction | None) -> str:
        """The classes of a token: e entropy, m largest probability, l loss, b or w better or worse
        than `first`; without those of tint 0."""
        levels = {
            "e": _level(prediction.entropy / self.entropy),
            "m": _level(prediction.max_prob),
            "l": _level(prediction.ce / self.loss),
        }
        if first is not None:
            difference = prediction.ce - first.ce
            levels["w" if difference > 0 else "b"] = _level(abs(difference) / self.difference)
        return "".join(f" {letter}{level}" for letter, level in levels.items() if level)


def _scale_end(values: Sequence[float]) -> float:
    """Two digits that the `SCALE_SHARE` of the values do not exceed, at least 0.1."""
    if not values:
        return 1.0
    value = max(sorted(values)[math.ceil(SCALE_SHARE * len(values)) - 1], 0.1)
    step = 10.0 ** (math.floor(math.log10(value)) - 1)
    return math.ceil(value / step - 1e-9) * step


def _level(share: float) -> int:
    return round(STRONGEST * min(max(share, 0.0), 1.0))


def _column(view: TextView, index: int, tints: Tints) -> dict[str, Any]:
    """One model on the page: its names, and for each token its text, prediction and classes."""
    model = view.models[index]
    # Two models show each other's predictions; of more, each shows those of the first.
    other = 0 if index else 1 if len(view.models) == 2 else None
    texts = texts_of_tokens(view.tokens)
    others: Sequence[Prediction | None] = [None] * len(model.predictions)
    if other is not None:
        others = view.models[other].predictions
    rows: list[tuple[Prediction | None, Prediction | None]] = [(None, None)]
    rows += zip(model.predictions, others, strict=True)
    cells = []
    for text, (own, compared) in zip(texts, rows, strict=True):
        classes = tints.classes(own, compared if index else None) if own else ""
        cells.append((text, own, compared, classes + (" s" if text.is_space else "")))
    return {
        "letter": _letter(index),
        "other": None if other is None else _letter(other),
        "name": printable(model.name),
        "about": printable(model.about),
        "model": model,
        "cells": cells,
    }


def _letter(index: int) -> str:
    """A, B, ... Z, A2, B2, ..."""
    turn, place = divmod(index, len(ascii_uppercase))
    return ascii_uppercase[place] + (str(turn + 1) if turn else "")


def _measures(model: ModelView) -> dict[str, float]:
    """The row of the summary."""
    rows = model.predictions
    ce = mean(row.ce for row in rows) or 0.0
    return {
        "Cross-entropy": ce,
        "Perplexity": perplexity(ce),
        "Mean entropy": mean(row.entropy for row in rows) or 0.0,
        "Mean largest probability": mean(row.max_prob for row in rows) or 0.0,
        "Accuracy": mean(row.rank == 1 for row in rows) or 0.0,
    }


def _rows(
    models: Sequence[ModelView], measures: Sequence[dict[str, float]]
) -> Iterator[tuple[str, str, list[str]]]:
    """(letter, name, values) of each model, then the differences to the first, without a name."""
    for i, model in enumerate(models):
        yield _letter(i), printable(model.name), [_shown(*one) for one in measures[i].items()]
    for i in range(1, len(models)):
        differences = {name: own - measures[0][name] for name, own in measures[i].items()}
        yield f"{_letter(i)} − A", "", [_shown(*one, signed) for one in differences.items()]


def _shown(name: str, value: float, form: Callable[[float, int], str] = fixed) -> str:
    """A measure with the decimals that it has everywhere."""
    return form(value, 2 if name == "Perplexity" else 4)
