"""Pictures of the pages: drawn by matplotlib, inline SVG on a page, SVG and PNG as files.

Matplotlib draws in the colours of the light page; on a page they become CSS variables, so that one
picture suits light and dark. Text stays text. Titles and legends belong to the page, not to the
picture.
"""

import contextlib
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharpgpt.core.errors import UserError
from sharpgpt.core.files import atomic_path
from sharpgpt.core.numbers import short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SERIES_COLOURS = ("#2c6cb5", "#d4700f", "#2f8a4c", "#8a4fb0", "#c23b3b", "#128a8a")
INK, GRID, STRONG = "#666b74", "#e3e4e6", "#1b1d21"
"""Those of report.css, light."""
CSS_COLOURS = {
    **{colour: f"var(--series-{place + 1})" for place, colour in enumerate(SERIES_COLOURS)},
    INK: "var(--muted)",
    GRID: "var(--rule)",
    STRONG: "var(--ink)",
}


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
    figure: "Figure" = field(repr=False, compare=False)
    keys: Sequence[Key] = ()
    text: str = ""
    """What to look for, below the picture."""


@contextlib.contextmanager
def own_settings() -> Iterator[None]:
    """For the block matplotlib as it comes: no matplotlibrc and no notebook changes a page."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        yield


class Chart:
    """A picture while it is drawn: axes, a legend, and a sentence about each thing drawn."""

    def __init__(
        self, title: str, unit: str = "", *, size: tuple[float, float] = (4.6, 2.5), name: str = ""
    ) -> None:
        """`name` begins the ids of the SVG, which differ on a page; the title if it is empty."""
        self.title, self.unit, self.name = title, unit, name or title
        self.keys: list[Key] = []
        self.sentences: list[str] = []
        self.text = ""
        self.figure, self.axes = _new_figure(*size)

    def line(self, points: Sequence[tuple[float, ...]], **style: Any) -> None:
        """A line through points (x, y)."""
        self.axes.plot(*zip(*points, strict=True), **{"linewidth": 1.4} | style)

    def short_numbers(self, *, y: bool) -> None:
        """Steps as 1.5k and 20k, and the values too if `y`."""
        self.axes.xaxis.set_major_formatter(short)
        if y:
            self.axes.yaxis.set_major_formatter(short)

    def drawing(self) -> Drawing | None:
        """The finished picture; None if there is no sentence, since nothing was drawn."""
        if not self.sentences:
            return None
        words = f"{self.title}. {' '.join(self.sentences)}"
        picture = _svg(self.figure, self.name, words)
        return Drawing(self.title, self.unit, picture, self.figure, self.keys, self.text)


def _new_figure(width: float, height: float) -> tuple["Figure", "Axes"]:
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


def _save(figure: "Figure", target: Any, name: str, *, fonttype: str = "path", **how: Any) -> None:
    """Write a figure, the same bytes each time."""
    import matplotlib

    settings: dict[Any, Any] = {
        "svg.hashsalt": name,
        "svg.fonttype": fonttype,
        "font.family": "DejaVu Sans",
    }
    with matplotlib.rc_context(settings):
        figure.savefig(target, **how)


def _svg(figure: "Figure", name: str, sentence: str) -> str:
    """The figure as an inline `<svg>` whose ids start with `name`; screen readers get the
    sentence."""
    from markupsafe import escape

    target = io.StringIO()
    name = name.encode("utf-8", "replace").decode()  # halves of surrogate pairs cannot be hashed
    nothing: dict[str, Any] = dict.fromkeys(["Date", "Creator", "Format", "Type"])
    # The font only measures the text here; the page chooses another.
    _save(figure, target, name, fonttype="none", format="svg", metadata=nothing)
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
    for colour, variable in CSS_COLOURS.items():
        body = body.replace(colour, variable)
    return f'<svg {view_box[0]} role="img" aria-label="{escape(sentence)}">{body}'


def save_all(drawings: Iterable[Drawing], folder: Path) -> None:
    """The pictures as NAME.svg and NAME.png in `folder`, on white, named after their titles.

    A link there is replaced; raises `UserError` if the folder is one.
    """
    if folder.is_symlink():
        raise UserError(f"{folder}: is a link, and nothing is written through one; move it away")
    taken: set[str] = set()
    for drawing in drawings:
        name = re.sub(r"((?!-\d)[^a-z0-9.])+", "_", drawing.title.lower()).strip("_.")[:80]
        unique, again = name or "figure", 2
        while unique in taken:
            unique, again = f"{name or 'figure'}_{again}", again + 1
        taken.add(unique)
        folder.mkdir(parents=True, exist_ok=True)
        drawing.figure.patch.set(visible=True, facecolor="white")
        nothing: dict[str, Any] = dict.fromkeys(["Date", "Creator"])
        with atomic_path(folder / f"{unique}.svg") as path:
            _save(drawing.figure, path, unique, format="svg", metadata=nothing)
        with atomic_path(folder / f"{unique}.png") as path:
            _save(drawing.figure, path, unique, format="png", dpi=160)
