import math
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from sharpgpt.core.errors import UserError
from sharpgpt.core.metrics import METRICS
from sharpgpt.report.drawing import CSS_COLOURS, own_settings, save_all
from sharpgpt.report.plots import Plot, draw, draw_histogram, plots
from sharpgpt.runs.reader import Column, Metrics, read_metrics

LOSS = Plot("Loss", "nats", (("train/loss", "train"), ("val/loss", "validation")))


def _curves(svg: str) -> list[int]:
    """The number of points of each curve, in the order of drawing."""
    root = ET.fromstring(svg)
    curves = []
    for path in root.iter("path"):
        if "stroke: var(--series" in path.get("style", "") and path.get("clip-path"):
            curves.append(len(re.findall("[ML]", path.get("d", ""))))
    return curves


def test_curves_are_valid_svg_in_the_colours_of_the_page() -> None:
    metrics = Metrics(
        {"train/loss": Column([1, 2, 3], [5.0, 4.0, 4.5]), "val/loss": Column([3], [4.75])}, []
    )
    drawing = draw(LOSS, metrics)
    assert drawing is not None
    root = ET.fromstring(drawing.svg)
    assert root.tag == "svg"
    assert root.get("role") == "img"
    assert root.get("aria-label") == (
        "Loss. Train: from 5.000 at step 1 to 4.500 at step 3, lowest 4.000, highest 5.000. "
        "Validation: from 4.750 at step 3 to 4.750 at step 3, lowest 4.750, highest 4.750."
    )
    assert _curves(drawing.svg) == [3, 1]
    assert "var(--series-1)" in drawing.svg
    assert "var(--series-2)" in drawing.svg
    left_over = re.findall(r"#[0-9a-f]{6}\b", drawing.svg)
    assert left_over == [], "a colour that does not follow light and dark"
    assert not any(placeholder in drawing.svg for placeholder in CSS_COLOURS)
    assert "DejaVu" not in drawing.svg
    assert "<style" not in drawing.svg, "would apply to the whole page"
    assert [(key.label, key.value) for key in drawing.keys] == [
        ("train", "4.500"),
        ("validation", "4.750"),
    ]


def test_nan_is_a_gap_and_is_said() -> None:
    values = [5.0, math.nan, 4.0, math.inf, 3.0]
    metrics = Metrics({"train/loss": Column([1, 2, 3, 4, 5], values)}, [])
    drawing = draw(LOSS, metrics)
    assert drawing is not None
    assert _curves(drawing.svg) == [3]
    assert re.search(r"lowest 3.000, highest 5.000. NaN or infinite: 2 values", drawing.svg)


@pytest.mark.parametrize(
    "values", [[math.nan, math.nan], [math.inf], []], ids=["nan", "inf", "empty"]
)
def test_nothing_finite_is_no_picture(values) -> None:
    metrics = Metrics({"train/loss": Column(list(range(len(values))), values)}, [])
    assert draw(LOSS, metrics) is None


@pytest.mark.parametrize("value", [0.0, -2.0, 1e300, 1e-300])
def test_extreme_values_are_drawn_on_either_scale(value) -> None:
    for log in (False, True):
        metrics = Metrics({"train/loss": Column([1, 2], [1.0, value])}, [])
        drawing = draw(Plot("Loss", "", (("train/loss", ""),), log=log), metrics)
        assert drawing is not None
        assert _curves(drawing.svg) == [2]


def test_the_histogram_shows_the_last_and_the_first(made_up_run) -> None:
    metrics = read_metrics(made_up_run / "metrics.jsonl")
    drawing = draw_histogram(metrics)
    assert drawing is not None
    root = ET.fromstring(drawing.svg)
    bars = [p for p in root.iter("path") if "fill: var(--series-1)" in p.get("style", "")]
    assert len(bars) == 20
    # 100 of the 120 counted positions lie in the first of 20 bins.
    assert "fullest bin is 0.00 to 0.05 with 83% of positions" in root.get("aria-label", "")
    assert [key.label for key in drawing.keys] == ["step 100", "step 10"]


def test_no_or_empty_histograms_are_no_picture() -> None:
    assert draw_histogram(Metrics({}, [])) is None
    assert draw_histogram(Metrics({}, [(1, [0.0, 0.0])])) is None


def test_drawing_leaves_matplotlib_as_it_was() -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    assert draw(LOSS, Metrics({"train/loss": Column([1, 2], [2.0, 1.0])}, [])) is not None
    assert dict(matplotlib.rcParams) == before


def test_a_matplotlibrc_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """One in the working folder had LaTeX run; a notebook may have set a font of its own."""
    import matplotlib

    metrics = Metrics({"train/loss": Column([1, 2], [2.0, 1.0])}, [])
    plain = draw(LOSS, metrics)
    monkeypatch.setitem(matplotlib.rcParams, "text.usetex", True)  # type: ignore[arg-type]
    monkeypatch.setitem(matplotlib.rcParams, "lines.linestyle", ":")
    with own_settings():
        drawn = draw(LOSS, metrics)
    assert plain is not None
    assert drawn is not None
    assert drawn.svg == plain.svg
    assert matplotlib.rcParams["text.usetex"] is True


def test_pictures_are_not_written_through_links(tmp_path: Path) -> None:
    """RUN/figures of a downloaded run led elsewhere, where evaluate wrote over files."""
    drawing = draw(LOSS, Metrics({"train/loss": Column([1, 2], [2.0, 1.0])}, []))
    assert drawing is not None
    (tmp_path / "figures").mkdir()
    (tmp_path / "mine").touch()
    for kind in ("svg", "png"):
        (tmp_path / f"figures/loss.{kind}").symlink_to(tmp_path / "mine")
    save_all([drawing], tmp_path / "figures")
    assert (tmp_path / "mine").read_bytes() == b""
    assert b"<svg" in (tmp_path / "figures/loss.svg").read_bytes()
    assert (tmp_path / "figures/loss.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "link").symlink_to(tmp_path / "figures")
    with pytest.raises(UserError, match="link: is a link"):
        save_all([drawing], tmp_path / "link")


def test_each_plot_has_its_own_title() -> None:
    """Titles make the ids of the pictures, which must differ on one page."""
    titles = [plot.title for section in plots({}).values() for plot in section]
    assert len(titles) == len(set(titles)) == sum(metric.section is not None for metric in METRICS)
