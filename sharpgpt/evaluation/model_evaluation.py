"""Everything that is measured of one trained model on one text, in a handful of passes over it.

    passes = ModelPasses(causal_lm, device, text, top_k=5, batch_size=16)
    evaluation = evaluate_model(passes)
    evaluation.to_dict()

One pass gives all figures as they are, the whole curve of temperatures, the confidences for
calibration and the buckets; one or two more find the best temperature, a last one has the
confidences there. docs/verdict.md says what every figure means.

Shapes: B blocks of a batch, T tokens of a block, V vocabulary.
"""

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from sharpgpt.core.errors import UserError
from sharpgpt.evaluation.bootstrap import Interval, bootstrap_means, mean_intervals
from sharpgpt.evaluation.buckets import ENTROPY_BOUNDS, BucketMeans, position_bounds, positions_of
from sharpgpt.evaluation.calibration import (
    ConfidenceHistogram,
    expected_calibration_error,
    reliability_bins,
    smooth_calibration_error,
)
from sharpgpt.evaluation.groups import GroupFigures, make_groups
from sharpgpt.evaluation.hidden_states import CACHE_BYTES, HiddenStates
from sharpgpt.evaluation.metrics import perplexity
from sharpgpt.evaluation.rows import UNCHANGED, Sharpening, Temperature
from sharpgpt.evaluation.streaming import (
    Blocks,
    RowBatch,
    RowLogits,
    collect,
    head_logits,
    model_hidden,
    row_batches,
)
from sharpgpt.evaluation.temperature import (
    GRID,
    Fit,
    fine_curve,
    fit_temperatures,
    temperature_curve,
)
from sharpgpt.runtime.device import Device

FREQUENCY_BOUNDS = (0.2, 0.4, 0.6, 0.8)
"""Of the share of all occurrences that more frequent tokens have: five buckets of about equal mass
in the training text."""

BUCKET_FIGURES = ("ce", "entropy", "max_prob", "accuracy")


@dataclass(frozen=True)
class EvaluationText:
    """A validation split in one model's tokens, and what is known of it."""

    name: str
    blocks: Blocks
    """[num_blocks, T] of token ids."""
    token_bytes: npt.NDArray[np.int64] | None
    """Bytes of text that each token stands for, [V]; None where bits per byte are not wanted."""
    token_ranks: npt.NDArray[np.float64]
    """`buckets.frequency_ranks` of the training text, [V]."""
    end_of_text_id: int | None = None
    """The token that ends a document."""
    boundary_id: int | None = None
    """As in `SharpnessLM`: `end_of_text_id` for a model that was trained not to look across it."""
    sha256: str = ""
    vocabulary: str = ""
    """Fingerprint of the tokenizer: models are compared on the same tokens only."""
    is_stand_in: bool = False
    note: str = ""
    """What the reader must know of this text; empty where nothing."""

    @property
    def num_rows(self) -> int:
        """Predictions in all blocks."""
        num_blocks, length = self.blocks.shape
        return num_blocks * (length - 1)

    def to_dict(self) -> dict[str, Any]:
        """Plain facts."""
        num_blocks, length = self.blocks.shape
        return {
            "name": self.name,
            "sha256": self.sha256,
            "num_blocks": num_blocks,
            "block_length_tokens": length,
            "num_rows": self.num_rows,
            "is_stand_in": self.is_stand_in,
            "note": self.note,
        }


