"""Pictures of the pages: drawn by matplotlib, inline SVG on a page, SVG and PNG as files.

Matplotlib draws in the colours of the light page; on a page they become CSS variables, so that one
picture suits light and dark. Text stays text. Titles and legends belong to the page, not to the
picture.
"""

import contextlib
import io
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharpgpt.core.errors import UserError
from sharpgpt.core.files import atomic_path
from sharpgpt.core.numbers import fixed, plain, short
from sharpgpt.report.overlaps import separate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

SERIES_COLOURS = ("#2c6cb5", "#d4700f", "#2f8a4c", "#8a4fb0", "#c23b3b", "#128a8a")
INK, GRID, STRONG = "#666b74", "#e3e4e6", "#1b1d21"
"""Those of report.css, light."""
CSS_COLOURS = {
    **{colour: f"var(--series-{place + 1})" for place, colour in enumerate(SERIES_COLOURS)},
    INK: "var(--muted)",
    GRID: "var(--rule)",
    STRONG: "var(--ink)",
}


FONT_SIZE = 12.0
"""Of all text in a picture as wide as a card: above 11 pixels wherever the page shows it."""

MAX_SLICES = 60
"""Places along the x axis that show their values under the pointer."""


@dataclass(frozen=True)
class Key:
    """One line of a legend: its series colour (from 1; 0 is ink), label and newest value, how
    strong the colour is, and which dashes it has (0: none)."""

    colour: int
    label: str
    value: str = ""
    strength: float = 1.0
    dash: int = 0


Link = tuple[str, str]
"""A label and a relative address."""


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
    sources: Sequence[Link] = ()
    """The files that have its numbers."""


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
        self,
        title: str,
        unit: str = "",
        *,
        x: str = "",
        size: tuple[float, float] = (4.6, 2.7),
        name: str = "",
        decimals: int | None = None,
    ) -> None:
        """`x` names the horizontal axis. `name` begins the ids of the SVG, which differ on a page;
        the title if it is empty. `decimals` are those of its values."""
        self.title, self.unit, self.name = title, unit, name or title
        self.x, self.decimals = x, decimals
        self.keys: list[Key] = []
        self.sentences: list[str] = []
        self.text = ""
        self._lines: list[Line2D] = []
        self._spots: list[tuple[float, float, str]] = []
        self._columns: dict[float, list[str]] = {}
        self.place_names: dict[float, str] = {}
        """Words for places on the x axis that are no numbers."""
        self.figure, self.axes = _new_figure(*size)
        self.axes.set_xlabel(x, color=INK, fontsize=FONT_SIZE)

    def number(self, value: float | None) -> str:
        """A value of this picture in words."""
        return fixed(value, self.decimals)

    def line(self, points: Sequence[tuple[float, ...]], **style: Any) -> None:
        """A line through points (x, y)."""
        self._lines += self.axes.plot(*zip(*points, strict=True), **{"linewidth": 1.4} | style)

    def spot(self, point: tuple[float, ...], words: str) -> None:
        """What the pointer shows at a point (x, y)."""
        self._spots.append((point[0], point[1], words))

    def column(self, x: float, words: str) -> None:
        """One more line of what the pointer shows above and below a place on the x axis."""
        self._columns.setdefault(x, []).append(words)

    def columns(self, label: str, points: Iterable[tuple[float, ...]]) -> None:
        """A line for each finite point (x, y) of a series."""
        for x, y in points:
            if math.isfinite(y):
                self.column(x, f"{label} {self.number(y)}".strip())

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
        separate(self.axes, self._lines, dpi=self.figure.dpi)
        picture = _svg(self.figure, self.name, words)
        under_pointer = "".join([*self._slices(), *self._circles()])
        picture = picture.replace("</svg>", f"{under_pointer}</svg>")
        return Drawing(self.title, self.unit, picture, self.figure, self.keys, self.text)

    def _slices(self) -> Iterable[str]:
        """Upright stripes from one place to the next, with the values there as their titles."""
        places = sorted(self._columns)
        size = -(-len(places) // MAX_SLICES) or 1
        groups = [places[start : start + size] for start in range(0, len(places), size)]
        middles = [sum(group) / len(group) for group in groups]
        low, high = sorted(self.axes.get_xlim())
        ends = [low, *((a + b) / 2 for a, b in pairwise(middles)), high]
        for group, bounds in zip(groups, pairwise(ends), strict=False):
            left, right = (min(max(bound, low), high) for bound in bounds)
            x, bottom = self._place(left, self.axes.get_ylim()[0])
            beyond, top = self._place(right, self.axes.get_ylim()[1])
            last = group[-1]
            where = self.place_names.get(last) or f"{last:,.6g}"
            words = "\n".join([f"{self.x} {where}".strip(), *self._columns[last]])
            yield (
                f'<rect class="hit" x="{x:.1f}" y="{min(top, bottom):.1f}" '
                f'width="{beyond - x:.1f}" height="{abs(bottom - top):.1f}">{_title(words)}</rect>'
            )

    def _circles(self) -> Iterable[str]:
        """Circles around points, with their words as titles."""
        for x, y, words in self._spots:
            left, top = self._place(x, y)
            place = f'cx="{left:.1f}" cy="{top:.1f}" r="7"'
            yield f'<circle class="hit" {place}>{_title(words)}</circle>'

    def _place(self, x: float, y: float) -> tuple[float, float]:
        """Where a point of the axes is in the SVG, which has 72 units an inch and begins above."""
        left, bottom = self.axes.transData.transform((x, y)) * 72 / self.figure.dpi
        return float(left), float(self.figure.get_figheight() * 72 - bottom)


def _title(words: str) -> str:
    from markupsafe import escape

    return f"<title>{escape(words)}</title>"


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
    axes.tick_params(colors=INK, labelsize=FONT_SIZE, length=0, pad=5)
    axes.xaxis.set_major_locator(MaxNLocator(max(5, round(width)), steps=[1, 2, 2.5, 5, 10]))
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
        name = re.sub(r"((?!-\d)[^a-z0-9.])+", "_", plain(drawing.title).lower()).strip("_.")[:80]
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
