"""How the settings of a resumed or forked run differ from its checkpoint's, by what that changes.

A resumed run is the same run. A setting that changes what is computed may differ only if the user
allows it (`allow_config_change`), other changes that show in the results are reported, and the rest
is ignored. A schedule may differ where that changes only steps still to come: the run is then the
one that was planned so from the beginning.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args, get_type_hints

from sharpgpt.config.kinds import Kind
from sharpgpt.config.options import shown
from sharpgpt.config.settings import TrainingConfig

__all__ = ["FACTS", "KINDS", "Changes", "Kind", "changes"]

KINDS: dict[str, Kind] = {
    name: label
    for name, hint in get_type_hints(TrainingConfig, include_extras=True).items()
    for label in get_args(hint)
    if isinstance(label, Kind)
}
"""`dataset` and `dtype` are housekeeping because `FACTS` compares what they stand for."""

FACTS: dict[str, Kind] = {
    "vocabulary": Kind.FIXED,
    "text": Kind.MATHEMATICS,
    "arithmetic": Kind.MATHEMATICS,
    "blocks_per_step": Kind.MATHEMATICS,
    "blocks_in_first_step": Kind.SCHEDULE,
}
"""What follows from settings, data and device and is compared too. A step of the same number of
blocks, divided differently into micro-batches, is the same step."""


@dataclass(frozen=True)
class Changes:
    """How a run differs from the checkpoint that it continues: `name before -> now` each."""

    fatal: list[str]
    """The checkpoint's tensors do not fit."""
    refused: list[str]
    """Different mathematics."""
    named: list[str]
    """The same mathematics with different records or rounding."""


def changes(
    before: Mapping[str, Any], now: Mapping[str, Any], *, is_same_past: bool = False
) -> Changes:
    """Compare settings and facts, by name. A setting that `before` lacks counts as unchanged.

    `is_same_past`: with the settings of `now`, no step that was taken would have been another, so
    other schedules are only named.
    """
    of_schedules = Kind.ROUNDING if is_same_past else Kind.MATHEMATICS
    kinds = {
        name: of_schedules if kind is Kind.SCHEDULE else kind
        for name, kind in (KINDS | FACTS).items()
    }
    different = {
        name: f"{name} {shown(before[name])} -> {shown(value)}"
        for name, value in now.items()
        if name in before and before[name] != value
    }

    def of(*wanted: Kind) -> list[str]:
        return [text for name, text in different.items() if kinds[name] in wanted]

    return Changes(
        fatal=of(Kind.FIXED),
        refused=of(Kind.MATHEMATICS),
        named=of(Kind.ROUNDING, Kind.POLICY, Kind.RECORDS),
    )
