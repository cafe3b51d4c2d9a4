"""Pictures of evaluated models: reliability, buckets, generated text. Each takes arms, leaves out
what their JSON lacks, and is None without anything to show."""

from collections.abc import Callable, Sequence

from sharpgpt.core.numbers import fixed, number
from sharpgpt.report.arms import (
    Arm,
    Json,
    mapping,
    mean,
    number_of,
    objects,
    points_of,
    text_of,
    value_at,
)
from sharpgpt.report.drawing import FONT_SIZE, INK, Chart, Drawing
from sharpgpt.report.statistics import BEST, found_value

DOTS = {"marker": "o", "markersize": 3}


def reliability(arm: Arm) -> Drawing | None:
    """Accuracy by confidence, before and after the best temperature; of the first run."""
    run = next((run for run in arm.runs if objects(_bins(run, "unchanged"))), None)
    if run is None:
        return None
    chart = Chart(
        arm.name,
        "share right, by confidence",
        x="confidence",
        size=(3.1, 2.9),
        name=f"reliability {arm.name}",
        decimals=3,
    )
    chart.line([(0, 0), (1, 1)], color=INK, linewidth=0.8, linestyle=(0, (3, 3)), zorder=1)
    colour = arm.style["color"]
    hollow = {"marker": "s", "markerfacecolor": "none", "markersize": 5}
    for name, words, style in (
        (
            "unchanged",
            "as it is",
            {"color": colour, "linewidth": 1.3, "marker": "o", "markersize": 3},
        ),
        ("best_temperature", BEST, {"color": INK, "linewidth": 1.0, **hollow}),
    ):
        points = points_of(_bins(run, name), "confidence", "accuracy")
        if not points or (name == "best_temperature" and text_of(run, "temperature", "note")):
            continue
        chart.axes.plot(*zip(*points, strict=True), **style)
        for point in points:
            confidence, share = map(chart.number, point)
            chart.spot(point, f"{words}\nconfidence {confidence}\nright {share}")
    chart.axes.set_xlim(0, 1)
    chart.axes.set_ylim(0, 1)
    before, after = (
        found_value(run, "calibration", name, "smooth_ece")
        for name in ("unchanged", "best_temperature")
    )
    chart.text = f"Smooth calibration error {fixed(before, 4)}"
    chart.text += "." if after is None else f", {BEST} {fixed(after, 4)}."
    chart.sentences.append(f"Reliability. {chart.text}")
    return chart.drawing()


def _bins(run: Json, name: str) -> object:
    return value_at(run, "calibration", name, "bins")


BUCKETS = {
    "position": ("By position in the block", "tokens before the predicted one"),
    "frequency": ("By frequency of the token", "share of the text in more frequent tokens"),
    "baseline_entropy": ("By the baseline's entropy", "entropy of the baseline, nats"),
}
"""Kind -> title and what its bounds are of."""


def buckets(arms: Sequence[Arm], value: Callable[[Json], float | None], unit: str) -> list[Drawing]:
    """For each kind of bucket a value by bucket, the mean over runs, one line for each arm."""
    drawings = [_buckets(arms, kind, value, unit) for kind in BUCKETS]
    return [drawing for drawing in drawings if drawing]


def _buckets(
    arms: Sequence[Arm], kind: str, value: Callable[[Json], float | None], unit: str
) -> Drawing | None:
    title, of = BUCKETS[kind]
    chart = Chart(title, unit, x=of, decimals=4)
    chart.axes.axhline(0, color=INK, linewidth=0.8, zorder=1)
    labels: dict[int, str] = {}
    for arm in arms:
        points = []
        for k, rows in enumerate(zip(*_tables(arm, kind), strict=False)):
            average = mean(map(value, rows))
            if average is not None and any(number_of(row, "num_rows") for row in rows):
                points.append((float(k), average))
                labels.setdefault(k, _bounds(rows[0]))
        if points:
            chart.line(points, **arm.style, **DOTS)
            chart.columns(arm.name, points)
            ends = " to ".join(
                f"{chart.number(y)} ({labels[int(x)]})" for x, y in (points[0], points[-1])
            )
            chart.sentences.append(f"{arm.name} from {ends}.")
    chart.place_names = {float(k): label for k, label in labels.items()}
    chart.axes.set_xticks(sorted(labels), [labels[k] for k in sorted(labels)], fontsize=FONT_SIZE)
    return chart.drawing()


def _tables(arm: Arm, kind: str) -> list[list[Json]]:
    tables = [objects(value_at(run, "buckets", kind)) for run in arm.runs]
    return [table for table in tables if table]


