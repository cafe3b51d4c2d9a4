"""A penalty that misbehaves when told to, for processes started by the harness.

    python train.py --penalty_type injected:PENALTY    with this folder in PYTHONPATH

It is `non_max_sum`, and each call of its gradient lies in the backward pass of one micro-batch, so
its calls are the middles of the steps. INJECTED_FAULTS names what happens at which call of this
process, such as `hold@9,nan@13`:

    hold   make the file `held` in the folder INJECTED_FOLDER; wait there until `go` appears
    nan    give a gradient that is not a number
    slow   from this call on take 20 ms for each
"""

import os
import time
from pathlib import Path

import torch
from torch import Tensor

from sharpgpt.sharpness.penalties import PENALTIES, Penalty

HOLD_AT_MOST_S = 120
SLOW_S = 0.02


class Faults:
    """What happens at which call."""

    def __init__(self) -> None:
        self.folder = Path(os.environ.get("INJECTED_FOLDER", "."))
        self.plan(os.environ.get("INJECTED_FAULTS", ""))

    def plan(self, text: str) -> None:
        """Begin to count calls, with these faults to come."""
        entries = (entry.split("@") for entry in text.split(",") if entry)
        self.faults = [(name, int(call)) for name, call in entries]
        self.num_calls = 0

    def gradient(self, probs_NV: Tensor, log_probs_NV: Tensor, top_k: int) -> Tensor:
        gradient_NV = PENALTIES["non_max_sum"].gradient(probs_NV, log_probs_NV, top_k)
        self.num_calls += 1
        for name, call in self.faults:
            if name == "slow" and self.num_calls >= call:
                time.sleep(SLOW_S)
            elif self.num_calls == call and name == "hold":
                self.hold()
            elif self.num_calls == call and name == "nan":
                return torch.full_like(gradient_NV, torch.nan)
        return gradient_NV

    def hold(self) -> None:
        (self.folder / "held").touch()
        deadline = time.monotonic() + HOLD_AT_MOST_S
        while not (self.folder / "go").exists() and time.monotonic() < deadline:
            time.sleep(0.005)


FAULTS = Faults()
PENALTY = Penalty(value=PENALTIES["non_max_sum"].value, gradient=FAULTS.gradient)
