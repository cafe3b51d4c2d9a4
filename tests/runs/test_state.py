"""training_state.json: hostile content is refused, version 1 is read as it was written."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sharpgpt.config import TrainingConfig
from sharpgpt.runs.checkpoint import Checkpoint, DamagedCheckpointError
from sharpgpt.runs.state import RowSums, read_state
from tests.compatibility.make_fixtures import FIXTURES
from tests.runs.broken_checkpoints import (
    newest,
    reseal,
)

pytestmark = pytest.mark.usefixtures("quick_runs")
MakeConfig = Callable[..., TrainingConfig]


def test_the_state_of_version_1_has_the_same_sums_by_name() -> None:
    path = FIXTURES / "runs" / "muon" / "checkpoints" / "step_00000008"
    state = Checkpoint.verified(path).state
    rows = json.loads((path / "training_state.json").read_text(encoding="utf-8"))["window"]["rows"]
    (num_rows,) = rows["num_rows"]
    names = "loss", "ce_loss", "penalty", "avg_max_prob", "entropy", "top_k_mass", "accuracy"
    named = zip(names, rows["sums"], strict=True)
    assert state.window.rows.pairs() == {name: (total, num_rows) for name, total in named}
    assert state.window.rows.histogram == rows["histogram"]


def test_a_link_is_no_state(checkpoints: Path, tmp_path: Path) -> None:
    path = newest(checkpoints) / "training_state.json"
    path.rename(tmp_path / "state")
    path.symlink_to(tmp_path / "state")
    with pytest.raises(ValueError, match="is no plain file"):
        read_state(newest(checkpoints))


def test_a_sum_that_is_not_finite_stays_so() -> None:
    rows = RowSums.of({"loss": (math.nan, 8.0), "entropy": (2.5, 4.0)}, [0] * 20)
    again = RowSums.model_validate_json(rows.model_dump_json()).pairs()
    assert math.isnan(again["loss"][0])
    assert again["entropy"] == (2.5, 4.0)


NESTED: list[Any] = []

for _ in range(200):
    NESTED = [NESTED]


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("step",), -1), (("step",), 1.5), (("step",), "6"), (("step",), True), (("step",), 7),
        (("step",), 10**30), (("step",), None), (("next_block",), 10**400), (("next_block",), -8),
        (("config",), 3), (("config",), {"seed": {"a": 1}}), (("config",), {"seed": NESTED}),
        (("config", "seed"), float("nan")), (("text",), 5), (("text",), None),
        (("window", "seconds"), float("inf")), (("window", "seconds"), -1.0),
        (("window", "rows"), {}), (("window", "rows", "sums"), [0.0]),
        (("window", "rows", "sums"), NESTED), (("window", "rows", "num_rows"), ["8"]),
        (("window", "rows"), {"sums": [0.0] * 7, "num_rows": ["8"], "histogram": [0.0] * 20}),
        (("window", "rows"), {"sums": ["0"] * 7, "num_rows": [8.0], "histogram": [0.0] * 20}),
        (("window", "rows"), {"sums": [0.0] * 7, "num_rows": [8.0], "histogram": [0.0] * 9}),
        (("window", "rows", "sums", "loss"), 1.0), (("window", "rows", "histogram"), [-1.0] * 20),
        (("window", "rows", "sums", "loss"), {"sum": 1.0, "num_rows": -1.0}),
        (("format_version",), 0), (("format_version",), "2"),
        (("window", "num_steps"), 1e300), (("watch", "losses"), [0.0] * 1000),
        (("watch", "losses"), [float("nan")]), (("watch", "in_spike"), "yes"),
        (("unheard_of",), 1), (("watch", "unheard_of"), 1),
    ],
)  # fmt: skip
def test_a_state_of_hostile_content_is_refused(
    checkpoints: Path, place: tuple[str, ...], value: Any
) -> None:
    path = newest(checkpoints) / "training_state.json"
    state = inner = json.loads(path.read_text(encoding="utf-8"))
    for name in place[:-1]:
        inner = inner[name]
    inner[place[-1]] = value
    path.write_text(json.dumps(state), encoding="utf-8")
    reseal(newest(checkpoints))
    with pytest.raises(DamagedCheckpointError, match=r"cannot be used: training_state.json: "):
        Checkpoint.verified(newest(checkpoints))
