"""Lines and markers that lie on one another in a picture: both are to be seen.

A line on an earlier one becomes dashed, so that the earlier one shows through, and its markers
open; a single marker on an earlier one becomes an open and larger ring around it.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

Points = npt.NDArray[np.float64]

NEAR = 1.0
"""Lines closer than this, in points of 1/72 inch, cannot be told apart."""
SHARE = 0.6
"""Of its points, from which on a line lies on another."""
MARKER_NEAR = 4.0
RING = 5.0
"""How much larger than the last ring the next one is."""


def separate(axes: "Axes", lines: Sequence["Line2D"], *, dpi: float) -> None:
    """Change those of `lines`, in the order of drawing, that lie on an earlier one."""
    axes.autoscale_view()  # else the limits are those of before
    drawn: list[tuple[Points, bool]] = []
    for line in lines:
        points, is_cross = _points(axes, line) * 72 / dpi, line.get_marker() == "x"
        # A cross and a filled marker do not hide each other.
        num_below = sum(_is_on(points, other) for other, kind in drawn if kind == is_cross)
        drawn.append((points, is_cross))
        if not num_below:
            continue
        if line.get_marker() not in ("", "None", None):
            line.set_markerfacecolor("none")
            line.set_markeredgewidth(1.4)
            larger = RING * num_below if len(points) == 1 else RING / 2
            line.set_markersize(line.get_markersize() + larger)
        if len(points) > 1 and line.get_linestyle() != "None":
            line.set_linestyle((0, (3, 2.5 + 2.5 * min(num_below, 3))))


def _points(axes: "Axes", line: "Line2D") -> Points:
    """[num_points, 2] in pixels, without NaN."""
    xy = np.column_stack([np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)])
    shown: Points = axes.transData.transform(xy)
    return shown[np.isfinite(shown).all(1)]


def _is_on(points: Points, other: Points) -> bool:
    """Whether most of the points lie on `other`, a marker or a line."""
    if not len(points) or not len(other):
        return False
    if len(points) == 1 or len(other) == 1:
        gaps = np.linalg.norm(points[:, None] - other[None], axis=-1).min(1)
        return len(points) == 1 and bool((gaps < MARKER_NEAR).all())
    if (np.diff(other[:, 0]) > 0).all():
        inside = (points[:, 0] >= other[0, 0] - NEAR) & (points[:, 0] <= other[-1, 0] + NEAR)
        gaps = np.abs(points[:, 1] - np.interp(points[:, 0], *other.T))
        gaps[~inside] = np.inf
    else:
        gaps = np.linalg.norm(points[:, None] - other[None], axis=-1).min(1)
    return bool((gaps < NEAR).mean() >= SHARE)
