"""Real training processes on a CPU: started, watched, killed, started again, and compared.

`TrainingProcess` is one `python train.py`. `Scenario` is the run that it works on: settings and a
run folder, which a later process resumes. `differences` tells what differs between what two runs
have left, times and the names of their folders aside.
"""

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from sharpgpt.commands.main import train_command
from tests.conftest import make_runs_quick
from tests.forked_python import ForkedPython, fresh_python

REPOSITORY = Path(__file__).resolve().parents[2]
RUN_NAME = "run"
TIMES = ("time_s", "train/tokens_per_s", "train/mfu")
NOT_THE_RUN = ("output_dir", "checkpoint_dir", "resume", "use_wandb", "wandb_mode")
"""Settings that say where a run lies and who else looks on."""

SETTINGS: dict[str, Any] = {
    "tokenizer": "char",
    "n_layer": 1,
    "n_head": 2,
    "n_embd": 16,
    "max_seq_length": 16,
    "batch_size": 2,
    "gradient_accumulation_steps": 2,
    "dropout": 0.1,
    "max_steps": 40,
    "learning_rate": 3e-3,
    "warmup_steps": 5,
    "penalty_type": "neg_entropy",
    "penalty_weight": 0.1,
    "penalty_warmup_steps": 10,
    "penalty_schedule": "cosine",
    "penalty_final_ratio": 0.5,
    "log_interval": 1,
    "eval_interval": 10,
    "eval_max_blocks": 4,
    "generate_interval": 8,
    "num_generate_samples": 1,
    "generate_max_length": 8,
    "save_interval": 5,
    "keep_every_steps": 20,
    "num_workers": 2,
    "use_wandb": False,
    "device": "cpu",
    "run_name": RUN_NAME,
}
"""A model that makes a step in a few milliseconds, with everything on that has a state."""


