"""Pictures of evaluated models: reliability, buckets, generated text. Each takes arms, leaves out
what their JSON lacks, and is None without anything to show."""

from collections.abc import Callable, Sequence

from sharpgpt.core.numbers import number
from sharpgpt.report.arms import Arm, Json, mapping, mean, number_of, objects, points_of, value_at
from sharpgpt.report.drawing import INK, Chart, Drawing

DOTS = {"marker": "o", "markersize": 3}


def reliability(arm: Arm) -> Drawing | None:
    """Accuracy by confidence, before and after the best temperature; of the first run."""
    run = next((run for run in arm.runs if objects(_bins(run, "unchanged"))), None)
    if run is None:
        return None
    chart = Chart(
        arm.name, "share right by confidence", size=(3.1, 2.7), name=f"reliability {arm.name}"
    )
    chart.line([(0, 0), (1, 1)], color=INK, linewidth=0.8, linestyle=(0, (3, 3)), zorder=1)
    colour = arm.style["color"]
    for name, style in (
        ("unchanged", {"color": colour, "linewidth": 1.3, "marker": "o"}),
        (
            "best_temperature",
            {"color": INK, "linewidth": 1.0, "marker": "s", "markerfacecolor": "none"},
        ),
    ):
        if points := points_of(_bins(run, name), "confidence", "accuracy"):
            chart.line(points, markersize=3.5, **style)
    chart.axes.set_xlim(0, 1)
    chart.axes.set_ylim(0, 1)
    before, after = (
        number_of(run, "calibration", name, "smooth_ece")
        for name in ("unchanged", "best_temperature")
    )
    chart.text = f"Smooth calibration error {number(before, 3)}"
    chart.text += "." if after is None else f", at its best temperature {number(after, 3)}."
    chart.sentences.append(f"Reliability. {chart.text}")
    return chart.drawing()


def _bins(run: Json, name: str) -> object:
    return value_at(run, "calibration", name, "bins")


BUCKETS = {
    "position": ("By position in the block", "tokens before the predicted one"),
    "frequency": ("By frequency of the token", "share of the text in more frequent tokens"),
    "baseline_entropy": ("By the baseline's entropy", "nats"),
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
    chart = Chart(title, f"{unit}; {of}", size=(4.6, 2.6))
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
            ends = " to ".join(
                f"{number(y)} ({labels[int(x)]})" for x, y in (points[0], points[-1])
            )
            chart.sentences.append(f"{arm.name} from {ends}.")
    chart.axes.set_xticks(sorted(labels), [labels[k] for k in sorted(labels)], fontsize=9)
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
    chart = Chart(title, f"{perplexity} by {words}", size=(4.6, 3.0))
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
        first, last = (number(perplexity) for _, perplexity in (points[0], points[-1]))
        chart.sentences.append(f"{arm.name} from perplexity {first} to {last}.")
    if chart.sentences and texts:
        chart.line(texts[:1], color=INK, marker="*", markersize=11, linestyle="", zorder=5)
        chart.sentences.append(f"The text itself has perplexity {number(texts[0][1])}.")
    chart.axes.margins(0.06)
    return chart.drawing()


def entropy_along(arms: Sequence[Arm]) -> Drawing | None:
    """The entropy of the predictions along a model's own texts."""
    chart = Chart(
        "Entropy along generated texts",
        "nats by position, sampled at temperature 1",
        size=(4.6, 2.6),
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
            start, end = number(points[0][1]), number(points[-1][1])
            chart.sentences.append(f"{arm.name} from {start} to {end} nats.")
    return chart.drawing()


def _generation(arm: Arm) -> Json:
    """The generated texts of an arm's first run that has any."""
    return next((found for run in arm.runs if (found := mapping(run, "generation"))), {})


def samples_of(arm: Arm) -> list[Json]:
    """The texts of an arm's first run that has any."""
    return objects(_generation(arm).get("samples"))
