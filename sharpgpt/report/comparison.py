"""`write_comparison`: the content of comparison.json -> one HTML page that needs nothing else, and
its pictures as files. The verdict stands at the top."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharpgpt.report.arms import Arm, Json, arms_of, number_of, objects, value_at
from sharpgpt.report.comparison_plots import headline, loss_curves, plane
from sharpgpt.report.drawing import Drawing, save_all, svg
from sharpgpt.report.evaluation_plots import (
    BUCKETS,
    buckets,
    ce_above_baseline,
    entropy_along,
    figure_rows,
    quality_and_diversity,
    reliability,
    samples_of,
)
from sharpgpt.report.numbers import number
from sharpgpt.report.pages import write_page

VERDICTS = ("better", "worse", "not distinguishable")

UNCHANGED = {
    "accuracy": "Accuracy",
    "accuracy_top_5": "Top-5 accuracy",
    "accuracy_top_k": "Top-k accuracy",
    "reciprocal_rank": "Mean reciprocal rank",
}

SIGNS = "●■◆▲▼✚"
"""`comparison_plots.MARKERS` as characters."""

MOST_SAMPLES = ("temperature 1", "temperature 0.7", "greedy")
"""The ways to decode of which the page shows a text of every arm."""


@dataclass(frozen=True)
class Bar:
    """An interval on a scale that several share, in percent of its width."""

    left: float
    width: float
    dot: float
    words: str
    is_apart: bool
    """Whether the interval leaves 0, or the margin around it, on one side."""


@dataclass(frozen=True)
class Scale:
    """From `low` to `high`; the zero, and the margin around it, in percent."""

    low: float
    high: float
    margin: float

    def place(self, value: float) -> float:
        """Where a value is, in percent."""
        return 100 * min(max((value - self.low) / (self.high - self.low), 0.0), 1.0)

    def bar(self, interval: Json) -> Bar | None:
        """An interval on this scale; None where it lacks a number."""
        estimate, low, high = (number_of(interval, name) for name in ("estimate", "low", "high"))
        if estimate is None or low is None or high is None:
            return None
        left, right = self.place(low), self.place(high)
        return Bar(
            left,
            max(right - left, 0.4),
            self.place(estimate),
            f"{signed(estimate)}, {signed(low)} to {signed(high)}",
            low > self.margin or high < -self.margin,
        )


def signed(value: float, digits: int = 3) -> str:
    """+0.0123, −0.0004, with as many digits as a difference of cross-entropies deserves."""
    if value == 0:
        return "0"
    decimals = max(digits - 1 - math.floor(math.log10(abs(value))), 0)
    return f"{value:+.{min(decimals, 5)}f}".replace("-", "−")


def scale_of(intervals: Sequence[Json], margin: float) -> Scale:
    """A scale that shows all intervals and the zero."""
    ends = [
        found
        for interval in intervals
        for name in ("low", "high")
        if (found := number_of(interval, name)) is not None
    ]
    low, high = min([0.0, -2 * margin, *ends]), max([0.0, 2 * margin, *ends])
    room = 0.05 * max(high - low, 1e-9)
    return Scale(low - room, high + room, margin)


def write_comparison(comparison: Json, folder: Path) -> Path:
    """Write FOLDER/comparison.html, and its pictures as FOLDER/figures/*.svg and *.png; returns the
    path of the page.

    `comparison` may lack parts; they are left out. Loss curves are read from the run folders that
    it names, as far as they are here.
    """
    arms = arms_of(objects(comparison.get("models")))
    baseline = Arm(
        str(value_at(comparison, "baseline", "name") or "baseline"),
        0,
        1.0,
        objects(value_at(comparison, "baseline", "runs")),
        {},
    )
    margin = number_of(comparison, "margin") or 0.0
    everyone = [baseline, *arms]
    curves = value_at(comparison, "curves")
    central = _plane(baseline, arms)
    training = loss_curves(curves if isinstance(curves, Mapping) else {}, arms, baseline)
    calibration = [drawing for arm in everyone if (drawing := reliability(arm))]
    by_bucket = [
        drawing
        for kind in BUCKETS
        if (drawing := buckets(arms, kind, ce_above_baseline, "cross-entropy above baseline"))
    ]
    generation = _generation(everyone)
    save_all(
        [*([central] if central else []), *training, *calibration, *by_bucket, *generation],
        folder / "figures",
    )
    return write_page(
        folder / "comparison.html",
        "comparison.html.jinja",
        data=comparison.get("data") if isinstance(comparison.get("data"), Mapping) else {},
        notes=[str(note) for note in comparison.get("notes") or []],
        margin=f"{margin:g}",
        level=f"{100 * (1 - (number_of(comparison, 'error_rate') or 0.05)):g}%",
        counts=_counts(arms),
        headline=headline(baseline),
        verdicts=_verdicts(arms, margin),
        plane=central,
        shapes=_shapes(arms),
        controls=_controls(arms, margin),
        unchanged=_unchanged(arms),
        best=_differences(arms, "best_temperatures"),
        curves=training,
        legend=[arm.key() for arm in everyone],
        reliability=calibration,
        buckets=by_bucket,
        generation=generation,
        samples=_samples(everyone),
        figures=figure_rows(everyone),
        settings=objects(comparison.get("settings")),
        names=[arm.name for arm in everyone],
    )


def _counts(arms: Sequence[Arm]) -> list[tuple[str, int]]:
    """How often each verdict was given."""
    return [
        (verdict, count)
        for verdict in VERDICTS
        if (count := sum(arm.content.get("verdict") == verdict for arm in arms))
    ]


@dataclass(frozen=True)
class VerdictRow:
    """One arm at the top of the page."""

    arm: Arm
    verdict: str
    sentence: str
    bar: Bar | None
    num_seeds: str
    notes: list[str]


def _verdicts(arms: Sequence[Arm], margin: float) -> dict[str, Any]:
    controls = [_compared(_control(arm, "temperature")) for arm in arms]
    scale = scale_of(controls, margin)
    rows = [
        VerdictRow(
            arm,
            str(arm.content.get("verdict") or "no verdict"),
            str(arm.content.get("sentence") or ""),
            scale.bar(control),
            str(arm.content.get("num_seeds") or ""),
            [str(note) for note in arm.content.get("notes") or []],
        )
        for arm, control in zip(arms, controls, strict=True)
    ]
    return {"scale": scale, "rows": rows}


def _control(arm: Arm, name: str) -> Json:
    return _object(value_at(arm.content, "controls", name))


def _compared(comparison: Json) -> Json:
    """A comparison, or nothing where a note says why there is none: no bar may stand for it."""
    return {} if comparison.get("note") else comparison


def _object(content: Any) -> Json:
    return content if isinstance(content, Mapping) else {}


def _shapes(arms: Sequence[Arm]) -> str:
    """Which marker of the plane is which penalty, in words; empty for a single one."""
    penalties = {arm.colour: str(arm.content.get("penalty") or arm.name) for arm in arms}
    if len(penalties) < 2:
        return ""
    signs = [
        f"{SIGNS[place % len(SIGNS)]} {penalty}" for place, penalty in enumerate(penalties.values())
    ]
    return f"Shapes: {', '.join(signs)}; larger and stronger for larger weights."


def _plane(baseline: Arm, arms: Sequence[Arm]) -> Drawing | None:
    found = plane(baseline, arms)
    if found is None:
        return None
    figure, sentence = found
    title = "Cross-entropy against entropy"
    picture = svg(figure, "plane", f"{title}. {sentence}")
    return Drawing(title, "report half, mean over seeds", picture, figure=figure)


def _controls(arms: Sequence[Arm], margin: float) -> dict[str, Any]:
    """For each arm its controls: name, parameter, call, bar."""
    names = list(
        dict.fromkeys(name for arm in arms for name in (arm.content.get("controls") or {}))
    )
    scale = scale_of([_compared(_control(arm, name)) for arm in arms for name in names], margin)
    rows = []
    for arm in arms:
        for name in names:
            control = _control(arm, name)
            if not control:
                continue
            values = [one for one in control.get("parameter") or [] if isinstance(one, int | float)]
            letter = "T" if name == "temperature" else "w"
            parameter = f"{letter} = {number(sum(values) / len(values), 3)}" if values else ""
            call, note = str(control.get("call") or ""), str(control.get("note") or "")
            rows.append((arm, name, parameter, call, scale.bar(_compared(control)), note))
    return {"scale": scale, "rows": rows}


def _unchanged(arms: Sequence[Arm]) -> list[dict[str, Any]]:
    """For each figure that no temperature changes, the arms' bars."""
    found: list[dict[str, Any]] = []
    for name, label in UNCHANGED.items():
        intervals = [
            _object(value_at(arm.content, "unchanged_by_temperature", name)) for arm in arms
        ]
        scale = scale_of(intervals, 0.0)
        rows = [
            (arm, bar)
            for arm, interval in zip(arms, intervals, strict=True)
            if (bar := scale.bar(interval))
        ]
        before = [bar for _, bar in found[-1]["rows"]] if found else None
        same = [bar for _, bar in rows] == before
        if rows and not same:  # top-k accuracy with k = 5 is top-5 accuracy
            found.append({"label": label, "scale": scale, "rows": rows})
    return found


def _differences(arms: Sequence[Arm], name: str) -> dict[str, Any]:
    intervals = [_object(arm.content.get(name)) for arm in arms]
    scale = scale_of([_compared(interval) for interval in intervals], 0.0)
    rows = [
        (arm, bar)
        for arm, interval in zip(arms, intervals, strict=True)
        if (bar := scale.bar(_compared(interval)))
    ]
    notes = [
        f"{arm.name}: {interval['note']}."
        for arm, interval in zip(arms, intervals, strict=True)
        if interval.get("note")
    ]
    return {"scale": scale, "rows": rows, "notes": notes}


def _generation(arms: Sequence[Arm]) -> list[Drawing]:
    found = [
        quality_and_diversity(
            arms, "distinct_2", "Quality and variety",
            "perplexity under the baseline by distinct 2-grams",
        ),
        quality_and_diversity(
            arms, "self_bleu", "Quality and likeness",
            "perplexity under the baseline by self-BLEU",
        ),
        quality_and_diversity(
            arms, "seq_rep_4", "Quality and repetition",
            "perplexity under the baseline by repeated 4-grams",
        ),
        entropy_along(arms),
    ]  # fmt: skip
    return [drawing for drawing in found if drawing]


def _samples(arms: Sequence[Arm]) -> list[tuple[str, list[tuple[Arm, str]]]]:
    """Way to decode -> the first text of each arm."""
    found = []
    for decoding in MOST_SAMPLES:
        texts = [
            (arm, str(text))
            for arm in arms
            for text in [
                next(
                    (one.get("text") for one in samples_of(arm) if one.get("decoding") == decoding),
                    None,
                )
            ]
            if text is not None
        ]
        if texts:
            found.append((decoding, texts))
    return found
