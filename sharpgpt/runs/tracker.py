"""The records of a run: metrics.jsonl and samples.jsonl always, Weights & Biases where asked.

One JSON object per line; `step` counts finished optimizer steps, `time_s` seconds since the run
began. A resumed run, and one that is rolled back, drops what lies after its checkpoint, and a last
line that a crash has torn; so each step stands once. W&B's own history cannot be taken back: of
steps that are logged twice it keeps the first version.

A line that cannot be written, as on a full disk, is kept in memory and written before the next one,
before the next checkpoint, or at the end.
"""

import contextlib
import json
import math
import os
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from sharpgpt.core.metrics import MAX_PROB_HISTOGRAM
from sharpgpt.runs.state import DueWork
from sharpgpt.runs.trackers.wandb import WandbRun

MAX_LINES_IN_MEMORY = 10_000


class JsonLines:
    """A file of one JSON object a line. Nothing here raises for want of space."""

    def __init__(self, path: Path, say: Callable[[str], None]) -> None:
        self.path = path
        self._say = say
        self._unwritten: list[str] = []
        self._is_failing = False

    def append(self, event: dict[str, Any]) -> None:
        """Add a line. Figures that are not finite become null."""
        finite = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in event.items()
        }
        self._unwritten.append(json.dumps(finite, ensure_ascii=False, allow_nan=False) + "\n")
        self.flush()

    def flush(self) -> int:
        """Write the lines that are in memory, where it is possible; how many are left there."""
        if not self._unwritten:
            return 0
        try:
            self._write("".join(self._unwritten).encode("utf-8", errors="replace"))
            self._unwritten = []
            self._is_failing = False
        except OSError as error:
            del self._unwritten[:-MAX_LINES_IN_MEMORY]
            if not self._is_failing:
                self._is_failing = True
                self._say(
                    f"NOTE: {self.path} cannot be written ({error.strerror}); the lines are kept "
                    "in memory and written when it can be again"
                )
        return len(self._unwritten)

    def _write(self, data: bytes) -> None:
        """Append all of `data` or, where that fails, none of it."""
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            size = os.fstat(descriptor).st_size
            try:
                while data:
                    data = data[os.write(descriptor, data) :]
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(descriptor, size)
                raise
        finally:
            os.close(descriptor)

    def keep_while(self, is_kept: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
        """Cut the file off at the first event that is not kept; return the events before it.

        A torn last line goes too. Cutting needs no space, so it works on a full disk.
        """
        data = self.path.read_bytes() if self.path.exists() else b""
        events, end = [], 0
        # Not splitlines(): a sample may hold U+2028 and the like, which JSON leaves as they are.
        for line in data.split(b"\n")[:-1]:
            event = _event(line)
            if event is not None:
                if not is_kept(event):
                    break
                events.append(event)
            end += len(line) + 1
        if end < len(data):
            os.truncate(self.path, end)
        in_memory = [(line, json.loads(line)) for line in self._unwritten]
        self._unwritten = [line for line, event in in_memory if is_kept(event)]
        return events + [event for _, event in in_memory if is_kept(event)]


def _event(line: bytes) -> dict[str, Any] | None:
    """The JSON object with a step in a line, or None for anything else."""
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return event if isinstance(event, dict) and isinstance(event.get("step"), int) else None


class RunLog:
    """Writes every event of a run to its files and to W&B.

    `due` is what the run has still to do after `first_step`; it will write those lines again.
    """

    def __init__(
        self,
        run_folder: Path,
        wandb_run: WandbRun | None,
        first_step: int,
        *,
        due: Collection[DueWork] = (),
        say: Callable[[str], None] = print,
    ) -> None:
        self.metrics = JsonLines(run_folder / "metrics.jsonl", say)
        self.samples = JsonLines(run_folder / "samples.jsonl", say)
        self._say = say
        self.latest: dict[str, float] = {}
        self._wandb = wandb_run
        kept = self.keep_until(first_step, due=due)
        elapsed_s = kept[-1].get("time_s") if kept else 0.0
        self._began = time.monotonic() - (elapsed_s if isinstance(elapsed_s, float | int) else 0.0)

    def keep_until(self, step: int, *, due: Collection[DueWork] = ()) -> list[dict[str, Any]]:
        """Drop all events after `step`, and those of `due` at `step`; return the metrics kept."""

        def is_kept(event: dict[str, Any], will_come_again: bool) -> bool:
            at: int = event["step"]
            return at < step or (at == step and not will_come_again)

        self.samples.keep_while(lambda event: is_kept(event, "sample" in due))
        kept = self.metrics.keep_while(
            lambda event: is_kept(event, "validate" in due and "val/loss" in event)
        )
        self.latest = {
            name: value
            for event in kept
            for name, value in event.items()
            if "/" in name and isinstance(value, float)
        }
        return kept

    def log(self, step: int, metrics: dict[str, float], histogram: list[int] | None = None) -> None:
        """One event; `histogram` counts the rows by their largest probability."""
        self.latest |= metrics
        event: dict[str, Any] = {"step": step, "time_s": round(self.elapsed_s(), 3), **metrics}
        if histogram is not None:
            event[MAX_PROB_HISTOGRAM] = histogram
        self.metrics.append(event)
        if self._wandb:
            self._wandb.log(step, metrics)
            if histogram is not None:
                self._wandb.log_histogram(step, MAX_PROB_HISTOGRAM, histogram)

    def log_samples(
        self, step: int, prompt: str, texts: list[str], settings: dict[str, Any]
    ) -> None:
        """Generated texts with how they were made."""
        samples = [
            {"step": step, "prompt": prompt, "text": text, "settings": settings} for text in texts
        ]
        for sample in samples:
            self.samples.append(sample)
        if self._wandb:
            self._wandb.log_samples(step, samples)

    def flush(self) -> None:
        """Write what could not be written, where it can be now; before each checkpoint, which is
        past these lines."""
        self.metrics.flush()
        self.samples.flush()

    def elapsed_s(self) -> float:
        """Seconds since the run began, earlier parts of a resumed run included."""
        return time.monotonic() - self._began

    def finish(self, exit_code: int) -> None:
        """Write what is left, and close W&B with the run's last figures; any exit code but 0 marks
        the run as failed."""
        for lines in (self.metrics, self.samples):
            if left := lines.flush():
                self._say(f"NOTE: {left} lines of {lines.path} could not be written and are lost")
        if self._wandb:
            self._wandb.summary(self.latest)
            self._wandb.finish(exit_code)