class ModelPasses:
    """Passes of one model over one text.

    The body of the model is run once: its last hidden states are kept in a temporary file, of which
    later passes need only the output layer. Where they would take more than `cache_bytes`, or more
    than half of what the disk has left, the body is run for each pass. `close` removes the file.

    Args:
        causal_lm: a HuggingFace causal LM with a linear head.
        device: where it is, and the arithmetic of its body.
        text: the blocks.
        top_k: k of `accuracy_top_k` and `top_k_mass`.
        batch_size: blocks at a time.
        on_blocks: called with the number of blocks after each batch.
    """

    def __init__(
        self,
        causal_lm: nn.Module,
        device: Device,
        text: EvaluationText,
        *,
        top_k: int,
        batch_size: int,
        on_blocks: Callable[[int], None] = lambda _: None,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self.causal_lm = causal_lm
        self.device = device
        self.text = text
        self.top_k = top_k
        self.batch_size = batch_size
        self.groups = make_groups(text.blocks.shape[0])
        self._on_blocks = on_blocks
        self._hidden = HiddenStates(cache_bytes)

    def close(self) -> None:
        """Remove the hidden states; the object is of no use afterwards."""
        self._hidden.close()

    def batches(self, sharpenings: Sequence[Sharpening] = (UNCHANGED,)) -> Iterator[RowBatch]:
        """The rows of all blocks in their order."""
        for batch in row_batches(
            self._row_logits(),
            self.text.blocks,
            sharpenings,
            top_k=self.top_k,
            batch_size=self.batch_size,
        ):
            yield batch
            self._on_blocks(len(batch.input_ids))

    def _row_logits(self) -> RowLogits:
        first_row = 0

        def row_logits(input_ids_BT: torch.Tensor) -> Iterator[torch.Tensor]:
            nonlocal first_row
            num_rows = input_ids_BT[:, 1:].numel()
            hidden_ND = self._hidden.read(first_row, num_rows)
            if hidden_ND is None:
                hidden_BTD = model_hidden(
                    self.causal_lm,
                    self.device,
                    input_ids_BT,
                    boundary_id=self.text.boundary_id,
                )
                hidden_ND = hidden_BTD[:, :-1].flatten(0, 1)
                self._hidden.write(first_row, hidden_ND, self.text.num_rows)
            first_row += num_rows
            hidden_ND = hidden_ND.to(self.device.torch_device)
            yield from head_logits(self.causal_lm, hidden_ND)

        return row_logits

    def __call__(
        self, sharpenings: Sequence[Sharpening], histograms: Collection[Sharpening] = ()
    ) -> GroupFigures:
        """One pass; confidences are kept for `histograms`."""
        return collect(
            self.batches(sharpenings), self.groups, top_k=self.top_k, histograms=histograms
        )


@dataclass(frozen=True)
class ModelEvaluation:
    """What was measured of one model."""

    figures: GroupFigures
    """At GRID and at the best temperature."""
    best: Fit
    """The best temperature, tuned on the tuning half."""
    buckets: dict[str, list[dict[str, float | None]]]
    num_bytes: npt.NDArray[np.float64] | None
    """Of the text that was predicted, by group [G]; None where they are not known."""
    final_layer: dict[str, float | None]

    def to_dict(self) -> dict[str, Any]:
        """As plain values; what is not finite is None."""
        return cast(
            "dict[str, Any]",
            finite(
                {
                    "figures": self._intervals(),
                    "temperature": self._temperature(),
                    "calibration": {
                        "unchanged": self._calibration(UNCHANGED),
                        "best_temperature": self._calibration(self.best.sharpening),
                    },
                    "buckets": self.buckets,
                    "final_layer": self.final_layer,
                }
            ),
        )

    def _intervals(self) -> dict[str, dict[str, float]]:
        found = mean_intervals(self.figures)
        ce = found["ce"]
        found["perplexity"] = Interval(*map(perplexity, (ce.estimate, ce.low, ce.high)))
        if self.num_bytes is not None and self.num_bytes.sum() > 0:
            # A ratio of two sums over the text, both of which vary with it.
            bits_G = self.figures.sums("ce", UNCHANGED) / math.log(2)
            [found["bits_per_byte"]] = bootstrap_means(bits_G[None], self.num_bytes)
        return {name: interval.to_dict() for name, interval in found.items()}

    def _temperature(self) -> dict[str, Any]:
        at = self.best.sharpening
        return {
            "best": 1 / getattr(at, "beta", math.nan),
            "note": self.best.note,
            "ce": self.figures.mean("ce", at, "report"),
            "ce_unchanged": self.figures.mean("ce", UNCHANGED, "report"),
            "entropy": self.figures.mean("entropy", at, "report"),
            "entropy_unchanged": self.figures.mean("entropy", UNCHANGED, "report"),
            # From the grid alone, so that curves of several runs have the same temperatures.
            "curve": fine_curve(
                [
                    point
                    for point in temperature_curve(self.figures)
                    if Temperature(point.beta) in GRID
                ]
            ),
        }

    def _calibration(self, at: Sharpening) -> dict[str, Any]:
        histogram: ConfidenceHistogram = self.figures.histogram(at, "report")
        return {
            "ece": expected_calibration_error(histogram),
            "smooth_ece": smooth_calibration_error(histogram),
            "brier": self.figures.mean("brier", at, "report"),
            "bins": [
                {"num_rows": one.num_rows, "confidence": one.confidence, "accuracy": one.accuracy}
                for one in reliability_bins(histogram)
            ],
        }


def evaluate_model(passes: ModelPasses, baseline: ModelPasses | None = None) -> ModelEvaluation:
    """Measure a model; with a baseline the buckets have the baseline's figures too, and there are
    buckets by the entropy of its predictions.

    Raises:
        ValueError: the baseline's passes are over other blocks.
        UserError: the logits are not finite, or there are fewer than 4 blocks.
    """
    own = _Buckets(passes.text, with_baseline=baseline is not None)
    token_bytes = passes.text.token_bytes
    num_bytes_G = None if token_bytes is None else np.zeros(passes.groups.num_groups)

    def watched() -> Iterator[RowBatch]:
        others = iter(baseline.batches() if baseline is not None else ())
        first_block = 0
        for batch in passes.batches(GRID):
            if not bool(batch.rows("ce").isfinite().all()):
                raise UserError(
                    "the model's logits are NaN or infinite (its training diverged, or the file is "
                    "damaged); give an earlier checkpoint"
                )
            own.add(batch, next(others, None))
            num_blocks = len(batch.input_ids)
            if token_bytes is not None and num_bytes_G is not None:
                group_B = passes.groups.of_blocks(np.arange(first_block, first_block + num_blocks))
                np.add.at(num_bytes_G, group_B, token_bytes[batch.input_ids[:, 1:].numpy()].sum(1))
            first_block += num_blocks
            yield batch

    figures = collect(watched(), passes.groups, top_k=passes.top_k, histograms=[UNCHANGED])
    [best], figures = fit_temperatures(passes, figures, [None])
    if best.sharpening != UNCHANGED:
        at_best = passes([best.sharpening], histograms=[best.sharpening])
        figures = figures.joined([at_best])
    return ModelEvaluation(
        figures=figures,
        best=best,
        buckets=own.means(),
        num_bytes=num_bytes_G,
        final_layer=final_layer(passes.causal_lm),
    )


class _Buckets:
    """The three ways to divide the rows, for one model or for a model and its baseline."""

    def __init__(self, text: EvaluationText, *, with_baseline: bool) -> None:
        self._rank_V = torch.from_numpy(text.token_ranks)
        self._means = {
            "position": BucketMeans(position_bounds(text.blocks.shape[1])),
            "frequency": BucketMeans(FREQUENCY_BOUNDS),
        }
        if with_baseline:
            self._means["baseline_entropy"] = BucketMeans(ENTROPY_BOUNDS)

    def add(self, batch: RowBatch, baseline: RowBatch | None) -> None:
        figures = {name: batch.rows(name) for name in BUCKET_FIGURES}
        if baseline is not None:
            if not torch.equal(batch.input_ids, baseline.input_ids):
                raise ValueError("the baseline's passes are over other blocks")
            figures |= {f"baseline_{name}": baseline.rows(name) for name in BUCKET_FIGURES}
            self._means["baseline_entropy"].add(baseline.rows("entropy"), figures)
        self._means["position"].add(positions_of(batch), figures)
        self._means["frequency"].add(self._rank_V[batch.input_ids[:, 1:]], figures)

    def means(self) -> dict[str, list[dict[str, float | None]]]:
        return {name: means.means() for name, means in self._means.items()}


def final_layer(causal_lm: nn.Module) -> dict[str, float | None]:
    """Where a rescaling of the logits would hide: root mean squares of the last normalisation's
    weight and of the rows of the output layer. None where the model has no such layer."""
    model = cast(Any, causal_lm)
    norms = [
        module.weight
        for name, module in model.base_model.named_modules()
        if "." not in name and isinstance(getattr(module, "weight", None), torch.Tensor)
        if module.weight.ndim == 1
    ]
    head = model.get_output_embeddings().weight.detach().float()
    return {
        "layer_norm_weight_rms": (
            float(norms[-1].detach().float().square().mean().sqrt()) if norms else None
        ),
        "head_row_norm": float(head.norm(dim=1).square().mean().sqrt()),
    }


def finite(value: Any) -> Any:
    """JSON content with None for every number that is not finite."""
    if isinstance(value, dict):
        return {name: finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [finite(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
