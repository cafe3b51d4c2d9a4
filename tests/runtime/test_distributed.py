"""Two processes as torchrun starts them, over gloo."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sharpgpt.core.errors import UserError
from sharpgpt.runtime.distributed import Processes, ranks_from_environment

SCRIPT = """
import json, sys, torch
from sharpgpt.runtime.distributed import process_group

with process_group("cpu") as processes:
    mine = torch.tensor([1.0, 10.0 * processes.rank])
    found = {
        "total": processes.all_reduce_sum(mine).tolist(),
        "mine": mine.tolist(),
        "largest": processes.all_reduce_max(processes.rank, 15 - processes.rank, 0),
        "text": processes.broadcast(f"from {processes.rank}: é"),
        "objects": processes.broadcast([processes.rank, None]),
    }
    order = []
    processes.main_first(lambda: order.append(processes.rank))
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
            "objects": [0, None],
            "order": [rank],
        }


def test_one_process_alone() -> None:
    alone = Processes()
    values = torch.tensor([1.0])
    assert alone.is_main
    assert alone.all_reduce_sum(values) is values
    assert alone.all_reduce_max(0, 15) == [0, 15]
    alone.barrier()
    assert alone.broadcast("x") == "x"
    assert alone.main_first(lambda: 3) == 3


@pytest.mark.parametrize("places", [{"RANK": "2", "WORLD_SIZE": "2"}, {"RANK": "x"}])
def test_contradicting_ranks_are_refused(
    places: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in places.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="start with torchrun"):
        ranks_from_environment()
