"""The models of evaluations and comparisons as pages show them, and access to their JSON, which may
lack parts.

An arm is a configuration, with one run for each seed. Hue says which penalty, strength which
weight, the same on every page; what was trained without a penalty is in ink. Dashes tell apart what
has one hue on a page.
"""

import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sharpgpt.core.numbers import typeset
from sharpgpt.report.drawing import SERIES_COLOURS, STRONG, Key

Json = Mapping[str, Any]

PENALTY_COLOURS = {"neg_entropy": 1, "non_max_sum": 2, "top_k_mass": 3, "neg_max_prob": 4}
"""Penalty -> place of its hue, from 1. The others share those of OTHER_COLOURS."""
OTHER_COLOURS = (5, 6)

DASHES: tuple[Any, ...] = ("-", (0, (5, 1.6)), (0, (1.3, 1.3)), (0, (6, 1.6, 1.3, 1.6)))

MARKERS = {
    0: ("o", "●"), 1: ("o", "●"), 2: ("s", "■"), 3: ("D", "◆"), 4: ("^", "▲"), 5: ("v", "▼"),
    6: ("P", "✚"),
}  # fmt: skip
"""Place of a hue -> its marker for matplotlib and as a character."""


@dataclass(frozen=True)
class Arm:
    """One arm: its runs as evaluated, and how it is drawn."""

    name: str
    colour: int
    """Place of its hue, from 1; 0 is ink."""
    strength: float
    runs: Sequence[Json]
    content: Json
    dash: int = 0
    """Place of its dashes in DASHES."""

    @property
    def given_name(self) -> str:
        """Its name in the JSON."""
        return str(self.content.get("name", self.name))

    @property
    def style(self) -> dict[str, Any]:
        """Its colour as matplotlib's keyword arguments."""
        ink = STRONG if self.colour == 0 else SERIES_COLOURS[self.colour - 1]
        return {"color": ink, "alpha": self.strength, "linestyle": DASHES[self.dash]}

    def key(self, value: str = "") -> Key:
        """Its line of a legend."""
        return Key(self.colour, self.name, value, self.strength, self.dash)


def arms_of(models: Sequence[Json]) -> list[Arm]:
    """The arms of models with `name`, `penalty`, `penalty_weight` and `runs`, in their order."""
    arms = [
        arm_of(
            str(model.get("name", f"model {place}")),
            value_at(model, "penalty"),
            number_of(model, "penalty_weight"),
            runs=objects(model.get("runs")),
            content=model,
        )
        for place, model in enumerate(models, 1)
    ]
    return with_dashes(arms)


def arm_of(
    name: str, penalty: Any, weight: float | None, *, runs: Sequence[Json], content: Json
) -> Arm:
    """An arm in the colour that it has on every page."""
    colour, strength = _colour(name, penalty, weight), 1.0
    if weight and colour:
        strength = min(max(1 + 0.3 * math.log10(abs(weight)), 0.35), 1.0)
    return Arm(typeset(name), colour, strength, runs, content)


def _colour(name: str, penalty: Any, weight: float | None) -> int:
    if weight == 0 or penalty == "none":
        return 0
    if penalty is None:  # a model of somebody else
        return 1 + zlib.crc32(name.encode("utf-8", "replace")) % len(SERIES_COLOURS)
    key = str(penalty)
    other = OTHER_COLOURS[zlib.crc32(key.encode("utf-8", "replace")) % len(OTHER_COLOURS)]
    return PENALTY_COLOURS.get(key, other)


def with_dashes(arms: Sequence[Arm]) -> list[Arm]:
    """The arms, those of one hue with different dashes."""
    seen: dict[int, int] = {}
    found = []
    for arm in arms:
        number = seen[arm.colour] = seen.get(arm.colour, -1) + 1
        found.append(replace(arm, dash=number % len(DASHES)))
    return found


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
