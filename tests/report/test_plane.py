"""The plane of cross-entropy and entropy: where its line is drawn, and what is in the picture."""

from typing import Any

import numpy as np

from sharpgpt.report.arms import Arm, arms_of
from sharpgpt.report.plane import plane, smooth_curve
from tests.report.test_comparison import arm, evaluation


def test_the_curve_is_drawn_where_it_is_and_not_along_its_chords() -> None:
    def at(x: Any) -> tuple[Any, Any]:
        return 1.8 + np.tanh(2 * x), 1.9 + 0.1 * x**2 * (1 + x)

    x = np.log(2) / 16 * np.arange(-20.0, 13.0)
    drawn = smooth_curve([*zip(np.exp(x), *at(x), strict=True)], num_between=4)
    truth = at(np.linspace(x[0], x[-1], 100_001))
    assert len(drawn[1]) == 4 * 32 + 1
    assert np.abs(drawn[1] - np.interp(drawn[0], *truth)).max() < 5e-6
    assert np.abs(np.interp(truth[0], *at(x)) - truth[1]).max() > 5e-5


def test_the_line_is_in_the_picture_at_the_entropy_of_each_arm() -> None:
    """Otherwise nobody could tell whether an arm is above or below it."""
    content = arm("neg_entropy", 0.1, "worse", 0.02)
    content["point"] = {"entropy": 1.0, "ce": 2.5}
    baseline = Arm("baseline", 0, 1.0, [evaluation("base")], {})
    drawing = plane(baseline, arms_of([content]))
    assert drawing is not None
    bottom, top = drawing.figure.axes[0].get_ylim()
    assert bottom < 1.9 + (1.0 / 1.9 - 1) ** 2 / 4 < 2.5 < top


def test_round_temperatures_are_named_however_little_of_the_curve_is_shown() -> None:
    """Of a fixed list none might lie in the picture."""
    base = evaluation("base")
    base["temperature"]["curve"] = [
        {"temperature": t, "entropy": 1.9 * t, "ce": 1.9 + (t - 1) ** 2 / 4}
        for t in (2 ** (-k / 16) for k in range(-32, 33))
    ]
    baseline = Arm("baseline", 0, 1.0, [base], {})
    for entropies in ((1.0, 2.2), (1.85, 1.95)):
        arms = []
        for entropy in entropies:
            content = arm("neg_entropy", 0.1, "worse", 0.02)
            content["point"] = {"entropy": entropy, "ce": 1.9 + (entropy / 1.9 - 1) ** 2 / 4}
            arms.append(content)
        drawing = plane(baseline, arms_of(arms))
        assert drawing is not None
        texts = [one.get_text() for one in drawing.figure.axes[0].texts]
        named = [float(text.removeprefix("T = ")) for text in texts if text.startswith("T")]
        assert len(named) >= 3
        assert 1.0 in named
        assert all(value == round(value, 2) for value in named), named


def test_strange_temperatures_and_baselines_are_left_out() -> None:
    """In somebody's evaluation.json a temperature of 0 was a ValueError."""
    content = arm("neg_entropy", 0.1, "worse", 0.02)
    content["point"] = {"entropy": 1.0, "ce": 2.5}
    content["baselines"] = 7
    found = evaluation("base")
    curve = found["temperature"]["curve"]
    plain = plane(Arm("baseline", 0, 1.0, [found], {}), arms_of([content]))
    strange = [{**curve[0], "temperature": t} for t in (0, -1, 1e-9, "x", None, float("inf"))]
    found["temperature"]["curve"] = [*curve, *strange]
    drawing = plane(Arm("baseline", 0, 1.0, [found], {}), arms_of([content]))
    assert drawing is not None
    assert plain is not None
    assert drawing.svg == plain.svg
