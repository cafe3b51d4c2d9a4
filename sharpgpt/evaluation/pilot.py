"""What a pilot tells about the size of a study: the variances of its differences, and from them how
many seeds and how long a validation text a difference needs.

A pilot is a comparison that was made, of at least two seeds. Of each control it has the standard
errors A (between seeds), B (over texts) and R / K (the rest, which seeds do not share), from which
the variances of power.py follow:

    R = K * rest_error^2,    S = K * seed_error^2 - R,    X = text_error^2 - rest_error^2,

none of them below 0. X and R fall as 1 / tokens of the text. A comparison.json of an earlier
version has no rest_error; then R counts as S and as X, and the power is understated.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sharpgpt.core.errors import UserError
from sharpgpt.core.jsonio import read_object
from sharpgpt.evaluation.groups import make_groups
from sharpgpt.evaluation.power import power, variance_range

MAX_SEEDS = 500
MAX_TIMES_TEXT = 1024
"""No more seeds, and no longer a text, are looked for."""


@dataclass(frozen=True)
class Variances:
    """Of a difference of one seed on the pilot's text, in nats^2 (power.py)."""

    seed: float
    text: float
    rest: float
    num_seeds: int
    """From which they were estimated."""
    has_rest: bool = True
    """Whether the rest is known, and not counted as seed and as text."""

    @property
    def seed_degrees(self) -> int:
        """Of freedom of the estimate of `seed`."""
        return self.num_seeds - 1

    @classmethod
    def of_control(cls, control: Mapping[str, Any]) -> "Variances":
        """From a control of an arm in comparison.json, of at least two seeds."""
        num_seeds = len(control["differences"])
        shared = float(control.get("rest_error") or 0.0) ** 2
        return cls(
            seed=max(0.0, num_seeds * (float(control["seed_error"]) ** 2 - shared)),
            text=max(0.0, float(control["text_error"]) ** 2 - shared),
            rest=num_seeds * shared,
            num_seeds=num_seeds,
            has_rest=control.get("rest_error") is not None,
        )

    @classmethod
    def mean(cls, found: Sequence["Variances"]) -> "Variances":
        """Over arms, weighted by their degrees of freedom.

        Arms share their baselines, so together they tell less than as many independent ones would.
        The mean counts as known no better than the best known of them.
        """
        total = sum(one.seed_degrees for one in found)

        def average(name: str) -> float:
            return math.fsum(one.seed_degrees * getattr(one, name) for one in found) / total

        num_seeds = max(one.num_seeds for one in found)
        return cls(average("seed"), average("text"), average("rest"), num_seeds)


@dataclass(frozen=True)
class Question:
    """What a study shall find: a difference of `margin + detect` nats, with which probability."""

    detect: float
    margin: float
    error_rate: float
    num_arms: int
    target: float


@dataclass(frozen=True)
class Pilot:
    """The arms of a comparison with their variances, and the text that it was made on."""

    arms: Mapping[str, Variances]
    num_blocks: int
    block_length: int
    margin: float
    error_rate: float

    @classmethod
    def of(cls, content: Mapping[str, Any], source: str) -> "Pilot":
        """From the content of comparison.json. Raises `UserError` naming `source`."""
        try:
            pilot = cls(
                arms={
                    str(arm["name"]): found
                    for arm in content["models"]
                    if (found := _of_arm(arm["controls"])) is not None
                },
                num_blocks=int(content["data"]["num_blocks"]),
                block_length=int(content["data"]["block_length_tokens"]),
                margin=float(content["margin"]),
                error_rate=float(content["error_rate"]),
            )
            for one in pilot.arms.values():  # raises what its values are not
                pilot.power(
                    Question(1.0, pilot.margin, pilot.error_rate, 1, 0.5),
                    one,
                    num_seeds=2,
                    num_blocks=pilot.num_blocks,
                )
        except UserError:
            raise
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise UserError(
                f"{source}: given a file without what comparison.json has ({error}), expected "
                "what sharpgpt compare writes"
            ) from None
        if not pilot.arms:
            raise UserError(
                f"{source}: no arm was compared with at least 2 seeds, so nothing is known of the "
                "variance between seeds; give a pilot of 2 or more (3 are better)"
            )
        return pilot

    @classmethod
    def read(cls, path: Path) -> "Pilot":
        """From a comparison.json. Raises `UserError`, or OSError."""
        try:
            content = read_object(path)
        except ValueError as error:
            raise UserError(f"{path}: given no comparison.json: {error}") from None
        return cls.of(content, str(path))

    @property
    def num_tokens(self) -> int:
        """Of the validation text."""
        return self.num_blocks * self.block_length

    @property
    def variances(self) -> Variances:
        """The mean over arms."""
        return Variances.mean([*self.arms.values()])

    def power(
        self, question: Question, variances: Variances, *, num_seeds: int, num_blocks: int
    ) -> float:
        """With so many seeds, on a text of so many blocks."""
        times = self.num_blocks / num_blocks
        return power(
            seed_variance=variances.seed,
            text_variance=variances.text * times,
            rest_variance=variances.rest * times,
            num_seeds=num_seeds,
            num_pairs=make_groups(num_blocks).num_groups // 2,
            detect=question.detect,
            margin=question.margin,
            error_rate=question.error_rate,
            num_arms=question.num_arms,
        )

    def seeds_needed(
        self, question: Question, variances: Variances, *, num_blocks: int
    ) -> int | None:
        """The fewest seeds on a text of so many blocks; None for more than MAX_SEEDS."""
        return _least(
            2,
            MAX_SEEDS,
            lambda seeds: (
                self.power(question, variances, num_seeds=seeds, num_blocks=num_blocks)
                >= question.target
            ),
        )

    def tokens_needed(
        self, question: Question, variances: Variances, *, num_seeds: int
    ) -> int | None:
        """Tokens of the shortest text for so many seeds; None where no length is enough."""
        blocks = _least(
            4,
            MAX_TIMES_TEXT * self.num_blocks,
            lambda blocks: (
                self.power(question, variances, num_seeds=num_seeds, num_blocks=blocks)
                >= question.target
            ),
        )
        return None if blocks is None else blocks * self.block_length

    def at_end(self, variances: Variances, *, upper: bool) -> Variances:
        """With the variance between seeds at an end of its 95% interval (chi^2)."""
        factor = variance_range(variances.seed_degrees)[upper]
        # What was estimated between seeds is the rest too.
        seed = max(0.0, factor * (variances.seed + variances.rest) - variances.rest)
        return replace(variances, seed=seed)


def _of_arm(controls: Mapping[str, Any]) -> Variances | None:
    """Of the control with the largest variance, which "better" must hold against too; None where
    nothing was compared, or with one seed."""
    found = [
        Variances.of_control(control)
        for control in controls.values()
        if not control.get("note") and control["seed_error"] is not None
    ]
    return max(found, key=lambda one: one.seed + one.text + one.rest, default=None)


def _least(low: int, high: int, holds: Callable[[int], bool]) -> int | None:
    """The least whole number from `low` to `high` for which `holds`, which it does from some number
    on; None where it does for none."""
    bad, good = low - 1, low
    while not holds(good):
        if good == high:
            return None
        bad, good = good, min(2 * good, high)
    while good - bad > 1:
        middle = (bad + good) // 2
        bad, good = (bad, middle) if holds(middle) else (middle, good)
    return good
