"""Pictures of evaluated models: reliability, buckets, generation. Each takes arms and leaves out
what their JSON lacks; without anything to show there is no picture."""

from collections.abc import Callable, Sequence

from sharpgpt.report.arms import Arm, Json, mean_of, number_of, objects, value_at
from sharpgpt.report.drawing import INK, Drawing, new_figure, svg
from sharpgpt.report.numbers import number


def reliability(arm: Arm) -> Drawing | None:
    """How often a confidence is right, before and after the best temperature; of the first run."""
    run = next((run for run in arm.runs if objects(_bins(run, "unchanged"))), None)
    if run is None:
        return None
    figure, axes = new_figure(3.1, 2.7)
    axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=(0, (3, 3)), zorder=1)
    for name, marker in (("unchanged", "o"), ("best_temperature", "s")):
        points = [
            (confidence, accuracy)
            for one in objects(_bins(run, name))
            if (confidence := number_of(one, "confidence")) is not None
            and (accuracy := number_of(one, "accuracy")) is not None
        ]
        if not points:
            continue
        is_plain = name == "unchanged"
        axes.plot(
            *zip(*points, strict=True),
            color=arm.ink if is_plain else INK,
            linewidth=1.3 if is_plain else 1.0,
            marker=marker,
            markersize=3.5,
            markerfacecolor=arm.ink if is_plain else "none",
        )
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    before, after = (
        number_of(run, "calibration", name, "smooth_ece")
        for name in ("unchanged", "best_temperature")
    )
    words = f"Smooth calibration error {number(before, 3)}"
    if after is not None:
        words += f", at its best temperature {number(after, 3)}"
    picture = svg(figure, f"reliability {arm.name}", f"Reliability of {arm.name}. {words}.")
    return Drawing(arm.name, "share right by confidence", picture, text=f"{words}.", figure=figure)


def _bins(run: Json, name: str) -> object:
    return value_at(run, "calibration", name, "bins")


BUCKETS = {
    "position": ("By position in the block", "tokens before the predicted one"),
    "frequency": ("By frequency of the token", "share of the text in more frequent tokens"),
    "baseline_entropy": ("By the baseline's entropy", "nats"),
}
"""Kind -> title and what its bounds are of."""


def buckets(
    arms: Sequence[Arm], kind: str, value: Callable[[Json], float | None], unit: str
) -> Drawing | None:
    """A figure by buckets, the mean over runs, one line for each arm."""
    title, of = BUCKETS[kind]
    labels: list[str] = []
    lines = []
    for arm in arms:
        rows = [objects(value_at(run, "buckets", kind)) for run in arm.runs]
        rows = [one for one in rows if one]
        if not rows:
            continue
        length = min(map(len, rows))
        known = [k for k in range(length) if any(number_of(one[k], "num_rows") for one in rows)]
        labels = labels or [_bounds(rows[0][k]) for k in range(length)]
        points = []
        for k in known:
            values = [found for one in rows if (found := value(one[k])) is not None]
            if values:
                points.append((k, sum(values) / len(values)))
        if points:
            lines.append((arm, points))
    if not lines:
        return None
    figure, axes = new_figure(4.6, 2.6)
    axes.axhline(0, color=INK, linewidth=0.8, zorder=1)
    for arm, points in lines:
        axes.plot(
            *zip(*points, strict=True),
            color=arm.ink,
            alpha=arm.strength,
            linewidth=1.4,
            marker="o",
            markersize=3,
        )
    shown = sorted({k for _, points in lines for k, _ in points})
    axes.set_xticks(shown, [labels[k] for k in shown], fontsize=8)
    first = lines[0]
    sentence = f"{title}: {first[0].name} from " + " to ".join(
        f"{number(point[1])} ({labels[point[0]]})" for point in (first[1][0], first[1][-1])
    )
    picture = svg(figure, f"{title} {unit}", f"{sentence}.")
    return Drawing(title, f"{unit}; {of}", picture, figure=figure)


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


