"""The registry of metrics: names are unique, statistics exist, docs list exactly what is logged."""

import re
from collections import Counter
from pathlib import Path

import torch

from sharpgpt.core.metrics import (
    MAX_PROB_HISTOGRAM,
    METRICS,
    OVER_WORDS,
    ROW_MEANS,
    console_line,
)
from sharpgpt.model.row_means import row_statistics
from sharpgpt.runs.state import SUMS_OF_VERSION_1
from sharpgpt.sharpness import SharpnessOutput

ROOT = Path(__file__).parents[2]


def test_names_and_labels_are_unique() -> None:
    for words in ([m.name for m in METRICS], [m.label for m in METRICS]):
        assert max(Counter(words).values()) == 1


def test_row_means_are_fields_of_the_output() -> None:
    output = SharpnessOutput(*map(torch.tensor, range(10)))
    statistics = row_statistics(output, penalty_weight=0.5, z_loss_weight=0.1)
    assert {metric.statistic for metric in ROW_MEANS} <= statistics.keys()
    assert set(SUMS_OF_VERSION_1) <= {metric.name for metric in ROW_MEANS}


def test_the_console_lines_have_a_format_for_each_metric() -> None:
    values = {name: 2.0 for metric in METRICS for name in metric.logged_names}
    train, val = (console_line(values, split).split("  ") for split in ("train", "val"))
    assert {"CE 2.0000", "penalty 2.0000", "max p 2.0000", "lr 2.000", "2 tokens/s"} <= {*train}
    assert {"CE 2.0000", "perplexity 2.00", "max p 2.0000", "entropy 2.0000"} <= {*val}
    assert all("2" in part for part in (*train, *val))


def test_the_documentation_lists_exactly_the_registry() -> None:
    text = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| ([^|]*) \| ([^|]*) \| ([^|]*) \| ([^|]*) \|", text, re.M)
    assert rows == [
        (one.name, ", ".join(one.splits), one.unit, OVER_WORDS[one.over], one.meaning)
        for one in METRICS
    ]


def test_no_page_names_a_metric_that_is_not_logged() -> None:
    logged = {name for metric in METRICS for name in metric.logged_names} | {MAX_PROB_HISTOGRAM}
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        named = set(re.findall(r"`((?:train|val)/[a-z_]+)`", page.read_text(encoding="utf-8")))
        assert named <= logged, page