def _bounds(row: Json) -> str:
    low, high = number_of(row, "from"), number_of(row, "below")
    if low is None:
        return f"< {high:g}" if high is not None else "all"
    return f"≥ {low:g}" if high is None else f"{low:g}–{high:g}"


def ce_above_baseline(row: Json) -> float | None:
    """Cross-entropy above the baseline's in a bucket."""
    own, baseline = number_of(row, "ce"), number_of(row, "baseline_ce")
    return None if own is None or baseline is None else own - baseline


def ce_of(row: Json) -> float | None:
    """Cross-entropy in a bucket."""
    return number_of(row, "ce")


DIVERSITY = {
    "distinct_2": ("Quality and variety", "distinct 2-grams"),
    "self_bleu": ("Quality and likeness", "self-BLEU"),
    "seq_rep_4": ("Quality and repetition", "repeated 4-grams"),
}
"""Statistic of diversity -> title of its picture, and its words."""


def quality_and_diversity(arms: Sequence[Arm], name: str, perplexity: str) -> Drawing | None:
    """Perplexity, in the words given, against a statistic of DIVERSITY, over decoding methods."""
    title, words = DIVERSITY[name]
    chart = Chart(title, f"{perplexity}, by {words}", x=words, size=(4.6, 3.1), decimals=2)
    texts = []
    for arm in arms:
        generation = _generation(arm)
        ways = objects(generation.get("ways"))
        sampled = [
            way for way in ways if number_of(way, "temperature") and number_of(way, "top_p") == 1
        ]
        nucleus = [way for way in ways if (number_of(way, "top_p") or 1) < 1]
        points = points_of(sampled, name, "perplexity")
        texts += points_of([generation.get("text")], name, "perplexity")
        if not points:
            continue
        chart.line(points, **arm.style, **DOTS)
        for point in points_of(nucleus, name, "perplexity"):
            chart.line([point], **arm.style, marker="^", markersize=5)
        _name_ways(chart, arm, [*sampled, *nucleus], name, is_first=arm is arms[0])
        first, last = (chart.number(perplexity) for _, perplexity in (points[0], points[-1]))
        chart.sentences.append(f"{arm.name} from perplexity {first} to {last}.")
    if chart.sentences and texts:
        chart.line(texts[:1], color=INK, marker="*", markersize=11, linestyle="", zorder=5)
        chart.spot(texts[0], f"the text itself\nperplexity {chart.number(texts[0][1])}")
        chart.sentences.append(f"The text itself has perplexity {chart.number(texts[0][1])}.")
    chart.axes.margins(0.1)
    return chart.drawing()


def _name_ways(chart: Chart, arm: Arm, ways: Sequence[Json], name: str, *, is_first: bool) -> None:
    """The decoding method of each point under the pointer; of the first arm some at the line."""
    for place, way in enumerate(ways):
        for point in points_of([way], name, "perplexity"):
            decoding = text_of(way, "decoding")
            values = f"perplexity {chart.number(point[1])}\n{chart.x} {number(point[0], 3)}"
            chart.spot(point, f"{arm.name}, {decoding}\n{values}")
            temperature = number_of(way, "temperature")
            is_sampled = number_of(way, "top_p") == 1
            if is_first and is_sampled and temperature is not None and place % 2 == 0:
                chart.axes.annotate(
                    f"T = {temperature:g}", (point[0], point[1]), textcoords="offset points",
                    xytext=(6, -11), fontsize=FONT_SIZE, color=INK,
                )  # fmt: skip


def entropy_along(arms: Sequence[Arm]) -> Drawing | None:
    """The entropy of the predictions along a model's own texts."""
    chart = Chart(
        "Entropy along generated texts",
        "nats, sampled at temperature 1",
        x="position in the text",
        decimals=4,
    )
    for arm in arms:
        rows = objects(_generation(arm).get("entropy_by_position"))
        centres = [
            {"position": (first + below - 1) / 2, "entropy": row.get("entropy")}
            for row in rows
            if (first := number_of(row, "from")) is not None
            and (below := number_of(row, "below")) is not None
        ]
        if points := points_of(centres, "position", "entropy"):
            chart.line(points, **arm.style, **DOTS)
            chart.columns(arm.name, points)
            start, end = chart.number(points[0][1]), chart.number(points[-1][1])
            chart.sentences.append(f"{arm.name} from {start} to {end} nats.")
    return chart.drawing()


def _generation(arm: Arm) -> Json:
    """The generated texts of an arm's first run that has any."""
    return next((found for run in arm.runs if (found := mapping(run, "generation"))), {})


def samples_of(arm: Arm) -> list[Json]:
    """The texts of an arm's first run that has any."""
    return objects(_generation(arm).get("samples"))
