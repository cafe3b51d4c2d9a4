"""The statistics of evaluation.json, each with its label: pages, model cards and the terminal
follow STATISTICS, in its order."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sharpgpt.core.numbers import counted, fixed
from sharpgpt.report.arms import Arm, Json, mean, number_of, text_of


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
    decimals: int = 4
    """Shown everywhere."""

    @property
    def words(self) -> str:
        """Such as `cross-entropy, nats`."""
        return f"{self.label}, {self.unit}" if self.unit else self.label

    @property
    def heading(self) -> str:
        """Such as `Cross-entropy`."""
        return self.label[0].upper() + self.label[1:]

    def text(self, value: float | None) -> str:
        """A value of it, the same wherever it is shown."""
        return fixed(value, self.decimals)


STATISTICS = (
    Statistic("ce", "cross-entropy", "nats", "cross_entropy"),
    Statistic("perplexity", "perplexity", hub_type="perplexity", decimals=2),
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

TEMPERATURE_DECIMALS = 3

CALIBRATION = {
    "smooth_ece": "smooth calibration error",
    "ece": "expected calibration error, 15 bins",
}
"""Its two measures in evaluation.json, the first of them first everywhere -> its name."""

BEST = "at the best temperature"

DERIVED = {
    "Best temperature": ("temperature", "best"),
    "Cross-entropy at the best temperature": ("temperature", "ce"),
    "Cross-entropy, best monotone recalibration": ("recalibration", "ce"),
    **{
        f"{name.capitalize()}{when}": ("calibration", at, key)
        for key, name in CALIBRATION.items()
        for at, when in (("unchanged", ""), ("best_temperature", f", {BEST}"))
    },
    "Final norm, rms": ("final_layer", "layer_norm_weight_rms"),
    "Output rows, norm": ("final_layer", "head_row_norm"),
}
"""Heading -> where evaluation.json has it."""


def found_value(run: Json, *names: str) -> float | None:
    """A number of evaluation.json; None for what is of a best temperature where there is none.

    A file of an earlier version has the end of the search there, beside a note.
    """
    is_of_best = names[-2:] in (("temperature", "best"), ("temperature", "ce"))
    if (is_of_best or "best_temperature" in names) and text_of(run, "temperature", "note"):
        return None
    return number_of(run, *names)


def validation_scope(data: Json) -> str:
    """On how much of the validation split something was measured, in words, as DATA tells."""
    num_blocks, in_split = (number_of(data, name) for name in ("num_blocks", "num_blocks_in_split"))
    if num_blocks is None or in_split is None:
        return "the validation split"
    if num_blocks >= in_split:
        return "the whole validation split"
    return f"{num_blocks:,.0f} of the {counted(int(in_split), 'block')} of the validation split"


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


def statistics_table(arms: Sequence[Arm]) -> list[tuple[str, list[str]]]:
    """For each statistic that is known its heading and, for each arm, the mean over runs."""
    rows = []
    for heading, names, decimals in (
        *((one.heading, ("figures", one.name, "estimate"), one.decimals) for one in STATISTICS),
        *((heading, names, 4) for heading, names in DERIVED.items()),
    ):
        values = [mean(found_value(run, *names) for run in arm.runs) for arm in arms]
        if any(value is not None for value in values):
            shown = TEMPERATURE_DECIMALS if names == ("temperature", "best") else decimals
            rows.append((heading, [fixed(value, shown) for value in values]))
    return rows
