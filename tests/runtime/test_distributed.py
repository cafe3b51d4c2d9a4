"""Two processes as torchrun starts them, over gloo."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sharpgpt.core.errors import UserError
from sharpgpt.runtime.distributed import Processes, place_from_environment

SCRIPT = """
import json, sys, torch
from sharpgpt.runtime.distributed import joined

with joined("cpu") as processes:
    cpu = torch.device("cpu")
    mine = torch.tensor([1.0, 10.0 * processes.rank])
    found = {
        "total": processes.total(mine).tolist(),
        "mine": mine.tolist(),
        "largest": processes.largest(processes.rank, 15 - processes.rank, 0),
        "text": processes.text_from_first(f"from {processes.rank}: é", cpu),
        "empty": processes.text_from_first("", cpu),
    }
    order = []
    processes.first_before_others(lambda: order.append(processes.rank))
    found["order"] = order
    with open(f"{sys.argv[1]}/{processes.rank}.json", "w") as file:
        json.dump(found, file)
"""


def test_two_processes_agree(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [
        sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone",
        "--nproc_per_node=2", str(tmp_path / "script.py"), str(tmp_path),
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    for rank in (0, 1):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == {
            "total": [2.0, 10.0],
            "mine": [1.0, 10.0 * rank],
            "largest": [1, 15, 0],
            "text": "from 0: é",
            "empty": "",
            "order": [rank],
        }


def test_one_process_needs_nobody() -> None:
    alone = Processes()
    values = torch.tensor([1.0])
    assert alone.is_first
    assert alone.total(values) is values
    assert alone.largest(0, 15) == [0, 15]
    alone.wait()
    assert alone.text_from_first("x", values.device) == "x"
    assert alone.first_before_others(lambda: 3) == 3


@pytest.mark.parametrize("places", [{"RANK": "2", "WORLD_SIZE": "2"}, {"RANK": "x"}])
def test_a_place_that_cannot_be_is_refused(
    places: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in places.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="start with torchrun"):
        place_from_environment()
