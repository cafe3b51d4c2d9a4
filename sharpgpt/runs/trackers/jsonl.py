"""metrics.jsonl and samples.jsonl of a run, one JSON object per line.

`step` counts finished optimizer steps, `time_s` seconds since the run began. A run that is resumed
or rolled back drops the lines after its checkpoint, and a last line torn by a crash, so each step
appears once. A line that cannot be written, as on a full disk, is kept in memory and written before
the next line, before the next checkpoint, or at the end.
"""

import contextlib
import json
import logging
import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from sharpgpt.core.errors import UserError
from sharpgpt.core.files import NO_FOLLOW, os_error_text
from sharpgpt.core.jsonio import finite, parse_object, read_bytes
from sharpgpt.core.numbers import counted
from sharpgpt.runs.reader import MAX_FILE_BYTES, MAX_STEP
from sharpgpt.runs.state import DueWork

logger = logging.getLogger(__name__)

MAX_LINES_IN_MEMORY = 10_000
MAX_TIME_S = 1e9
"""Of a run: 30 years. A larger time in a file is not believed."""


class JsonLines:
    """The tracker that every run has; a resumed run reads its metrics back.

    `due` is the work still to do after `first_step`; its lines will be written again.
    """

    run_id: str | None = None

    def __init__(
        self, run_folder: Path, first_step: int = 0, *, due: Collection[DueWork] = ()
    ) -> None:
        self.metrics = JsonLinesFile(run_folder / "metrics.jsonl")
        self.samples = JsonLinesFile(run_folder / "samples.jsonl")
        self.latest: dict[str, float] = {}
        """The newest value of each metric."""
        kept = self.keep_until(first_step, due=due)
        elapsed_s = kept[-1].get("time_s") if kept else 0.0
        if not (isinstance(elapsed_s, float | int) and 0 <= elapsed_s < MAX_TIME_S):
            elapsed_s = 0.0
        self._began = time.monotonic() - elapsed_s

    def elapsed_s(self) -> float:
        """Seconds since the run began, earlier parts of a resumed run included."""
        return time.monotonic() - self._began

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

    def log(
        self,
        step: int,
        metrics: Mapping[str, float],
        histograms: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        """Append one event."""
        self.latest |= metrics
        time_s = round(self.elapsed_s(), 3)
        self.metrics.append({"step": step, "time_s": time_s, **metrics, **(histograms or {})})

    def log_samples(self, step: int, samples: Sequence[Mapping[str, Any]]) -> None:
        """Append one line per sample."""
        for sample in samples:
            self.samples.append({"step": step, **sample})

    def flush(self) -> None:
        """Write what could not be written before, if possible now."""
        self.metrics.flush()
        self.samples.flush()

    def summary(self, metrics: Mapping[str, float]) -> None:
        """Nothing: the run's summary.json has the last metrics."""

    def finish(self, exit_code: int) -> None:  # noqa: ARG002
        """Write what is left, or warn that it is lost."""
        for lines in (self.metrics, self.samples):
            if left := lines.flush():
                logger.warning("%s of %s could not be written", counted(left, "line"), lines.path)


class JsonLinesFile:
    """A file of one JSON object a line. A full disk raises nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._unwritten: list[str] = []
        self._is_failing = False

    def append(self, event: dict[str, Any]) -> None:
        """Add a line. Values that are not finite become null."""
        line = json.dumps(finite(event), ensure_ascii=False, allow_nan=False)
        self._unwritten.append(line + "\n")
        self.flush()

    def flush(self) -> int:
        """Write the lines in memory, if possible; return how many could not be written."""
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
                logger.warning(
                    "cannot be written: %s; its lines are kept in memory and written when it can "
                    "be again",
                    os_error_text(error, self.path, remedy=""),
                )
        return len(self._unwritten)

    def _cut(self, size: int) -> None:
        descriptor = os.open(self.path, os.O_WRONLY | NO_FOLLOW)
        try:
            os.ftruncate(descriptor, size)
        finally:
            os.close(descriptor)

    def _write(self, data: bytes) -> None:
        """Append all of `data` or, if that fails, none of it."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | NO_FOLLOW
        descriptor = os.open(self.path, flags, 0o666)
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
        try:
            data = read_bytes(self.path, max_bytes=MAX_FILE_BYTES, follow_links=False)
        except FileNotFoundError:
            data = b""
        except ValueError as error:
            raise UserError(f"{self.path.parent}: {error}; move it away to continue") from None
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
            self._cut(end)
        in_memory = [(line, json.loads(line)) for line in self._unwritten]
        self._unwritten = [line for line, event in in_memory if is_kept(event)]
        return events + [event for _, event in in_memory if is_kept(event)]


def _event(line: bytes) -> dict[str, Any] | None:
    """The JSON object with a step in a line, or None for anything else."""
    try:
        event = parse_object(line, allow_nan=True)
    except ValueError:
        return None
    step = event.get("step")
    is_step = isinstance(step, int) and not isinstance(step, bool) and 0 <= step <= MAX_STEP
    return event if is_step else None
