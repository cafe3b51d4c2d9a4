"""`write_evaluation`: the content of evaluation.json -> one self-contained HTML page."""

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

from sharpgpt.core.numbers import counted, fixed, typeset
from sharpgpt.report import beside
from sharpgpt.report.arms import (
    Arm,
    Json,
    arm_of,
    mapping,
    number_of,
    objects,
    text_of,
    value_at,
    with_dashes,
)
from sharpgpt.report.drawing import Drawing, own_settings, save_all
from sharpgpt.report.evaluation_plots import (
    buckets,
    ce_of,
    entropy_along,
    quality_and_diversity,
    reliability,
    samples_of,
)
from sharpgpt.report.pages import linked, write_page
from sharpgpt.report.plane import plane
from sharpgpt.report.statistics import (
    STATISTICS,
    TEMPERATURE_DECIMALS,
    intervals,
    statistics_table,
    validation_scope,
)


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
        scope=validation_scope(mapping(evaluation, "data")),
        arms=arms,
        intervals=_intervals(arms),
        sections=sections,
        calibrations=beside.generation_calibrations(arms),
        truncations=beside.usual_truncations(arms),
        statistics=statistics_table(arms),
        samples=[(arm, samples_of(arm)) for arm in arms if samples_of(arm)],
    )


def evaluated_models(evaluation: Json) -> list[Arm]:
    """The models of evaluation.json."""
    models = [
        arm_of(
            str(one.get("name", f"model {place}")),
            value_at(one, "settings", "penalty_type"),
            number_of(one, "settings", "penalty_weight"),
            runs=[one],
            content=one,
        )
        for place, one in enumerate(objects(evaluation.get("evaluations")), 1)
    ]
    return with_dashes(models)


def _intervals(arms: Sequence[Arm]) -> dict[str, list[str]]:
    """Statistic -> value and interval of each model, in words."""
    found = [
        {
            statistic.name: f"{statistic.text(estimate)} "
            f"({statistic.text(low)} to {statistic.text(high)})"
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
    """Section -> its pictures, without empty ones; their numbers are in evaluation.json."""
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
    found = {
        title: linked([one for one in section if one], [("evaluation.json", "evaluation.json")])
        for title, section in sections.items()
    }
    return {title: section for title, section in found.items() if section}


def _best(arm: Arm) -> str:
    best, ce, unchanged = (
        number_of(arm.content, "temperature", name) for name in ("best", "ce", "ce_unchanged")
    )
    note = text_of(arm.content, "temperature", "note")
    if best is None or note:
        return f"{note[:1].upper()}{typeset(note[1:])}." if note else ""
    return (
        f"Best temperature {fixed(best, TEMPERATURE_DECIMALS)}, the square: cross-entropy "
        f"{fixed(ce, 4)} there, {fixed(unchanged, 4)} as it is."
    )
