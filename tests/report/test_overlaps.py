"""What lies on something else in a picture can be seen."""

from sharpgpt.report.drawing import Chart


def _drawn(*series: list[tuple[float, float]], **style: object) -> list[tuple[str, float, str]]:
    """(marker face, marker size, line style) of each series after drawing."""
    chart = Chart("Test")
    for points in series:
        chart.line(points, marker="o", markersize=5, color="#2c6cb5", **style)
    chart.sentences.append("Drawn.")
    assert chart.drawing() is not None
    return [
        (str(line.get_markerfacecolor()), line.get_markersize(), str(line.get_linestyle()))
        for line in chart.axes.lines
    ]


def test_coincident_markers_become_rings() -> None:
    """Two models with the same values were one dot."""
    first, second, third, apart = _drawn([(1, 1)], [(1, 1)], [(1.0001, 1)], [(2, 5)])
    assert first[:2] == apart[:2] == ("#2c6cb5", 5)
    assert second[:2] == ("none", 10)
    assert third[:2] == ("none", 15)


def test_a_line_on_another_is_dashed() -> None:
    """`non_max_sum` and `neg_max_prob` train the same model: the later hid the earlier."""
    line = [(float(x), float(x * x)) for x in range(10)]
    higher = [(x, y + 20) for x, y in line]
    first, second, third = _drawn(line, line[::2], higher)
    assert (first[0], first[2]) == (third[0], third[2]) == ("#2c6cb5", "-")
    assert (second[0], second[2]) == ("none", "--")


def test_a_point_on_a_line_stays_a_dot() -> None:
    line = [(float(x), float(x)) for x in range(5)]
    assert _drawn(line, [(2.5, 2.5)])[1][:2] == ("#2c6cb5", 5)
