"""`write_evaluation`: the content of evaluation.json -> one self-contained HTML page."""

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

from sharpgpt.core.numbers import counted, number
from sharpgpt.report.arms import Arm, Json, mapping, number_of, objects, text_of
from sharpgpt.report.drawing import SERIES_COLOURS, Drawing, own_settings, save_all
from sharpgpt.report.evaluation_plots import (
    buckets,
    ce_of,
    entropy_along,
    quality_and_diversity,
    reliability,
    samples_of,
)
from sharpgpt.report.pages import write_page
from sharpgpt.report.plane import plane
from sharpgpt.report.statistics import STATISTICS, intervals, statistics_table


@own_settings()
def write_evaluation(evaluation: Json, folder: Path) -> Path:
    """Write FOLDER/evaluation.html and FOLDER/figures/*; returns the page's path.

    `evaluation` may lack parts; they are left out.
    """
    arms = evaluated_models(evaluation)
    sections = drawings(arms)
    save_all(itertools.chain(*sections.values()), folder / "figures")
    return write_page(
        folder / "evaluation.html",
        "evaluation.html.jinja",
        title=arms[0].name if len(arms) == 1 else counted(len(arms), "model"),
        data=mapping(evaluation, "data"),
        arms=arms,
        intervals=_intervals(arms),
        sections=sections,
        statistics=statistics_table(arms),
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


def _intervals(arms: Sequence[Arm]) -> dict[str, list[str]]:
    """Statistic -> value and interval of each model, in words."""
    found = [
        {
            statistic.name: f"{number(estimate)} ({number(low)} to {number(high)})"
            for statistic, estimate, low, high in intervals(arm.content)
            if statistic.has_interval
        }
        for arm in arms
    ]
    return {
        statistic.heading: [cells.get(statistic.name, "") for cells in found]
        for statistic in STATISTICS
        if any(statistic.name in cells for cells in found)
    }


def drawings(arms: Sequence[Arm]) -> dict[str, list[Drawing]]:
    """Section -> its pictures, without empty ones."""
    sections: dict[str, Iterable[Drawing | None]] = {
        "Temperature": [
            plane(
                arm,
                [],
                title=f"{arm.name} at every temperature",
                unit="report half",
                text=_best(arm),
            )
            for arm in arms
        ],
        "Calibration": map(reliability, arms),
        "By group of predictions": buckets(arms, ce_of, "cross-entropy, nats"),
        "Generated text": [
            quality_and_diversity(arms, "distinct_2", "own perplexity"),
            entropy_along(arms),
        ],
    }
    found = {title: [one for one in section if one] for title, section in sections.items()}
    return {title: section for title, section in found.items() if section}


def _best(arm: Arm) -> str:
    best, ce, unchanged = (
        number_of(arm.content, "temperature", name) for name in ("best", "ce", "ce_unchanged")
    )
    note = text_of(arm.content, "temperature", "note")
    if best is None or note:
        return f"{note[:1].upper()}{note[1:]}." if note else ""
    return (
        f"Best temperature {number(best, 3)}, the square: cross-entropy {number(ce)} there, "
        f"{number(unchanged)} as it is."
    )