def quality_and_diversity(arms: Sequence[Arm], name: str, title: str, unit: str) -> Drawing | None:
    """Perplexity under the judge against a figure of diversity, over the ways to decode."""
    figure, axes = new_figure(4.6, 3.0)
    sentences = []
    for arm in arms:
        run = _with_texts(arm)
        if run is None:
            continue
        ways = objects(value_at(run, "generation", "ways"))
        points = [
            (x, y)
            for way in ways
            if number_of(way, "temperature") and number_of(way, "top_p") == 1
            if (x := number_of(way, name)) is not None
            and (y := number_of(way, "perplexity")) is not None
        ]
        if not points:
            continue
        axes.plot(
            *zip(*points, strict=True),
            color=arm.ink,
            alpha=arm.strength,
            linewidth=1.4,
            marker="o",
            markersize=3,
        )
        for way in ways:
            x, y = number_of(way, name), number_of(way, "perplexity")
            if (number_of(way, "top_p") or 1) < 1 and x is not None and y is not None:
                axes.plot([x], [y], color=arm.ink, alpha=arm.strength, marker="^", markersize=5)
        sentences.append(
            f"{arm.name} from perplexity {number(points[0][1])} to {number(points[-1][1])}"
        )
    if not sentences:
        return None
    text = next(
        (
            found
            for arm in arms
            if (run := _with_texts(arm)) is not None
            and isinstance(found := value_at(run, "generation", "text"), dict)
        ),
        None,
    )
    x, y = number_of(text, name), number_of(text, "perplexity")
    if x is not None and y is not None:
        axes.plot([x], [y], color=INK, marker="*", markersize=11, linestyle="", zorder=5)
        sentences.append(f"the text itself has perplexity {number(y)}")
    axes.margins(0.06)
    picture = svg(figure, title, f"{title}. {'; '.join(sentences)}.")
    return Drawing(title, unit, picture, figure=figure)


def entropy_along(arms: Sequence[Arm]) -> Drawing | None:
    """The entropy of the predictions along a model's own texts."""
    figure, axes = new_figure(4.6, 2.6)
    sentences = []
    for arm in arms:
        run = _with_texts(arm)
        rows = objects(value_at(run, "generation", "entropy_by_position")) if run else []
        points = [
            ((first + below - 1) / 2, entropy)
            for row in rows
            if (first := number_of(row, "from")) is not None
            and (below := number_of(row, "below")) is not None
            and (entropy := number_of(row, "entropy")) is not None
        ]
        if points:
            axes.plot(*zip(*points, strict=True), color=arm.ink, alpha=arm.strength, linewidth=1.4)
            sentences.append(
                f"{arm.name} from {number(points[0][1])} to {number(points[-1][1])} nats"
            )
    if not sentences:
        return None
    title = "Entropy along generated texts"
    return Drawing(
        title, "nats by position, sampled at temperature 1",
        svg(figure, title, f"{title}: {'; '.join(sentences)}."), figure=figure,
    )  # fmt: skip


def _with_texts(arm: Arm) -> Json | None:
    return next((run for run in arm.runs if isinstance(run.get("generation"), dict)), None)


def samples_of(arm: Arm) -> list[Json]:
    """The texts of an arm's first run that has any."""
    run = _with_texts(arm)
    return objects(value_at(run, "generation", "samples")) if run else []


FIGURES = {
    "ce": "Cross-entropy",
    "perplexity": "Perplexity",
    "bits_per_byte": "Bits per byte",
    "accuracy": "Accuracy",
    "accuracy_top_5": "Top-5 accuracy",
    "accuracy_top_k": "Top-k accuracy",
    "reciprocal_rank": "Reciprocal rank",
    "entropy": "Entropy",
    "max_prob": "Largest probability",
    "top_k_mass": "Top-k mass",
    "brier": "Brier score",
    "logit_std": "Logit deviation",
}
"""Figure -> its column heading."""


def figure_rows(arms: Sequence[Arm]) -> tuple[list[str], list[tuple[Arm, list[str]]]]:
    """Headings, and for each arm its figures as means over runs, with more that is of use."""
    more: dict[str, tuple[str, ...]] = {
        "Best temperature": ("temperature", "best"),
        "Smooth calibration error": ("calibration", "unchanged", "smooth_ece"),
        "… at its best temperature": ("calibration", "best_temperature", "smooth_ece"),
        "Final norm, rms": ("final_layer", "layer_norm_weight_rms"),
        "Output rows, norm": ("final_layer", "head_row_norm"),
    }
    columns = {label: ("figures", name, "estimate") for name, label in FIGURES.items()} | more
    known = {
        label: names
        for label, names in columns.items()
        if any(mean_of(arm.runs, *names) is not None for arm in arms)
    }
    rows = [(arm, [number(mean_of(arm.runs, *names)) for names in known.values()]) for arm in arms]
    return list(known), rows
