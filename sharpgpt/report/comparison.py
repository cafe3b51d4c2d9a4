"""`write_comparison`: the content of comparison.json -> one self-contained HTML page with the
verdict at the top, and its pictures as files."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from sharpgpt.core.numbers import fixed, typeset
from sharpgpt.report import beside
from sharpgpt.report.arms import (
    Arm,
    Json,
    arms_of,
    mapping,
    number_of,
    objects,
    text_of,
    with_dashes,
)
from sharpgpt.report.bars import BarRow, BarTable, bar_table, scale_of
from sharpgpt.report.curves import loss_curves
from sharpgpt.report.drawing import Drawing, own_settings, save_all
from sharpgpt.report.evaluation_plots import (
    DIVERSITY,
    buckets,
    ce_above_baseline,
    entropy_along,
    quality_and_diversity,
    reliability,
    samples_of,
)
from sharpgpt.report.pages import linked, write_page
from sharpgpt.report.plane import plane, shapes
from sharpgpt.report.statistics import (
    STATISTICS,
    TEMPERATURE_DECIMALS,
    found_value,
    statistics_table,
    validation_scope,
)

VERDICTS = ("better", "worse", "not distinguishable")

SAMPLE_DECODINGS = ("temperature 1", "temperature 0.7", "greedy")
"""The decoding methods of which the page shows a text of every arm."""


@own_settings()
def write_comparison(comparison: Json, folder: Path) -> Path:
    """Write FOLDER/comparison.html, and its pictures as FOLDER/figures/*.svg and *.png; returns the
    path of the page.

    `comparison` may lack parts; they are left out. Loss curves are read from the run folders that
    it names, as far as they are on this machine.
    """
    page = folder / "comparison.html"
    return write_page(page, "comparison.html.jinja", **content_of_comparison(comparison, page))


def content_of_comparison(comparison: Json, page: Path) -> dict[str, Any]:
    """What the template shows; the pictures are written beside the page."""
    of_baseline = mapping(comparison, "baseline")
    runs = objects(of_baseline.get("runs"))
    name = text_of(of_baseline, "name") or "baseline"
    given = [Arm(name, 0, 1.0, runs, {}), *arms_of(objects(comparison.get("models")))]
    baseline, *arms = everyone = with_dashes(given)
    margin = number_of(comparison, "margin") or 0.0
    pictures: dict[str, Iterable[Drawing | None]] = {
        "plane": [plane(baseline, arms)],
        "curves": loss_curves(mapping(comparison, "curves"), arms, baseline, page=page),
        "reliability": map(reliability, everyone),
        "buckets": buckets(arms, ce_above_baseline, "cross-entropy above baseline"),
        "generation": [
            *(
                quality_and_diversity(everyone, name, "perplexity under the baseline")
                for name in DIVERSITY
            ),
            entropy_along(everyone),
        ],
    }
    drawings = {
        part: linked([one for one in found if one], [("comparison.json", "comparison.json")])
        for part, found in pictures.items()
    }
    save_all((one for found in drawings.values() for one in found), page.parent / "figures")
    return dict(
        **drawings,
        data=mapping(comparison, "data"),
        scope=validation_scope(mapping(comparison, "data")),
        best_temperature=_best_temperature(baseline),
        notes=comparison.get("notes") or [],
        margin=margin,
        level=1 - (number_of(comparison, "error_rate") or 0.05),
        counts=_counts(arms),
        arms=everyone,
        verdicts=_verdicts(arms, margin),
        shapes=shapes(arms),
        controls=_controls(arms, margin),
        bytes_compared=beside.bytes_compared(baseline, arms),
        calibrations=beside.generation_calibrations(everyone),
        truncations=beside.truncations(arms),
        orders=beside.orders(arms),
        token_classes=beside.token_classes(arms),
        unchanged=_unchanged(arms),
        best=_at_best_temperatures(arms),
        samples=_samples(everyone),
        statistics=statistics_table(everyone),
        settings=[
            (text_of(row, "name"), list(map(typeset, row.get("values") or [])))
            for row in objects(comparison.get("settings"))
        ],
    )


def _best_temperature(baseline: Arm) -> str:
    """The mean over the baseline's runs; empty where one has none."""
    found = [found_value(run, "temperature", "best") for run in baseline.runs]
    known = [value for value in found if value is not None]
    is_known = bool(known) and len(known) == len(found)
    return fixed(sum(known) / len(known), TEMPERATURE_DECIMALS) if is_known else ""


def _counts(arms: Sequence[Arm]) -> dict[str, int]:
    """How often each verdict was given."""
    given = [arm.content.get("verdict") for arm in arms]
    return {verdict: given.count(verdict) for verdict in VERDICTS if verdict in given}


def _compared(comparison: Json) -> Json:
    """A comparison, or nothing where a note says why it was impossible: it gets no bar."""
    return {} if comparison.get("note") else comparison


def _verdicts(arms: Sequence[Arm], margin: float) -> BarTable:
    controls = [_compared(mapping(arm.content, "controls", "temperature")) for arm in arms]
    scale = scale_of(controls, margin)
    rows = []
    for arm, control in zip(arms, controls, strict=True):
        bar = scale.bar(control)
        verdict = text_of(arm.content, "verdict") or "no verdict"
        p_value = number_of(arm.content, "corrected", "p_value")
        rows.append(
            BarRow(
                arm,
                bar,
                bar.words if bar else "not compared",
                verdict,
                num_seeds=text_of(arm.content, "num_seeds"),
                corrected=text_of(arm.content, "corrected", "verdict"),
                p_value="" if p_value is None else f"p = {p_value:.2g}",
            )
        )
    return BarTable(scale, rows)


def _controls(arms: Sequence[Arm], margin: float) -> BarTable:
    """The controls of each arm, with the temperature or weight that sharpened the baseline."""
    names = dict.fromkeys(name for arm in arms for name in mapping(arm.content, "controls"))
    controls = [
        (arm, name, control)
        for arm in arms
        for name in names
        if (control := mapping(arm.content, "controls", name))
    ]
    scale = scale_of([_compared(control) for _, _, control in controls], margin)
    rows = []
    for arm, name, control in controls:
        bar = scale.bar(_compared(control))
        # Beside a note the parameter is where the search ended, and not one that was found.
        tried = _compared(control).get("parameter") or []
        values = [one for one in tried if isinstance(one, int | float)]
        letter = "T" if name == "temperature" else "w"
        parameter = f"{letter} = {fixed(sum(values) / len(values), 4)}" if values else ""
        note = typeset(text_of(control, "note"))
        words = [bar.words if bar else "", text_of(control, "call"), note]
        rows.append(BarRow(arm, bar, " · ".join(filter(None, words)), name, parameter))
    return BarTable(scale, rows)


def _unchanged(arms: Sequence[Arm]) -> list[BarTable]:
    """The arms' bars for each statistic that no temperature changes."""
    tables: list[BarTable] = []
    for statistic in STATISTICS:
        compared = [
            (arm, mapping(arm.content, "unchanged_by_temperature", statistic.name)) for arm in arms
        ]
        table = bar_table(compared, title=f"{statistic.heading}, penalised minus baseline")
        same = tables and [row.bar for row in tables[-1].rows] == [row.bar for row in table.rows]
        if table.rows and not same:  # top-k accuracy with k = 5 is top-5 accuracy
            tables.append(table)
    return tables


def _at_best_temperatures(arms: Sequence[Arm]) -> BarTable:
    compared = [(arm, mapping(arm.content, "best_temperatures")) for arm in arms]
    notes = [
        typeset(f"{arm.name}: {found['note']}.") for arm, found in compared if found.get("note")
    ]
    return bar_table([(arm, _compared(found)) for arm, found in compared], notes=notes)


def _samples(arms: Sequence[Arm]) -> dict[str, list[tuple[Arm, str]]]:
    """Decoding method -> the first text of each arm."""
    found: dict[str, list[tuple[Arm, str]]] = {}
    for decoding in SAMPLE_DECODINGS:
        for arm in arms:
            texts = [one.get("text") for one in samples_of(arm) if one.get("decoding") == decoding]
            if texts and texts[0] is not None:
                found.setdefault(decoding, []).append((arm, str(texts[0])))
    return found
