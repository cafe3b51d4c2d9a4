"""Which colour an arm of a comparison has, and numbers out of JSON that may lack them.

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
    def ink(self) -> str:
        """What matplotlib takes for its colour."""
        return STRONG if self.colour == 0 else SERIES_COLOURS[self.colour - 1]

    def key(self, value: str = "") -> Key:
        """Its line of a legend."""
        return Key(self.colour, self.name, value, self.strength)


def arms_of(models: Sequence[Json]) -> list[Arm]:
    """The arms in their order, each penalty in a colour of its own, weak weights pale."""
    penalties = list(dict.fromkeys(str(model.get("penalty")) for model in models))
    arms = []
    for place, model in enumerate(models):
        penalty = str(model.get("penalty"))
        weights = sorted(
            {abs(number_of(one, "penalty_weight") or 0.0) for one in models}
            if penalty == "None"
            else {
                abs(number_of(one, "penalty_weight") or 0.0)
                for one in models
                if str(one.get("penalty")) == penalty
            }
        )
        rank = weights.index(abs(number_of(model, "penalty_weight") or 0.0))
        strength = 1.0 if len(weights) == 1 else 0.45 + 0.55 * rank / (len(weights) - 1)
        arms.append(
            Arm(
                name=str(model.get("name", f"model {place + 1}")),
                colour=penalties.index(penalty) % len(SERIES_COLOURS) + 1,
                strength=strength,
                runs=objects(model.get("runs")),
                content=model,
            )
        )
    return arms


def value_at(content: Any, *names: str) -> Any:
    """What nested JSON holds under these names; None where it holds nothing."""
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


def objects(content: Any) -> list[Json]:
    """The objects of a JSON list; empty for anything else."""
    return [one for one in content if isinstance(one, Mapping)] if isinstance(content, list) else []


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of the values that are there; None where there are none."""
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def mean_of(runs: Sequence[Json], *names: str) -> float | None:
    """The mean over runs of a number."""
    return mean(number_of(run, *names) for run in runs)
