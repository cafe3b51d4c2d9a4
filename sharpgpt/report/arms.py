"""The models of evaluations and comparisons as pages show them, and access to their JSON, which may
lack parts.

An arm is a configuration, with one run for each seed. Hue says which penalty, strength which
weight; the unpenalised baseline is in ink.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sharpgpt.report.drawing import SERIES_COLOURS, STRONG, Key

Json = Mapping[str, Any]


@dataclass(frozen=True)
class Arm:
    """One arm: its runs as evaluated, and how it is drawn."""

    name: str
    colour: int
    """Place of its hue, from 1; 0 is ink."""
    strength: float
    runs: Sequence[Json]
    content: Json

    @property
    def style(self) -> dict[str, Any]:
        """Its colour as matplotlib's keyword arguments."""
        ink = STRONG if self.colour == 0 else SERIES_COLOURS[self.colour - 1]
        return {"color": ink, "alpha": self.strength}

    def key(self, value: str = "") -> Key:
        """Its line of a legend."""
        return Key(self.colour, self.name, value, self.strength)


def arms_of(models: Sequence[Json]) -> list[Arm]:
    """The arms in their order, each penalty in a colour of its own, weak weights pale."""
    weights: dict[str, list[float]] = {}
    for model in models:
        weights.setdefault(str(model.get("penalty")), []).append(_weight(model))
    hues = list(weights)
    arms = []
    for place, model in enumerate(models):
        penalty = str(model.get("penalty"))
        ranks = sorted(set(weights[penalty]))
        share = ranks.index(_weight(model)) / (len(ranks) - 1) if len(ranks) > 1 else 1.0
        arms.append(
            Arm(
                name=str(model.get("name", f"model {place + 1}")),
                colour=hues.index(penalty) % len(SERIES_COLOURS) + 1,
                strength=0.45 + 0.55 * share,
                runs=objects(model.get("runs")),
                content=model,
            )
        )
    return arms


def _weight(model: Json) -> float:
    return abs(number_of(model, "penalty_weight") or 0.0)


def value_at(content: Any, *names: str) -> Any:
    """The value under these names in nested JSON; None where it is missing."""
    for name in names:
        if not isinstance(content, Mapping):
            return None
        content = content.get(name)
    return content


def number_of(content: Any, *names: str) -> float | None:
    """The finite number under these names; None where there is none."""
    found = value_at(content, *names)
    if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
        return None
    return float(found)


def text_of(content: Any, *names: str) -> str:
    """What is under these names as text; empty where it is missing, null or empty."""
    return str(value_at(content, *names) or "")


def mapping(content: Any, *names: str) -> Json:
    """The JSON object under these names; empty where there is none."""
    found = value_at(content, *names)
    return found if isinstance(found, Mapping) else {}


def objects(content: Any) -> list[Json]:
    """The objects of a JSON list; empty for anything else."""
    return [one for one in content if isinstance(one, Mapping)] if isinstance(content, list) else []


def points_of(rows: Any, *names: str) -> list[tuple[float, ...]]:
    """These numbers of each row of a JSON list that has them all."""
    found = [[number_of(row, name) for name in names] for row in objects(rows)]
    return [tuple(row) for row in found if None not in row]  # type: ignore[arg-type]


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of the values that are known; None where none is."""
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def mean_of(runs: Sequence[Json], *names: str) -> float | None:
    """The mean of a number over runs."""
    return mean(number_of(run, *names) for run in runs)
