"""`--profile N`: a trace and a table of N steps, in the folder `profile` of the run.

The parts of a step are marked with `torch.profiler.record_function` while steps are recorded, and
with nothing otherwise. Nothing here changes what is computed, and no failure ends the run.
"""

import contextlib
import functools
import gzip
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from errno import ENOSPC
from pathlib import Path
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from sharpgpt.core.files import atomic_path, os_error_text, write_text
from sharpgpt.core.numbers import counted
from sharpgpt.runtime.device import Device
from sharpgpt.training.operations import shares, step_times, table

logger = logging.getLogger(__name__)

WARM_UP_STEPS = 3
"""Allocation, compilation and the start of the profiler itself are in the first steps."""

P = ParamSpec("P")
Result = TypeVar("Result")
_NOTHING = contextlib.nullcontext()


def phase(name: str) -> Callable[[Callable[P, Result]], Callable[P, Result]]:
    """Mark every call of a function, whose first argument is the run, as a phase of the step."""

    def decorate(function: Callable[P, Result]) -> Callable[P, Result]:
        @functools.wraps(function)
        def marked(*args: P.args, **kwargs: P.kwargs) -> Result:
            run: Any = args[0]
            with run.outputs.profiler.phase(name):
                return function(*args, **kwargs)

        return marked

    return decorate


