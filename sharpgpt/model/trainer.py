"""`SharpnessTrainer`: HuggingFace's Trainer with the sharpness loss, its statistics in the logs.

Importing this imports transformers, which takes seconds; the Trainer also needs accelerate.
"""

from collections.abc import Callable
from dataclasses import fields
from typing import Any, cast

from torch import Tensor
from transformers import Trainer

from sharpgpt.core.metrics import ROW_MEANS
from sharpgpt.model.huggingface import SharpnessSettings, use_sharpness_loss
from sharpgpt.model.row_means import RowMeans
from sharpgpt.sharpness.output import SharpnessOutput

LOGGED = {metric.name for metric in ROW_MEANS} - {"loss", "accuracy"}
"""In the logs of a Trainer, which has a loss of its own."""


class _Window:
    """The rows since the last log line."""

    def __init__(self) -> None:
        self._rows: RowMeans | None = None

    def add(self, output: SharpnessOutput) -> None:
        if self._rows is None:
            self._rows = RowMeans(output.ce.device)
        self._rows.add(output, penalty_weight=0.0)

    def take(self, total: Callable[[Tensor], Tensor], prefix: str = "") -> dict[str, float]:
        """The means over all processes, by name in the logs; the next window begins."""
        if self._rows is None:
            return {}
        means = self._rows.over(total).means(prefix)
        self._rows = None
        return {name: mean for name, mean in means.items() if name.removeprefix(prefix) in LOGGED}


class SharpnessTrainer(Trainer):  # type: ignore[misc]
    """HuggingFace's Trainer with the sharpness loss, its statistics in the logs.

    A subclass and not a callback: callbacks see a log line only after it is in
    `state.log_history`, and take no part in evaluation.

    Keyword arguments besides Trainer's own are those of `use_sharpness_loss`, except `eval_logits`,
    which each evaluation decides. The lines of the training loss also have `ce_loss`, `penalty`,
    `avg_max_prob`, `entropy` and `top_k_mass`, as means over all rows of all processes since
    the line before; the metrics of an evaluation have them with its prefix (`eval_ce_loss`).
    `loss` and `eval_loss` contain the penalty: perplexity is exp of `eval_ce_loss`. Under
    nn.DataParallel (several GPUs in one process) there are no statistics; start it with torchrun.

    Raises:
        ValueError: as `use_sharpness_loss`; or for label smoothing or `compute_loss_func`.
    """

    def __init__(self, model: Any = None, *args: Any, **kwargs: Any) -> None:
        names = {field.name for field in fields(SharpnessSettings)} - {"eval_logits"}
        self._sharpness = {name: kwargs.pop(name) for name in names & kwargs.keys()}
        self._training_rows, self._evaluation_rows = _Window(), _Window()
        if model is not None:
            use_sharpness_loss(model, **self._sharpness)
        super().__init__(model, *args, **kwargs)
        if self.label_smoother is not None or self.compute_loss_func is not None:
            raise ValueError(
                "label_smoothing_factor, compute_loss_func: each replaces the loss of the model, "
                "allowed is neither in SharpnessTrainer"
            )

    def call_model_init(self, trial: Any = None) -> Any:
        """The model of `model_init`, with the sharpness loss."""
        return use_sharpness_loss(super().call_model_init(trial), **self._sharpness)

    def compute_loss(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        """Trainer's; also adds the statistics of this batch."""
        loss = super().compute_loss(model, *args, **kwargs)
        output = self.model.sharpness_output
        if output is not None:  # None under nn.DataParallel, whose replicas have it
            (self._training_rows if model.training else self._evaluation_rows).add(output)
        return loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Trainer's; the line of the training loss has the statistics since the last such line."""
        if "loss" in logs:
            logs |= self._training_rows.take(self._summed)
        super().log(logs, *args, **kwargs)

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> Any:
        """Trainer's; the metrics include the statistics of the whole data set."""
        result = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        result.metrics.update(self._evaluation_rows.take(self._summed, metric_key_prefix + "_"))
        return result

    def prediction_step(
        self, model: Any, inputs: Any, prediction_loss_only: bool, *args: Any, **kwargs: Any
    ) -> Any:
        """Trainer's; logits are computed only if they are used."""
        self.model.sharpness_settings.eval_logits = not prediction_loss_only
        return super().prediction_step(model, inputs, prediction_loss_only, *args, **kwargs)

    def _summed(self, sums: Tensor) -> Tensor:
        return cast(Tensor, self.accelerator.reduce(sums, reduction="sum"))
