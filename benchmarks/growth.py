"""How a cost grows with a size: exponents of a power law, and the plot of scaling.json."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sharpgpt.core.files import atomic_path
from sharpgpt.core.numbers import short
from sharpgpt.report.drawing import FONT_SIZE, GRID, INK, SERIES_COLOURS, own_settings

COSTS = {"time": "median_s", "memory": "peak_mb"}
LABELS = {"time": "time, s", "memory": "peak memory, GB"}
COLUMNS = 3


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float | None:
    """k of cost = c * size ** k, by least squares of the logarithms; None for less than two sizes.

    A cost with a fixed part has an exponent below that of its growing part.
    """
    pairs = [(math.log(x), math.log(y)) for x, y in zip(sizes, costs, strict=True) if y > 0]
    mean_x, mean_y = (sum(values) / len(pairs) for values in zip(*pairs, strict=True))
    spread = sum((x - mean_x) ** 2 for x, _ in pairs)
    if spread == 0:
        return None
    return round(sum((x - mean_x) * (y - mean_y) for x, y in pairs) / spread, 3)


def growth(axis: str, points: Mapping[float, Mapping[str, Any]]) -> dict[str, Any]:
    """The measured points of a section, and the exponents: of all, and of the two largest sizes."""
    sizes = sorted(points)
    fitted: dict[str, dict[str, float | None]] = {}
    for cost, figure in COSTS.items():
        if all(points[size].get(figure) for size in sizes):
            values = [points[size][figure] for size in sizes]
            fitted[cost] = {
                "of all sizes": exponent(sizes, values),
                "of the two largest": exponent(sizes[-2:], values[-2:]),
            }
    return {
        "axis": axis,
        "exponents": fitted,
        "points": [{"size": size, **points[size]} for size in sizes],
    }


def _tick(size: float) -> str:
    return f"{size:g}" if size < 10_000 else short(float(f"{size:.2g}"))


def plot(sections: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """A panel for each section, both axes logarithmic: time and peak memory by size."""
    from matplotlib.figure import Figure

    num_rows = math.ceil(len(sections) / COLUMNS)
    with own_settings(), atomic_path(path) as temporary:
        figure = Figure(figsize=(4.2 * COLUMNS, 3.1 * num_rows), layout="constrained")
        for place, (name, section) in enumerate(sections.items()):
            axes = figure.add_subplot(num_rows, COLUMNS, place + 1)
            sizes = [point["size"] for point in section["points"]]
            for series, (cost, fitted) in enumerate(section["exponents"].items()):
                scale = 1e-3 if cost == "memory" else 1.0
                values = [scale * point[COSTS[cost]] for point in section["points"]]
                label = LABELS[cost]
                if fitted["of all sizes"] is not None:
                    label += f" (exponent {fitted['of all sizes']:.2f})".replace("-", "−")
                axes.plot(sizes, values, "os"[series] + "-", color=SERIES_COLOURS[series],
                          label=label, linewidth=1.4, markersize=4)  # fmt: skip
            axes.set(xscale="log", yscale="log")
            axes.set_title(name, fontsize=FONT_SIZE, loc="left")
            axes.set_xlabel(section["axis"], color=INK, fontsize=FONT_SIZE - 1)
            axes.set_xticks(sizes, [_tick(size) for size in sizes], color=INK)
            axes.minorticks_off()
            axes.grid(color=GRID)
            axes.spines[["top", "right"]].set_visible(False)
            axes.legend(fontsize=FONT_SIZE - 3, frameon=False)
        figure.savefig(temporary, format=path.suffix.removeprefix("."), dpi=110)
