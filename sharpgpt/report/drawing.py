"""Pictures for HTML pages, drawn by matplotlib as SVG, and the same as files.

Matplotlib draws with placeholder colours, which become CSS variables, so that one picture suits
light and dark pages; in a file they become the colours of the light page. Text stays text. Legends
and titles belong to the page, not to the picture.
"""

import io
import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Placeholders that matplotlib takes for colours, and the CSS that they become.
SERIES_COLOURS = ("#0a0b01", "#0a0b02", "#0a0b05", "#0a0b06", "#0a0b07", "#0a0b08")
INK, GRID, STRONG = "#0a0b03", "#0a0b04", "#0a0b09"
CSS_COLOURS = {
    **{colour: f"var(--series-{place + 1})" for place, colour in enumerate(SERIES_COLOURS)},
    INK: "var(--muted)",
    GRID: "var(--rule)",
    STRONG: "var(--ink)",
}
FILE_COLOURS = {
    **dict(
        zip(
            SERIES_COLOURS,
            ("#2c6cb5", "#d4700f", "#2f8a4c", "#8a4fb0", "#c23b3b", "#128a8a"),
            strict=True,
        )
    ),
    INK: "#666b74",
    GRID: "#e3e4e6",
    STRONG: "#1b1d21",
}
"""Those of report.css, light."""


@dataclass(frozen=True)
class Key:
    """One line of a legend: its series colour (from 1; 0 is ink), label and newest value, and how
    strong the colour is."""

    colour: int
    label: str
    value: str = ""
    strength: float = 1.0


@dataclass(frozen=True)
class Drawing:
    """A finished picture and the words around it."""

    title: str
    unit: str
    svg: str
    keys: list[Key] = field(default_factory=list)
    text: str = ""
    """What to look for, below the picture."""
    figure: "Figure | None" = field(default=None, repr=False, compare=False)
    """What `save_files` can write as files; None where that is not wanted."""


def new_figure(width: float = 4.6, height: float = 2.5) -> tuple["Figure", "Axes"]:
    """A figure outside pyplot's global state, with quiet axes."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(width, height), layout="constrained")
    figure.patch.set_visible(False)
    axes = figure.add_subplot()
    axes.patch.set_visible(False)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=10, length=0, pad=5)
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    return figure, axes


def svg(figure: "Figure", name: str, sentence: str) -> str:
    """The figure as an inline `<svg>` whose ids start with `name`, for the eye and for the ear."""
    import matplotlib
    from markupsafe import escape

    target = io.StringIO()
    name = name.encode("utf-8", "replace").decode()  # halves of surrogate pairs cannot be hashed
    nothing: dict[str, Any] = dict.fromkeys(["Date", "Creator", "Format", "Type"])
    # The font's name only measures text here; the page chooses the font.
    settings: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "font.family": "DejaVu Sans",
    }
    with matplotlib.rc_context(settings):
        figure.savefig(target, format="svg", metadata=nothing)
    _, _, rest = target.getvalue().partition("<svg ")
    head, _, body = rest.partition(">")
    view_box = re.search(r'viewBox="[^"]*"', head)
    assert view_box is not None, "matplotlib writes a viewBox"
    slug = re.sub(r"\W+", "-", name.lower())
    body = re.sub(r"<style.*?</style>|(?<=<g) id=\"[^\"]*\"", "", body, flags=re.DOTALL)
    body = re.sub(r'\bid="', f'id="{slug}-', body)
    body = re.sub(r'xlink:href="#', f'href="#{slug}-', body)
    body = body.replace("url(#", f"url(#{slug}-")
    body = re.sub(r"font-family: [^;\"]*", "font-family: var(--sans)", body)
    for placeholder, css in CSS_COLOURS.items():
        body = body.replace(placeholder, css)
    return f'<svg {view_box[0]} role="img" aria-label="{escape(sentence)}">{body}'


def save_all(drawings: Iterable[Drawing], folder: Path) -> None:
    """The pictures as files in `folder`, named by their titles."""
    taken: set[str] = set()
    for drawing in drawings:
        if drawing.figure is not None:
            name = (
                re.sub(r"((?!-\d)[^a-z0-9.])+", "_", drawing.title.lower()).strip("_.")[:80]
                or "figure"
            )
            again = itertools.count(2)
            unique = name
            while unique in taken:
                unique = f"{name}_{next(again)}"
            taken.add(unique)
            save_files(drawing.figure, folder, unique)


def save_files(figure: "Figure", folder: Path, name: str) -> None:
    """The picture as NAME.svg and NAME.png in `folder`, in the colours of the light page."""
    import matplotlib
    from matplotlib import colors

    for artist in figure.findobj():
        for part in ("color", "facecolor", "edgecolor", "markerfacecolor", "markeredgecolor"):
            getter, setter = (getattr(artist, f"{way}_{part}", None) for way in ("get", "set"))
            if getter is None or setter is None:
                continue
            try:
                found = colors.to_rgba_array(getter())
            except (TypeError, ValueError):
                continue
            hexes = [colors.to_hex(one) for one in found]
            if any(one in FILE_COLOURS for one in hexes):
                new = [
                    colors.to_rgba(FILE_COLOURS.get(name_, name_), alpha=float(one[3]))
                    for name_, one in zip(hexes, found, strict=True)
                ]
                setter(new[0] if len(new) == 1 else new)
    for axes in figure.axes:
        axes.tick_params(colors=FILE_COLOURS[INK])
    figure.patch.set(visible=True, facecolor="white")
    folder.mkdir(parents=True, exist_ok=True)
    nothing: dict[str, Any] = dict.fromkeys(["Date", "Creator"])
    with matplotlib.rc_context({"svg.hashsalt": name, "font.family": "DejaVu Sans"}):
        figure.savefig(folder / f"{name}.svg", metadata=nothing)
        figure.savefig(folder / f"{name}.png", dpi=160)
