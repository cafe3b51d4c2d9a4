"""The registry of metrics: what a run logs, under which name, and where each metric is shown.

A metric is logged as `train/NAME`, `val/NAME` or both. The sums over rows, the console, the report,
the model card and docs/metrics.md all follow METRICS, in its order. To add a metric: an entry here,
its value where it is computed, and its row in docs/metrics.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from sharpgpt.core.numbers import fixed, plain

Split = Literal["train", "val"]
SPLIT_LABELS: dict[Split, str] = {"train": "training", "val": "validation"}

Section = Literal["Loss", "Output distribution", "Optimisation"]
"""Of the report, in this order."""

Over = Literal["rows", "step", "window", "run"]
OVER_WORDS: dict[Over, str] = {
    "rows": "all rows since the last log line",
    "step": "the logged step alone",
    "window": "the time since the last log line",
    "run": "the run so far",
}
"""What a value of `train/*` is of. A value of `val/*` is of all rows of the validation blocks."""

Place = Literal[
    "training line",  # on the console, at each log step
    "validation line",
    "last lines",  # what `train` prints at the end
    "report headline",
    "model card",
    "runs table",  # of the report over several runs
    "comparison",  # loss curves of a comparison
]


@dataclass(frozen=True)
class Metric:
    """One metric."""

    name: str
    label: str
    unit: str
    meaning: str
    section: Section | None
    """Where the report plots it; None: nowhere."""
    over: Over = "rows"
    """What its value in `train/*` is of."""
    splits: tuple[Split, ...] = ("train", "val")
    statistic: str | None = None
    """What it is the mean of, over all rows of a window or of the validation: a name in
    `row_means.row_statistics`. None: not a mean over rows."""
    better: Literal["lower", "higher"] | None = None
    shown: tuple[Place, ...] = ()
    runs_plots: tuple[Split, ...] = ()
    """Splits that the report over several runs plots."""
    console: str = ""
    """Its place in the training line and the validation line, `{}` for its value."""
    decimals: int | None = 4
    """Shown everywhere; None: as many as `number` gives."""
    log_scale: bool = False

    @property
    def logged_names(self) -> tuple[str, ...]:
        """Such as train/loss and val/loss."""
        return tuple(f"{split}/{self.name}" for split in self.splits)

    def text(self, value: float | None) -> str:
        """A value of it, the same wherever it is shown; with a true minus."""
        return fixed(value, self.decimals)


METRICS = (
    Metric(
        "loss", "Loss", "nats, penalty included",
        "ce_loss + penalty_weight * penalty + z_loss_weight * z_loss + label_smoothing * "
        "smoothing, which training minimises",
        "Loss", statistic="loss", better="lower", shown=("last lines",),
    ),
    Metric(
        "ce_loss", "Cross-entropy", "nats per token",
        "-ln of the probability of the next token; decides which checkpoint is the best",
        "Loss", statistic="ce", better="lower",
        shown=(
            "training line", "validation line", "last lines", "report headline", "model card",
            "runs table", "comparison",
        ),
        runs_plots=("val", "train"), console="CE {}",
    ),
    Metric(
        "perplexity", "Perplexity", "exp of the cross-entropy", "exp(ce_loss), never exp(loss)",
        "Loss", better="lower",
        shown=("validation line", "last lines", "report headline", "model card", "runs table"),
        console="perplexity {}", decimals=2, log_scale=True,
    ),
    Metric(
        "penalty", "Penalty", "unweighted",
        "the penalty of penalty_type before its weight; 0 on rows outside penalty_positions",
        "Output distribution", statistic="penalty",
        shown=("training line", "last lines", "report headline"), runs_plots=("train",),
        console="penalty {}",
    ),
    Metric(
        "avg_max_prob", "Largest probability", "mean over positions",
        "the largest probability of the next-token distribution",
        "Output distribution", statistic="max_prob",
        shown=(
            "training line", "validation line", "last lines", "report headline", "model card",
            "runs table",
        ),
        runs_plots=("val",), console="max p {}",
    ),
    Metric(
        "entropy", "Entropy", "nats, mean over positions",
        "the entropy of the next-token distribution",
        "Output distribution", statistic="entropy",
        shown=(
            "validation line", "last lines", "report headline", "model card", "runs table",
            "comparison",
        ),
        runs_plots=("val",), console="entropy {}",
    ),
    Metric(
        "top_k_mass", "Top-k mass", "mass of the k largest",
        "the sum of the top_k largest probabilities",
        "Output distribution", statistic="top_k_mass",
    ),
    Metric(
        "accuracy", "Accuracy", "share of tokens predicted correctly",
        "the share of positions where the most probable token is the next one",
        "Output distribution", statistic="accuracy", better="higher",
        shown=("model card", "runs table"),
    ),
    Metric(
        "z_loss", "Z-loss", "unweighted",
        "(ln sum e^logits)^2, the z-loss before its weight, logged for weight 0 too",
        "Optimisation", statistic="z_loss",
    ),
    Metric(
        "smoothing", "Label smoothing", "unweighted",
        "z_y - mean z, the logit of the next token less the mean logit: the term of label "
        "smoothing before its weight, logged for weight 0 too",
        "Optimisation", statistic="smoothing",
    ),
    Metric(
        "learning_rate", "Learning rate", "", "of the step that was logged",
        "Optimisation", "step", ("train",), shown=("training line",), console="lr {}",
        decimals=None,
    ),
    Metric(
        "penalty_weight", "Penalty weight", "",
        "of the step that was logged, after its schedule or from `entropy_target`",
        "Optimisation", "step", ("train",), decimals=None,
    ),
    Metric(
        "grad_norm", "Gradient norm", "before clipping",
        "the global L2 norm of the gradient of the step that was logged, before clipping",
        "Optimisation", "step", ("train",),
    ),
    Metric(
        "tokens_per_s", "Speed", "tokens per second",
        "training tokens per second of training time, all processes together",
        "Optimisation", "window", ("train",), better="higher", shown=("training line",),
        runs_plots=("train",), console="{} tokens/s", decimals=0,
    ),
    Metric(
        "mfu", "Model FLOPs utilisation", "share of peak",
        "model FLOPs per second as a share of the device's peak",
        "Optimisation", "window", ("train",), better="higher",
    ),
    Metric(
        "num_skipped_steps", "Skipped steps", "since the run began",
        "steps left out because the loss or the gradient was not finite", None, "run", ("train",),
        decimals=0,
    ),
    Metric(
        "num_loss_spikes", "Loss spikes", "since the run began",
        "losses far above those of the last 100 steps", None, "run", ("train",), decimals=0,
    ),
    Metric(
        "num_rollbacks", "Rollbacks", "since the run began",
        "returns to the newest checkpoint after a loss spike", None, "run", ("train",),
        decimals=0,
    ),
)  # fmt: skip

BY_LOGGED_NAME = {name: metric for metric in METRICS for name in metric.logged_names}
"""train/loss -> its metric."""

ROW_MEANS = tuple(metric for metric in METRICS if metric.statistic)
"""The metrics that are means over rows."""

MAX_PROB_HISTOGRAM = "train/max_prob_histogram"
"""Logged beside the metrics: counts of rows by largest probability, in equal bins of [0, 1]."""
NUM_HISTOGRAM_BINS = 20


def metrics_shown(place: Place) -> list[Metric]:
    """The metrics of a place, in order."""
    return [metric for metric in METRICS if place in metric.shown]


def console_line(values: Mapping[str, float], split: Split) -> str:
    """The metrics of the training line or the validation line."""
    shown = metrics_shown("training line" if split == "train" else "validation line")
    return "  ".join(
        metric.console.format(plain(metric.text(values[f"{split}/{metric.name}"])))
        for metric in shown
    )
