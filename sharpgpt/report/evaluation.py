"""`write_evaluation`: the content of evaluation.json -> one HTML page that needs nothing else."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

from sharpgpt.report.arms import Arm, Json, number_of, objects
from sharpgpt.report.comparison_plots import plane
from sharpgpt.report.drawing import SERIES_COLOURS, Drawing, save_all, svg
from sharpgpt.report.evaluation_plots import (
    BUCKETS,
    buckets,
    ce_of,
    entropy_along,
    figure_rows,
    quality_and_diversity,
    reliability,
    samples_of,
)
from sharpgpt.report.numbers import number
from sharpgpt.report.pages import write_page


def write_evaluation(evaluation: Json, folder: Path) -> Path:
    """Write FOLDER/evaluation.html and FOLDER/figures/*; returns the page's path.

    `evaluation` may lack parts; they are left out.
    """
    arms = evaluated_models(evaluation)
    data = evaluation.get("data")
    found = drawings(arms)
    save_all(itertools.chain(*found.values()), folder / "figures")
    return write_page(
        folder / "evaluation.html",
        "evaluation.html.jinja",
        title=arms[0].name if len(arms) == 1 else f"{len(arms)} models",
        data=data if isinstance(data, Mapping) else {},
        legend=[arm.key() for arm in arms] if len(arms) > 1 else [],
        intervals=intervals(arms),
        drawings=found,
        figures=figure_rows(arms),
        samples=[(arm, samples_of(arm)) for arm in arms if samples_of(arm)],
    )


def evaluated_models(evaluation: Json) -> list[Arm]:
    """The models of evaluation.json, each in a colour of its own."""
    return [
        Arm(
            str(one.get("name", f"model {place + 1}")),
            place % len(SERIES_COLOURS) + 1,
            1.0,
            [one],
            one,
        )
        for place, one in enumerate(objects(evaluation.get("evaluations")))
    ]


def intervals(arms: Sequence[Arm]) -> list[tuple[str, list[str]]]:
    """Figure -> value and interval of each model, in words."""
    rows = []
    for name, label in (
        ("ce", "Cross-entropy"),
        ("perplexity", "Perplexity"),
        ("bits_per_byte", "Bits per byte"),
        ("accuracy", "Accuracy"),
        ("accuracy_top_5", "Top-5 accuracy"),
        ("reciprocal_rank", "Mean reciprocal rank"),
        ("entropy", "Entropy"),
        ("max_prob", "Largest probability"),
        ("top_k_mass", "Top-k mass"),
        ("brier", "Brier score"),
    ):
        cells = []
        for arm in arms:
            estimate, low, high = (
                number_of(arm.content, "figures", name, part)
                for part in ("estimate", "low", "high")
            )
            cells.append(
                "" if estimate is None else f"{number(estimate)} ({number(low)} to {number(high)})"
            )
        if any(cells):
            rows.append((label, cells))
    return rows


def drawings(arms: Sequence[Arm]) -> dict[str, list[Drawing]]:
    """Section -> its pictures, without empty ones."""
    temperature = []
    for arm in arms:
        found = plane(arm, [])
        if found is None:
            continue
        figure, sentence = found
        temperature.append(
            Drawing(
                f"{arm.name} at every temperature",
                "report half",
                svg(figure, f"curve {arm.name}", f"Cross-entropy against entropy. {sentence}"),
                text=_best(arm),
                figure=figure,
            )
        )
    sections = {
        "Temperature": temperature,
        "Calibration": [drawing for arm in arms if (drawing := reliability(arm))],
        "Where it is good": [
            drawing
            for kind in BUCKETS
            if (drawing := buckets(arms, kind, ce_of, "cross-entropy, nats"))
        ],
        "Generated text": [
            drawing
            for drawing in (
                quality_and_diversity(
                    arms, "distinct_2", "Quality and variety",
                    "own perplexity by distinct 2-grams",
                ),
                entropy_along(arms),
            )
            if drawing
        ],
    }  # fmt: skip
    return {title: found for title, found in sections.items() if found}


def _best(arm: Arm) -> str:
    best, ce, plain = (
        number_of(arm.content, "temperature", name) for name in ("best", "ce", "ce_unchanged")
    )
    note = str((arm.content.get("temperature") or {}).get("note") or "")
    if best is None or note:
        return f"{note[:1].upper()}{note[1:]}." if note else ""
    return (
        f"Best temperature {number(best, 3)}, the square: cross-entropy {number(ce)} there, "
        f"{number(plain)} as it is."
    )