class Profiler:
    """Records `num_steps` steps of a run, after those for warm-up; with 0 it does nothing.

    In `with`, what was recorded is written when the block ends, however early.
    """

    def __init__(
        self, num_steps: int, *, folder: Path, device: Device, steps_left: int, loss_lm: Any
    ) -> None:
        self._folder = folder / "profile"
        self._num_steps = num_steps
        self._device = device
        self._loss_lm = loss_lm
        self._warm_up = max(0, min(WARM_UP_STEPS, steps_left - 1))
        self._num_begun = 0
        self._first_step = self._current_step = self._last_step = 0
        self._profile: profile | None = None
        self._is_recording = False
        self._is_over = num_steps == 0
        self._step, self._undo = ExitStack(), ExitStack()
        self._is_complete: list[bool] = []
        """Of each recorded step; a step that the run rolls back is not."""

    def phase(self, name: str) -> AbstractContextManager[object]:
        """Mark the block as this part of the step, one of `PHASES`."""
        return record_function(name) if self._is_recording else _NOTHING

    def begin_step(self, number: int) -> None:
        """Step `number` begins."""
        if self._is_over:
            return
        try:
            if self._profile is None and self._num_begun >= self._warm_up - 1:
                self._profile = self._prepared()
            if self._profile and self._num_begun == self._warm_up:
                self._first_step = number
                self._start(self._profile)
        except Exception as error:
            self._give_up(_reason(error))
            return
        self._num_begun += 1
        if self._is_recording:
            self._open_step(number)

    def end_step(self) -> None:
        """The step is done: the last one to be profiled ends the recording."""
        if not self._is_recording:
            return
        self._is_complete[-1], self._last_step = True, self._current_step
        if sum(self._is_complete) == self._num_steps:
            self._finish()

    def __enter__(self) -> "Profiler":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if self._is_over:
            return
        if kind is not None and not issubclass(kind, Exception):
            self._stop()  # a second Ctrl-C: end at once
        elif any(self._is_complete):
            self._finish()
        else:
            self._give_up("the run ended before a step could be profiled")

    def _prepared(self) -> profile:
        if torch._C._autograd._profiler_enabled():
            raise RuntimeError("another profiler of PyTorch is active, which this would end")
        activities = [ProfilerActivity.CPU]
        if self._device.torch_device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        else:
            # Its lines about the start and the end of a recording. On a GPU its warnings matter.
            if "KINETO_LOG_LEVEL" not in os.environ:
                os.environ["KINETO_LOG_LEVEL"] = "6"
                self._undo.callback(os.environ.pop, "KINETO_LOG_LEVEL", None)
        prepared = profile(activities=activities)
        prepared.prepare_trace()
        return prepared

    def _start(self, prepared: profile) -> None:
        prepared.start_trace()
        self._is_recording = True
        if not hasattr(self._loss_lm, "_orig_mod"):  # compiled code would be compiled anew
            loss = self._loss_lm.linear_loss

            def marked(*args: Any, **kwargs: Any) -> Any:
                with self.phase("loss"):
                    return loss(*args, **kwargs)

            self._loss_lm.linear_loss = marked
            self._undo.callback(setattr, self._loss_lm, "linear_loss", loss)

    def _open_step(self, number: int) -> None:
        self._step.close()  # of a step that was rolled back
        self._step.enter_context(record_function(f"step {number}"))
        self._is_complete.append(False)
        self._current_step = number

    def _stop(self) -> None:
        """Nothing more is recorded."""
        was_recording = self._is_recording
        self._is_over, self._is_recording = True, False
        self._step.close()
        self._undo.close()
        if self._profile:
            if not was_recording:  # only prepared: PyTorch ends it in the same way
                self._profile.start_trace()
            self._profile.stop_trace()

    def _give_up(self, reason: str) -> None:
        logger.warning("no profile: %s", reason)
        with contextlib.suppress(Exception):
            self._stop()
        self._profile = None

    def _finish(self) -> None:
        """Both files, and a line in the log; a failure is a line too."""
        assert self._profile is not None
        count = sum(self._is_complete)
        trace, operations = self._folder / "trace.json.gz", self._folder / "operations.txt"
        try:
            self._stop()
            if self._folder.is_symlink():
                raise ValueError(f"{self._folder} is a link, and nothing is written through one")
            with tempfile.TemporaryDirectory(prefix="sharpgpt-") as folder:
                plain = Path(folder) / "trace.json"
                self._profile.export_chrome_trace(str(plain))
                self._profile = None
                events = _events(plain)
                with (
                    atomic_path(trace) as temporary,
                    open(plain, "rb") as source,
                    gzip.open(temporary, "wb", compresslevel=5) as target,
                ):
                    shutil.copyfileobj(source, target, 1 << 20)
            times = step_times(events, self._is_complete)
            title = (
                f"Profile of {self._folder.parent.name} on {self._device.name()} "
                f"({self._device.dtype_name}), from step {self._first_step:,} to "
                f"{self._last_step:,}."
            )
            if self._device.torch_device.type != "cpu" and not times.on_gpu:
                title += (
                    " PyTorch recorded no times of this device: these are of the CPU, which issues "
                    "its work."
                )
            write_text(operations, table(times, title))
        except Exception as error:
            logger.warning(
                "the profile could not be written: %s. Training continues", _reason(error)
            )
            return
        logger.info(
            "profiled %s of %.1f ms: %s; operations: %s, trace for ui.perfetto.dev: %s",
            counted(count, "step"), times.wall / count / 1e3, shares(times), operations, trace,
        )  # fmt: skip


def _events(path: Path) -> list[dict[str, Any]]:
    """The events of a trace. PyTorch raises nothing when the disk is full: the file is cut off."""
    text = path.read_text(encoding="utf-8", errors="replace")
    if '"traceName"' not in text[-4096:]:
        raise OSError(ENOSPC, os.strerror(ENOSPC), str(path))
    events: list[dict[str, Any]] = json.loads(text, object_hook=_without_details)["traceEvents"]
    return events


_KEPT = ("ph", "cat", "name", "ts", "dur", "pid", "tid", "args")
_EMPTY: dict[str, Any] = {}


def _without_details(content: dict[str, Any]) -> dict[str, Any]:
    """Of an event what operations.py reads; there may be millions of them."""
    if "traceEvents" in content:
        return content
    if "cat" in content:
        return {name: content[name] for name in _KEPT if name in content}
    return {"correlation": content["correlation"]} if "correlation" in content else _EMPTY


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return os_error_text(error)
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
