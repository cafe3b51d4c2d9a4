"""`SharpnessTrainer`: HuggingFace's Trainer with the sharpness loss, its statistics in the logs.

Importing this imports transformers, which takes seconds; the Trainer also needs accelerate.
"""

import logging
from dataclasses import fields
from typing import Any, cast

from torch import Tensor
from transformers import Trainer, TrainerCallback

from sharpgpt.core.metrics import ROW_MEANS
from sharpgpt.model.huggingface import SharpnessSettings, causal_lm_of, use_sharpness_loss
from sharpgpt.model.row_means import RowMeans
from sharpgpt.sharpness.output import SharpnessOutput
from sharpgpt.sharpness.reference import IGNORE_INDEX

logger = logging.getLogger(__name__)

LOGGED = {metric.name for metric in ROW_MEANS} - {"loss", "accuracy"}
"""In the lines of the training loss, which is Trainer's."""


class SharpnessTrainer(Trainer):  # type: ignore[misc]
    """HuggingFace's Trainer with the sharpness loss, its statistics in the logs.

    A subclass and not a callback: callbacks see a log line only after it is in
    `state.log_history`, and take no part in evaluation.

    Keyword arguments besides Trainer's own are those of `use_sharpness_loss`, except `eval_logits`,
    which each evaluation decides. A model that has the sharpness loss already keeps the settings
    that are not given, which is said. The lines of the training loss also have `ce_loss`,
    `penalty`, `z_loss`, `smoothing`, `avg_max_prob`, `entropy` and `top_k_mass`, as means over all
    rows of all processes since the line before, or since `train()` began; the metrics of an
    evaluation have them with its prefix (`eval_ce_loss`), over each sample once: what a sampler
    repeats to give all processes equal batches is left out. A window without a valid row has no
    statistics in its line. `loss` and `eval_loss` contain the penalty, the z-loss and label
    smoothing: perplexity is exp of `eval_ce_loss`.
    `eval_loss` is the mean over all rows too; Trainer's own, a mean of batch means, depends on
    batches and processes. Under nn.DataParallel (several GPUs in one process) there are no
    statistics; start it with torchrun.

    Raises:
        ValueError: as `use_sharpness_loss`; or for what replaces the loss of the model:
            `label_smoothing_factor`, `compute_loss_func`, `use_liger_kernel`.
    """

    def __init__(self, model: Any = None, *args: Any, **kwargs: Any) -> None:
        names = {field.name for field in fields(SharpnessSettings)} - {"eval_logits", "per_row"}
        self._sharpness = {name: kwargs.pop(name) for name in names & kwargs.keys()}
        if model is not None:
            self._with_sharpness_loss(model)
        super().__init__(model, *args, **kwargs)
        if self.label_smoother is not None or self.compute_loss_func is not None:
            raise ValueError(
                "label_smoothing_factor, compute_loss_func: each replaces the loss of the model, "
                "allowed is neither in SharpnessTrainer, which takes label_smoothing itself"
            )
        # The first label of a sequence is never predicted. Trainer counts it all the same in models
        # whose class it does not recognise, such as GPT2LMHeadModel, and its loss is too small.
        self._loss_shifts_labels = True
        self._training_rows = RowMeans(self.args.device)
        self._evaluation_rows = RowMeans(self.args.device)
        self._evaluated: Any = None
        self.add_callback(_StartOfTraining(self))

    def call_model_init(self, trial: Any = None) -> Any:
        """The model of `model_init`, with the sharpness loss."""
        return self._with_sharpness_loss(super().call_model_init(trial))

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Trainer's; also adds the statistics of this batch."""
        self._causal_lm.sharpness_output = None
        loss = super().compute_loss(model, inputs, *args, **kwargs)
        output = self._causal_lm.sharpness_output
        if output is not None:
            if output.rows is not None:
                output = _of_first(output, inputs, self._num_new_samples(inputs))
            rows = self._training_rows if model.training else self._evaluation_rows
            settings = self._causal_lm.sharpness_settings
            rows.add(
                output,
                settings.penalty_weight,
                settings.z_loss_weight,
                label_smoothing=settings.label_smoothing,
            )
        elif self.args.n_gpu <= 1:  # the replicas of nn.DataParallel have it
            raise ValueError(
                "model: something has replaced its forward with the sharpness loss, such as "
                "use_liger_kernel; allowed in SharpnessTrainer is nothing that does"
            )
        return loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Trainer's; the line of the training loss has the statistics since the last such line."""
        if "loss" in logs:
            means = self._means(self._training_rows)
            logs |= {name: mean for name, mean in means.items() if name in LOGGED}
            self._training_rows = RowMeans(self.args.device)
        super().log(logs, *args, **kwargs)

    def evaluation_loop(
        self, dataloader: Any, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any
    ) -> Any:
        """Trainer's; the metrics include the statistics of the whole data set."""
        settings = self._causal_lm.sharpness_settings
        before = (settings.eval_logits, settings.per_row)
        # Not at the end: an evaluation that failed has left rows.
        self._evaluation_rows = RowMeans(self.args.device)
        self._evaluated = dataloader
        try:
            result = super().evaluation_loop(
                dataloader, *args, metric_key_prefix=metric_key_prefix, **kwargs
            )
        finally:
            settings.eval_logits, settings.per_row = before
            self._evaluated = None
        for name, mean in self._means(self._evaluation_rows).items():
            if name in LOGGED | {"loss"}:
                result.metrics[f"{metric_key_prefix}_{name}"] = mean
        return result

    def prediction_step(
        self, model: Any, inputs: Any, prediction_loss_only: bool, *args: Any, **kwargs: Any
    ) -> Any:
        """Trainer's; logits are computed only if they are used."""
        settings = self._causal_lm.sharpness_settings
        settings.eval_logits = not prediction_loss_only
        settings.per_row = self._num_new_samples(inputs) is not None
        return super().prediction_step(model, inputs, prediction_loss_only, *args, **kwargs)

    @property
    def _causal_lm(self) -> Any:
        return causal_lm_of(self.accelerator.unwrap_model(self.model))

    def _with_sharpness_loss(self, model: Any) -> Any:
        had_it = hasattr(causal_lm_of(model), "sharpness_settings")
        use_sharpness_loss(model, **self._sharpness)
        if had_it:
            given = ", ".join(self._sharpness) or "none"
            logger.warning(
                "the model has the sharpness loss already and keeps its settings but for those "
                "given here (%s): %s",
                given,
                causal_lm_of(model).sharpness_settings,
            )
        return model

    def _num_new_samples(self, inputs: Any) -> int | None:
        """Samples of this batch that no other has; None if all, or if that is not known.

        The last batches of all processes together, in their order, are filled up with samples from
        the beginning of the data set; `gather_for_metrics` of accelerate cuts them off likewise.
        """
        loader = self._evaluated
        remainder = getattr(loader, "remainder", -1)
        if not getattr(loader, "end_of_dataloader", False) or remainder <= 0:
            return None
        batch_size = len(inputs["labels"]) if "labels" in inputs else 0
        new = min(max(remainder - self.args.process_index * batch_size, 0), batch_size)
        return None if new == batch_size else new

    def _means(self, rows: RowMeans) -> dict[str, float]:
        """Over the rows of all processes, by name in the logs; what has no rows has no mean."""
        sums = rows.over(self._summed).sums()
        return {name: total / num_rows for name, (total, num_rows) in sums.items() if num_rows > 0}

    def _summed(self, sums: Tensor) -> Tensor:
        return cast(Tensor, self.accelerator.reduce(sums, reduction="sum"))


class _StartOfTraining(TrainerCallback):  # type: ignore[misc]
    """Forgets rows of a training that was stopped, or that ended between two lines."""

    def __init__(self, trainer: SharpnessTrainer) -> None:
        self._trainer = trainer

    def on_train_begin(self, args: Any, *_: Any, **__: Any) -> None:
        self._trainer._training_rows = RowMeans(args.device)


def _of_first(output: SharpnessOutput, inputs: Any, num_samples: int | None) -> SharpnessOutput:
    """The statistics of the first samples of a batch."""
    assert output.rows is not None
    targets_BS = inputs["shift_labels"] if "shift_labels" in inputs else inputs["labels"][:, 1:]
    num_rows = (targets_BS[:num_samples] != IGNORE_INDEX).sum().to(output.num_rows.device)
    size = len(targets_BS)
    means = {
        name: values.view(size, -1)[:num_samples].sum() / num_rows.clamp(min=1)
        for name, values in output.rows._asdict().items()
    }
    return output._replace(**means, num_rows=num_rows, rows=None)
