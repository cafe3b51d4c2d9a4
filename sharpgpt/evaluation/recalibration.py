"""The best monotone recalibration of a model (monotone_map.py), fitted on the tuning half.

The knots are quantiles of u over the targets that are not the most probable token, so they move
with any map of the model that has its knots there: a model and its map have the same recalibrated
predictions. The slopes have the least cross-entropy over at most MAX_ROWS rows, evenly spread over
the tuning half. Instead of its logits each of these rows keeps how many tokens it has near each of
a few hundred values of u, so that Newton's method needs no further pass; every token counts for the
two values around it. An error of the slopes changes the cross-entropy to second order only, by
about K / (2 * rows), and nearly the same of two similar models. The statistics of the
recalibrated model are then those of its exact predictions in another pass.

Shapes: C rows of a chunk, R rows kept, V vocabulary, K slopes, E values of u.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sharpgpt.evaluation.monotone_map import MonotoneMap, hinges
from sharpgpt.evaluation.passes import ModelPasses

MAX_ROWS = 32_768
NUM_SLOPES = 10
TARGETS_PER_SLOPE = 50
"""At least, or there are fewer slopes."""

CELLS = 16
"""Between two knots."""
TAIL_CELLS, TAIL_LENGTH = 200, 5.0
"""Beyond the last knot, and how far they reach, in lengths of what is before."""

MAX_STEPS = 100
MIN_SLOPE = 1e-3
"""Relative to the best temperature's."""
ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class Recalibration:
    """The map; None where there is none, and `note` gives the reason."""

    map: MonotoneMap | None
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Its knots and slopes, as in evaluation.json."""
        found = self.map
        return {
            "knots": None if found is None else list(found.knots),
            "slopes": None if found is None else list(found.slopes),
            "note": self.note,
        }


def fit_recalibration(passes: ModelPasses) -> Recalibration:
    """Fit a model's map; its hidden states should be known from an earlier pass."""
    u_R = torch.cat([u_C1.flatten() for _, u_C1 in _pilot_rows(passes)]).double()
    missed = np.sort(u_R[u_R > 0].numpy())
    if len(missed) < TARGETS_PER_SLOPE:
        return Recalibration(None, "too few predictions are wrong to recalibrate the others")
    num_slopes = min(NUM_SLOPES, len(missed) // TARGETS_PER_SLOPE)
    shares = np.arange(1, num_slopes) / num_slopes
    # "lower" takes values that occur, which an increasing function maps onto each other.
    knots = np.unique([0.0, *np.quantile(missed, shares, method="lower")])
    knots_K = torch.from_numpy(knots)
    nodes_E = _nodes(knots_K, float(missed[-1]))
    counts_RE = torch.cat([_counts(u_CV, nodes_E) for u_CV, _ in _pilot_rows(passes)])
    slopes_K = _fitted(counts_RE, hinges(nodes_E, knots_K), hinges(u_R, knots_K))
    return Recalibration(MonotoneMap(tuple(knots.tolist()), tuple(slopes_K.tolist())))


def _pilot_rows(passes: ModelPasses) -> Iterator[tuple[Tensor, Tensor]]:
    """u of all tokens, float32 [C, V], and of the targets, [C, 1]; on the CPU."""
    for logits_CV, target_C in passes.some_logits(_pilot_blocks(passes)):
        u_CV = logits_CV.amax(-1, keepdim=True) - logits_CV
        u_C1 = u_CV.gather(1, target_C[:, None])
        yield u_CV.cpu(), u_C1.cpu()


def _pilot_blocks(passes: ModelPasses) -> list[int]:
    """Blocks of the tuning half, evenly spread."""
    num_blocks, length = passes.text.blocks.shape
    groups = passes.groups
    tuning = np.flatnonzero(groups.mask("tuning")[groups.of_blocks(np.arange(num_blocks))])
    wanted = min(len(tuning), max(1, MAX_ROWS // (length - 1)))
    places = np.arange(wanted) * len(tuning) // wanted
    return [int(block) for block in tuning[places]]


def _nodes(knots_K: Tensor, largest: float) -> Tensor:
    """Rising values of u, float64 [E], the knots among them."""
    inner = [
        low + (high - low) * torch.arange(CELLS) / CELLS
        for low, high in itertools.pairwise(knots_K)
    ]
    last = knots_K[-1]
    length = TAIL_LENGTH * (float(last) or largest)
    tail = last + length * torch.arange(TAIL_CELLS + 1) / TAIL_CELLS
    return torch.cat([*inner, tail]).double()


def _counts(u_CV: Tensor, nodes_E: Tensor) -> Tensor:
    """How many tokens of each row are near each node, float32 [C, E]: each token is divided between
    the two around it in proportion, what is beyond the last counts for that."""
    nodes_E = nodes_E.to(u_CV.dtype)
    u_CV = u_CV.clamp(max=float(nodes_E[-1]))
    below_CV = (torch.bucketize(u_CV, nodes_E, right=True) - 1).clamp(0, len(nodes_E) - 2)
    share_CV = ((u_CV - nodes_E[below_CV]) / nodes_E.diff()[below_CV]).clamp(0, 1)
    counts_CE = u_CV.new_zeros(len(u_CV), len(nodes_E))
    counts_CE.scatter_add_(1, below_CV, 1 - share_CV)
    return counts_CE.scatter_add_(1, below_CV + 1, share_CV)


def _fitted(counts_RE: Tensor, hinges_EK: Tensor, target_RK: Tensor) -> Tensor:
    """The slopes [K] with the least mean of ln sum_e count_e exp(-hinges_e s) + hinges_y s."""
    at_target_K = target_RK.mean(0)

    def value_and_slopes(slopes_K: Tensor) -> tuple[float, Tensor, Tensor]:
        """The objective, its gradient [K] and its second derivatives [K, K]."""
        size_E = (-(hinges_EK @ slopes_K)).exp()
        total = float(at_target_K @ slopes_K)
        gradient_K = at_target_K.clone()
        second_KK = torch.zeros(len(slopes_K), len(slopes_K), dtype=torch.float64)
        for some_RE in torch.split(counts_RE, ROWS_AT_ONCE):
            weight_RE = some_RE.double() * size_E
            sum_R1 = weight_RE.sum(-1, keepdim=True)
            total += float(sum_R1.log().sum()) / len(counts_RE)
            weight_RE /= sum_R1
            mean_RK = weight_RE @ hinges_EK
            gradient_K -= mean_RK.sum(0) / len(counts_RE)
            second_KK += hinges_EK.T @ (weight_RE.sum(0)[:, None] * hinges_EK) / len(counts_RE)
            second_KK -= mean_RK.T @ mean_RK / len(counts_RE)
        return total, gradient_K, second_KK

    def newton(slopes_K: Tensor, directions_KJ: Tensor, least: float) -> Tensor:
        """Newton's method on the span of some directions, no slope below `least`."""
        value, gradient_K, second_KK = value_and_slopes(slopes_K)
        for _ in range(MAX_STEPS):
            # A slope at its bound that would fall further stays there.
            held_K = (slopes_K <= least) & (gradient_K > 0)
            free_KJ = directions_KJ * ~held_K[:, None]
            second_JJ = free_KJ.T @ second_KK @ free_KJ
            ridge = 1e-10 * float(second_JJ.diagonal().mean()) + 1e-300
            second_JJ += ridge * torch.eye(len(second_JJ), dtype=torch.float64)
            step_K = -free_KJ @ torch.linalg.solve(second_JJ, free_KJ.T @ gradient_K)
            size, descent = 1.0, float(gradient_K @ step_K)
            if descent > -1e-13:
                break
            while size > 1e-6:
                new_K = (slopes_K + size * step_K).clamp(min=least)
                tried = value_and_slopes(new_K)
                if tried[0] < value:
                    break
                size /= 2
            else:
                break
            slopes_K, (value, gradient_K, second_KK) = new_K, tried
        return slopes_K

    ones_K = torch.ones(hinges_EK.shape[1], dtype=torch.float64)
    temperature_K = newton(ones_K, ones_K[:, None], 1e-6)
    return newton(
        temperature_K, torch.eye(len(ones_K)).double(), MIN_SLOPE * float(temperature_K[0])
    )
