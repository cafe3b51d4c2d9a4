"""The statistics of evaluation.json, each with its label: pages, model cards and the terminal
follow STATISTICS, in its order."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sharpgpt.core.numbers import number
from sharpgpt.report.arms import Arm, Json, mean_of, number_of


@dataclass(frozen=True)
class Statistic:
    """One statistic of a model over a text."""

    name: str
    """Its key in evaluation.json."""
    label: str
    unit: str = ""
    hub_type: str | None = None
    """Its metric type in the model index of a model card; None: not a measure of quality."""
    has_interval: bool = True
    """Whether the page of an evaluation shows its interval."""
    is_main: bool = True
    """Whether model cards and the terminal show it."""

    @property
    def words(self) -> str:
        """Such as `cross-entropy, nats`."""
        return f"{self.label}, {self.unit}" if self.unit else self.label

    @property
    def heading(self) -> str:
        """Such as `Cross-entropy`."""
        return self.label[0].upper() + self.label[1:]


STATISTICS = (
    Statistic("ce", "cross-entropy", "nats", "cross_entropy"),
    Statistic("perplexity", "perplexity", hub_type="perplexity"),
    Statistic("bits_per_byte", "bits per byte", hub_type="bits_per_byte"),
    Statistic("accuracy", "accuracy", hub_type="accuracy"),
    Statistic("accuracy_top_5", "top-5 accuracy"),
    Statistic("accuracy_top_k", "top-k accuracy", has_interval=False, is_main=False),
    Statistic("reciprocal_rank", "mean reciprocal rank", hub_type="mrr"),
    Statistic("entropy", "entropy", "nats"),
    Statistic("max_prob", "largest probability"),
    Statistic("top_k_mass", "top-k mass", is_main=False),
    Statistic("brier", "Brier score"),
    Statistic("logit_std", "logit deviation", has_interval=False, is_main=False),
)

DERIVED = {
    "Best temperature": ("temperature", "best"),
    "Smooth calibration error": ("calibration", "unchanged", "smooth_ece"),
    "… at its best temperature": ("calibration", "best_temperature", "smooth_ece"),
    "Final norm, rms": ("final_layer", "layer_norm_weight_rms"),
    "Output rows, norm": ("final_layer", "head_row_norm"),
}
"""Heading -> where evaluation.json has it."""


def intervals(
    evaluation: Json | None,
) -> Iterator[tuple[Statistic, float, float | None, float | None]]:
    """(statistic, estimate, low, high) of each that the model has."""
    for statistic in STATISTICS:
        estimate, low, high = (
            number_of(evaluation, "figures", statistic.name, part)
            for part in ("estimate", "low", "high")
        )
        if estimate is not None:
            yield statistic, estimate, low, high


def statistics_table(arms: Sequence[Arm]) -> tuple[list[str], list[tuple[Arm, list[str]]]]:
    """Headings, and for each arm its statistics as means over runs."""
    columns = {one.heading: ("figures", one.name, "estimate") for one in STATISTICS} | DERIVED
    known = {
        heading: names
        for heading, names in columns.items()
        if any(mean_of(arm.runs, *names) is not None for arm in arms)
    }
    rows = [(arm, [number(mean_of(arm.runs, *names)) for names in known.values()]) for arm in arms]
    return list(known), rows
