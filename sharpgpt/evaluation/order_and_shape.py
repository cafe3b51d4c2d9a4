"""A difference of two models divided into order and shape.

    order = CE(P recalibrated) - CE(U recalibrated), each by its own best monotone map
    shape = the rest of the difference

A monotone map keeps the order of a row's tokens, so what it leaves is a difference of orders; what
it removes needs no training. All differences are on the report half. A map is at a minimum of
the cross-entropy, so to first order its errors change nothing, and the interval is that of the
report half.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sharpgpt.evaluation.differences import Difference, plain_difference
from sharpgpt.evaluation.groups import GroupStatistics
from sharpgpt.evaluation.recalibration import Recalibration


@dataclass(frozen=True)
class OrderAndShape:
    """Penalised minus baseline, in nats."""

    as_trained: Difference
    order: Difference
    shape: Difference
    """Of the models as trained."""
    shape_at_equal_entropy: Difference
    """Of the difference at equal entropy to the temperature; its order is the same."""
    penalised_ce: float
    """Recalibrated."""
    baseline_ce: float


def order_and_shape(
    penalised: tuple[GroupStatistics, Recalibration],
    baseline: tuple[GroupStatistics, Recalibration],
    at_equal_entropy: Difference,
) -> OrderAndShape | str:
    """Divide the differences of two models, of whose maps the statistics are known; where one has
    no map the reason."""
    (of_p, map_p), (of_u, map_u) = penalised, baseline
    if map_p.map is None or map_u.map is None:
        return map_p.note or map_u.note
    as_trained = plain_difference(of_p, of_u, "ce", half="report")
    order = plain_difference(
        of_p, of_u, "ce", penalised_at=map_p.map, baseline_at=map_u.map, half="report"
    )
    return OrderAndShape(
        as_trained=as_trained,
        order=order,
        shape=_less(as_trained, order),
        shape_at_equal_entropy=_less(at_equal_entropy, order),
        penalised_ce=of_p.mean("ce", map_p.map, "report"),
        baseline_ce=of_u.mean("ce", map_u.map, "report"),
    )


def _less(whole: Difference, part: Difference) -> Difference:
    """What is left of a difference."""
    return Difference(
        whole.estimate - part.estimate, whole.contributions - part.contributions, whole.note
    )


def orders_to_dict(
    pairs: Sequence[OrderAndShape | str],
    compared: Callable[[Sequence[Difference]], dict[str, Any]],
) -> dict[str, Any]:
    """`order_and_shape` of comparison.json, for the pairs of an arm; `compared` makes intervals."""
    known = [pair for pair in pairs if isinstance(pair, OrderAndShape)]
    if len(known) < len(pairs):
        notes = dict.fromkeys(pair for pair in pairs if isinstance(pair, str))
        return {"note": "; ".join(notes)}
    return {
        "as_trained": compared([pair.as_trained for pair in known]),
        "order": compared([pair.order for pair in known]),
        "shape": compared([pair.shape for pair in known]),
        "shape_at_equal_entropy": compared([pair.shape_at_equal_entropy for pair in known]),
        "recalibrated_ce": {
            "penalised": float(np.mean([pair.penalised_ce for pair in known])),
            "baseline": float(np.mean([pair.baseline_ce for pair in known])),
        },
        "note": "",
    }
