"""`write_view`: a text as models read it, token by token, on one HTML page that needs nothing else.

Every token is tinted by the entropy of the prediction at its place, by the largest probability, by
the token's own loss, or by the difference of the losses of two models; the page switches between
these without a script. What is known of a token shows under the pointer, on the keyboard's focus
and on a tap. Ten steps of tint keep the page small: a class of two letters in place of a colour.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import ascii_uppercase

from sharpgpt.core.files import write_text
from sharpgpt.report.numbers import number
from sharpgpt.report.visible import TokenText, printable, texts_of_tokens, visible_bytes

STRONGEST = 9
"""Tints go from 0, none, to this."""
SCALE_SHARE = 0.95
"""The strongest tint begins where this share of the tokens, over all models, lies below."""


@dataclass(frozen=True)
class Prediction:
    """What a model expected at the place of one token; entropies and losses in nats."""

    ce: float
    """-ln p of the token that stands there."""
    entropy: float
    max_prob: float
    rank: int
    """1 if the token was the likeliest."""
    candidates: Sequence[tuple[bytes, float]]
    """The likeliest tokens and their probabilities, likeliest first."""
    target_place: int | None = None
    """Index of the token among the candidates; None if it is not one of them."""


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
    """A text, cut into tokens, and what each model expected."""

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
    # Names of runs and folders may hold control characters and halves of surrogate pairs.
    page = re.sub(r"[\x00-\x08\x0b-\x1f\x7f]", "\ufffd", _render(view))
    write_text(path, page.encode("utf-8", errors="replace").decode("utf-8"))
    return path


@dataclass(frozen=True)
class Candidate:
    """A row of the list of candidates; `width` is that of its bar in percent."""

    text: str
    probability: str
    width: int
    is_target: bool


@dataclass(frozen=True)
class Cell:
    """One token of one model on the page."""

    classes: str
    text: TokenText
    number: int
    lines: list[str]
    candidates: list[Candidate] = field(default_factory=list)


@dataclass(frozen=True)
class Column:
    """One model on the page."""

    letter: str
    name: str
    about: str
    reading: str
    cells: list[Cell]


@dataclass(frozen=True)
class Scale:
    """One way to tint: `legend` says what its first and its last swatch stand for."""

    key: str
    label: str
    legend: tuple[str, str]
    meaning: str


def _render(view: TextView) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("sharpgpt.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    tints = Tints(view.models)
    return environment.get_template("view.html.jinja").render(
        title=printable(view.title),
        num_tokens=len(view.tokens),
        notes=[printable(note) for note in view.notes],
        columns=_columns(view, tints),
        scales=tints.scales(),
        measures=["", *MEASURES],
        rows=_rows(view.models),
        summary_sentence=_sentence(view.models),
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
        self.is_comparison = bool(differences)

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

    def scales(self) -> list[Scale]:
        """The ways to tint, in the order of the switch."""
        scales = [
            Scale("entropy", "Entropy", _ends(self.entropy), "the stronger, the less certain"),
            Scale("max-prob", "Largest probability", ("0", "1"), "the stronger, the sharper"),
            Scale("loss", "Loss of the token", _ends(self.loss), "the stronger, the less expected"),
        ]
        if self.is_comparison:
            end = number(self.difference, 2)
            legend = (f"−{end} nats and below", f"+{end} nats and above")
            meaning = "blue: likelier than for A; red: less likely"
            scales.append(Scale("difference", "Difference of the loss to A", legend, meaning))
        return scales


def _ends(end: float) -> tuple[str, str]:
    return "0", f"{number(end, 2)} nats and above"


def _scale_end(values: Sequence[float]) -> float:
    """Two digits that the `SCALE_SHARE` of the values do not exceed, at least 0.1."""
    if not values:
        return 1.0
    value = max(sorted(values)[math.ceil(SCALE_SHARE * len(values)) - 1], 0.1)
    step = 10.0 ** (math.floor(math.log10(value)) - 1)
    return math.ceil(value / step - 1e-9) * step


def _level(share: float) -> int:
    return round(STRONGEST * min(max(share, 0.0), 1.0))


def _columns(view: TextView, tints: Tints) -> list[Column]:
    texts = texts_of_tokens(view.tokens)
    columns = []
    for index, model in enumerate(view.models):
        # Two models show each other's figures; of more, each shows those of the first.
        other = 0 if index else 1 if len(view.models) == 2 else None
        cells = [
            Cell(_space(texts[0]), texts[0], 1, ["The first token: nothing to predict it from"])
        ]
        for row, (text, prediction) in enumerate(zip(texts[1:], model.predictions, strict=True)):
            others = None if other is None else view.models[other].predictions[row]
            lines = [
                f"probability {_percent(math.exp(-prediction.ce))}, rank {prediction.rank:,}, "
                f"loss {prediction.ce:.2f}",
                f"entropy {prediction.entropy:.2f}, largest {_percent(prediction.max_prob)}",
            ]
            if others is not None and other is not None:
                lines.append(
                    f"{_letter(other)}: {_percent(math.exp(-others.ce))}, loss {others.ce:.2f}, "
                    f"entropy {others.entropy:.2f}, largest {_percent(others.max_prob)}"
                )
            if text.part_of:
                lines.append(f"part of {text.part_of}")
            classes = tints.classes(prediction, others if index else None) + _space(text)
            cells.append(Cell(classes, text, row + 2, lines, _candidates(prediction, text)))
        columns.append(
            Column(
                _letter(index),
                printable(model.name),
                printable(model.about),
                _reading(model),
                cells,
            )
        )
    return columns


def _space(text: TokenText) -> str:
    return " s" if text.is_space else ""


def _candidates(prediction: Prediction, text: TokenText) -> list[Candidate]:
    rows = [
        Candidate(
            visible_bytes(token), _percent(p), round(100 * p), place == prediction.target_place
        )
        for place, (token, p) in enumerate(prediction.candidates)
    ]
    if prediction.target_place is None:
        p = math.exp(-prediction.ce)
        rows.append(Candidate(text.alone, _percent(p), round(100 * p), True))
    return rows


def _letter(index: int) -> str:
    """A, B, ... Z, A2, B2, ..."""
    turn, place = divmod(index, len(ascii_uppercase))
    return ascii_uppercase[place] + (str(turn + 1) if turn else "")


def _reading(model: ModelView) -> str:
    """How much text the model sees, in a sentence."""
    if len(model.predictions) <= model.context_tokens:
        return "Every token is predicted from all the text before it."
    return (
        f"The model sees at most {model.context_tokens:,} tokens. The text is read in windows of "
        f"that length that overlap by about half, so past the first {model.context_tokens:,} every "
        f"token is predicted from the {model.least_context_tokens:,} to {model.context_tokens:,} "
        "tokens before it."
    )


def _percent(probability: float) -> str:
    """31.2%, 3.12%, 0.05%; never 0% or 100% for what is only near."""
    if probability >= 1:
        return "100%"
    if probability > 0.9995:
        return ">99.9%"
    if probability < 0.0001:
        return "<0.01%"
    return f"{100 * probability:.{1 if probability >= 0.1 else 2}f}%"


def _mean(measure: Callable[[Prediction], float]) -> Callable[[ModelView], float]:
    def mean(model: ModelView) -> float:
        return math.fsum(map(measure, model.predictions)) / len(model.predictions)

    return mean


_mean_ce = _mean(lambda prediction: prediction.ce)


def _perplexity(model: ModelView) -> float:
    try:
        return math.exp(_mean_ce(model))
    except OverflowError:
        return math.inf


MEASURES: dict[str, Callable[[ModelView], float]] = {
    "Cross-entropy": _mean_ce,
    "Perplexity": _perplexity,
    "Mean entropy": _mean(lambda prediction: prediction.entropy),
    "Mean largest probability": _mean(lambda prediction: prediction.max_prob),
    "Accuracy": _mean(lambda prediction: prediction.rank == 1),
}


@dataclass(frozen=True)
class Row:
    """A row of the summary: a model's measures, or their differences to the first model's."""

    letter: str
    name: str
    values: list[str]
    is_difference: bool = False


def _rows(models: Sequence[ModelView]) -> list[Row]:
    values = [[measure(model) for measure in MEASURES.values()] for model in models]
    rows = [
        Row(_letter(i), printable(model.name), [number(value) for value in values[i]])
        for i, model in enumerate(models)
    ]
    for i in range(1, len(models)):
        shown = [_difference(own, first) for own, first in zip(values[i], values[0], strict=True)]
        rows.append(Row(f"{_letter(i)} − A", "", shown, is_difference=True))
    return rows


def _difference(own: float, first: float) -> str:
    """With as many decimals as the values themselves."""
    if not math.isfinite(own - first):
        return number(own - first)
    decimals = len(number(own).partition(".")[2])
    return f"{own - first:+,.{decimals}f}".replace("-", "−")


def _sentence(models: Sequence[ModelView]) -> str:
    """How many tokens each later model finds likelier than the first, in words."""
    sentences = []
    for i, model in enumerate(models[1:], 1):
        pairs = list(zip(model.predictions, models[0].predictions, strict=True))
        likelier = sum(own.ce < first.ce for own, first in pairs)
        sharper = sum(own.entropy < first.entropy for own, first in pairs)
        sentences.append(
            f"{_letter(i)} gives {likelier:,} of {len(pairs):,} tokens a higher probability than A "
            f"does, and is sharper (has less entropy) at {sharper:,}."
        )
    return " ".join(sentences)