def write_text_file(path: Path) -> Path:
    """A text of some 20 KB with a few dozen distinct characters, always the same."""
    words = ("to", "be", "or", "not", "that", "is", "the", "question", "Slings", "and", "Arrows")
    state, lines = 1, []
    for _ in range(400):
        line = []
        for _ in range(9):
            state = state * 1103515245 % 2**31 + 12345
            line.append(words[state // 65536 % len(words)])
        lines.append(" ".join(line).capitalize() + ".")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def command_here(command: Callable[[list[str]], int], argv: list[str]) -> tuple[int, str]:
    """A command called in this process: its exit code, and what it printed, errors included."""
    # Not a StringIO: like a real stream it refuses what has no UTF-8.
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
        try:
            code = command(argv)
        except SystemExit as end:  # --help, and argparse
            code = end.code if isinstance(end.code, int) else 1
    printed = stream.buffer.getvalue().decode()  # type: ignore[attr-defined]
    return code, printed


def flags(settings: Mapping[str, Any]) -> list[str]:
    """Settings as a command line."""
    return [f"--{name}={value}" for name, value in settings.items()]


class TrainingProcess:
    """`python train.py` with these settings; what it prints goes to the file `output`.

    `launcher` is what stands between the two words, such as `-m torch.distributed.run`. `is_fresh`
    is for a test of the start itself; the other processes have imported torch before they begin.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        *,
        environment: Mapping[str, str],
        output: Path,
        launcher: tuple[str, ...] = (),
        is_fresh: bool = False,
    ) -> None:
        self.output = output
        start = fresh_python if is_fresh else ForkedPython
        with open(output, "wb") as file:
            self.process = start(
                [*launcher, "train.py", *flags(settings)],
                cwd=REPOSITORY, env=dict(environment), stdin=subprocess.DEVNULL,
                stdout=file, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def __enter__(self) -> "TrainingProcess":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def printed(self) -> str:
        """Everything that it has printed so far, on stdout and stderr."""
        return self.output.read_text(encoding="utf-8", errors="replace")

    def step(self) -> int:
        """The last step that this process has logged; 0 before the first."""
        with open(self.output, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 2000))
            found = re.findall(rb"^step (\d+)/", file.read(), re.MULTILINE)
        return int(found[-1]) if found else 0

    def wait_for(self, condition: Callable[[], Any], timeout_s: float = 120) -> bool:
        """Wait until `condition()` is true, and return True; False if the process ends before."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            if self.process.poll() is not None:
                return bool(condition())
            if time.monotonic() > deadline:
                raise AssertionError(f"nothing for {timeout_s} s; printed:\n{self.printed()}")
            time.sleep(0.002)
        return True

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def wait(self, timeout_s: float = 180) -> int:
        """The exit code, negative for a signal that was not handled; no traceback was printed."""
        code = self.process.wait(timeout_s)
        assert "Traceback" not in self.printed(), self.printed()
        return code


@dataclass
class Scenario:
    """One run, which several processes work on one after the other."""

    folder: Path
    environment: Mapping[str, str]
    settings: dict[str, Any] = field(default_factory=dict)
    num_processes: int = 0

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        text = self.folder.parent / "text.txt"
        if not text.exists():
            write_text_file(text)
        places = {"dataset": str(text), "output_dir": str(self.folder / "out"), "resume": "auto"}
        self.settings = SETTINGS | places | self.settings

    @property
    def run_folder(self) -> Path:
        return Path(self.settings["output_dir"]) / self.settings["run_name"]

    @property
    def checkpoints(self) -> Path:
        if "checkpoint_dir" in self.settings:
            return Path(self.settings["checkpoint_dir"]) / self.settings["run_name"]
        return self.run_folder / "checkpoints"

    def start(
        self,
        faults: str = "",
        *,
        launcher: tuple[str, ...] = (),
        is_fresh: bool = False,
        **changes: Any,
    ) -> TrainingProcess:
        """The next process; `faults` as injected.py reads them."""
        self.num_processes += 1
        for name in ("held", "go"):
            (self.folder / name).unlink(missing_ok=True)
        environment = {
            **self.environment,
            "PYTHONPATH": str(Path(__file__).parent),
            "INJECTED_FAULTS": faults,
            "INJECTED_FOLDER": str(self.folder),
        }
        return TrainingProcess(
            self.settings | changes,
            environment=environment,
            output=self.folder / f"process_{self.num_processes:03d}.txt",
            launcher=launcher,
            is_fresh=is_fresh,
        )

    def is_held(self) -> bool:
        """Whether the process waits in the middle of a step."""
        return (self.folder / "held").exists()

    def let_go(self) -> None:
        (self.folder / "go").touch()

    def finish(self, *, here: bool = False, **changes: Any) -> str:
        """Run to the end, and return what was printed; `here` is in this very process, not a new
        one, which saves the seconds of its start."""
        if here:
            code, printed = self.run_here(**changes)
        else:
            with self.start(**changes) as process:
                code, printed = process.wait(), process.printed()
        assert code == 0, printed
        return printed

    def run_here(self, **changes: Any) -> tuple[int, str]:
        """The training command in this process: its exit code, and what it printed. The report is
        a blank page."""
        with pytest.MonkeyPatch.context() as patch:
            make_runs_quick(patch)
            return command_here(train_command, flags(self.settings | changes))

    def work_in_progress(self) -> list[Path]:
        """Folders beside the checkpoints: one that is being written or removed."""
        with contextlib.suppress(OSError):
            return [path for path in self.checkpoints.iterdir() if path.name.startswith(".")]
        return []

    def saved_steps(self) -> list[int]:
        """The steps of the checkpoints that are there, whole or not."""
        return sorted(
            int(path.name.removeprefix("step_")) for path in self.checkpoints.glob("step_*")
        )


def differences(first: Path, second: Path, *, last_checkpoint_alone: bool = False) -> list[str]:
    """What differs between two run folders, in words; nothing for runs that are the same.

    Compared are the names of all files; every byte of models, optimizer states and tokenizers;
    every field of states, metrics, samples and summaries but times and places. With
    `last_checkpoint_alone` it is no matter which earlier checkpoints there are.
    """
    found = []
    names, others = _names(first), _names(second)
    if last_checkpoint_alone:
        names, others = _with_last_checkpoint(names), _with_last_checkpoint(others)
    if names != others:
        found.append(f"files: {sorted(names ^ others)} are in one alone")
    for name in sorted(names & others):
        a, b = _comparable(first / name), _comparable(second / name)
        if a != b:
            found.append(f"{name}: {_first_difference(a, b)}")
    return found


NOT_COMPARED = {"log.txt", "report.html", "environment.json", "config.yaml"}


def _names(run_folder: Path) -> set[str]:
    """Every file, the W&B folder and records that were set aside left out."""
    paths = (path.relative_to(run_folder) for path in run_folder.rglob("*") if not path.is_dir())
    return {str(path) for path in paths if path.parts[0] != "wandb" and ".before-" not in path.name}


def _with_last_checkpoint(names: set[str]) -> set[str]:
    last = max(re.findall(r"checkpoints/step_\d+/", "\n".join(names)), default="")
    return {name for name in names if not name.startswith("checkpoints/") or last in name}


def _comparable(path: Path) -> Any:
    """What counts in a file: JSON without times and places, and otherwise its bytes."""
    if path.name in NOT_COMPARED:
        return None
    data = path.read_bytes()
    if path.name in ("metrics.jsonl", "samples.jsonl"):
        events = [json.loads(line) for line in data.decode().split("\n")[:-1]]
        assert data.endswith(b"\n") or not data
        return [{name: v for name, v in event.items() if name not in TIMES} for event in events]
    if path.name == "summary.json":
        dropped = {*TIMES, "startup_s"}
        return {name: v for name, v in json.loads(data).items() if name not in dropped}
    if path.name == "training_state.json":
        state = json.loads(data)
        for name in NOT_THE_RUN:
            state["config"].pop(name, None)
        state["window"].pop("seconds")
        return state
    if path.name == "checkpoint.json":
        manifest = json.loads(data)
        manifest.pop("manifest_sha256")
        manifest["files"].pop("training_state.json")
        return manifest
    return data


def _first_difference(a: Any, b: Any, place: str = "") -> str:
    if isinstance(a, dict) and isinstance(b, dict):
        for name in [*a, *b]:
            if name not in a or name not in b:
                return f"{place}.{name} is in one alone"
            if a[name] != b[name]:
                return _first_difference(a[name], b[name], f"{place}.{name}")
    if isinstance(a, list) and isinstance(b, list):
        for number, (x, y) in enumerate(zip(a, b, strict=False)):
            if x != y:
                return _first_difference(x, y, f"{place}[{number}]")
        return f"{place} has {len(a)} and {len(b)} entries"
    if isinstance(a, bytes) and isinstance(b, bytes):
        places = [number for number, (x, y) in enumerate(zip(a, b, strict=False)) if x != y]
        return f"{len(a)} and {len(b)} bytes, {len(places)} of them differ"
    return f"{place}: {a!r:.100} and {b!r:.100}"


def repeated_steps(run_folder: Path) -> list[tuple[int, str]]:
    """What stands more than once, or in the wrong order, in metrics.jsonl: (step, split)."""
    found, last = [], (0, "")
    for line in (run_folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        event = json.loads(line)
        this = (event["step"], "train" if "train/loss" in event else "val")
        if this <= last:
            found.append(this)
        last = this
    return found
