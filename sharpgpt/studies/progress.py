"""The live table of a study on a terminal, a line for each run; elsewhere a line for each event."""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sharpgpt.core.numbers import counted
from sharpgpt.core.terminal import one_line
from sharpgpt.runtime.console import Console, clock
from sharpgpt.studies.launcher import ELSEWHERE, FAILED, FINISHED, RUNNING, Work
from sharpgpt.studies.runs import StudyRun

logger = logging.getLogger(__name__)

REFRESH_S = 1.0
LINE_S = 60.0
"""Between lines of progress where there is no terminal."""
MAX_LINES = 30
"""Of the table: runs that run or failed first, then those that wait."""


class Progress:
    """Shows the runs of a study while they train."""

    def __init__(self, console: Console, num_steps: dict[str, int]) -> None:
        self._num_steps = num_steps
        """Arm -> steps of each of its runs."""
        self._is_terminal = console.is_terminal
        self._live: Any = None
        self._shown = 0.0
        self._started = time.monotonic()
        self._steps_before: dict[str, int] = {}

    @contextmanager
    def live(self) -> Iterator["Progress"]:
        """The table, on a terminal, until the block ends."""
        if not self._is_terminal:
            yield self
            return
        from rich.live import Live

        with Live(auto_refresh=False, transient=True) as self._live:
            yield self
        self._live = None

    def changed(self, work: Work) -> None:
        """One line for a run that started or ended."""
        name = work.run.name
        if work.state == FINISHED:
            ce = self._ce(work.run)
            logger.info("finished %s%s", name, f": {ce}" if ce else "")
        elif work.state == FAILED:
            logger.error("%s failed: %s", name, work.problem)
        elif work.state == RUNNING:
            begun = work.run.progress().get("step", 0)
            self._steps_before[name] = begun
            logger.info("%s %s", "continuing" if begun else "training", name)

    def show(self, works: Sequence[Work]) -> None:
        """The table as it is now, or a line where there is no terminal."""
        now = time.monotonic()
        if now - self._shown < (REFRESH_S if self._live else LINE_S):
            return
        if self._live:
            self._live.update(self._table(works), refresh=True)
        elif self._shown:
            logger.info("%s", self._line(works))
        self._shown = now

    def _line(self, works: Sequence[Work]) -> str:
        running = [
            f"{work.run.name} {self._step(work.run):,}/{self._num_steps[work.run.arm]:,}"
            for work in works
            if work.state == RUNNING
        ]
        finished = sum(work.state == FINISHED for work in works)
        left = self._seconds_left(works)
        parts = [
            f"{finished} of {counted(len(works), 'run')} finished",
            ", ".join(running) or "waiting",
            *([f"{clock(left)} left"] if left is not None else []),
        ]
        return "; ".join(parts)

    def _table(self, works: Sequence[Work]) -> Any:
        from rich.table import Table
        from rich.text import Text

        order = {RUNNING: 0, FAILED: 1, ELSEWHERE: 2}
        rows = sorted(works, key=lambda work: order.get(work.state, 3 + (work.state == FINISHED)))
        left = self._seconds_left(works)
        finished = sum(work.state == FINISHED for work in works)
        caption = f"{finished} of {len(works)} finished" + (
            f", about {clock(left)} left" if left is not None else ""
        )
        table = Table(caption=caption, caption_justify="left")
        for heading in ("arm", "seed", "", "step", "CE", "left"):
            table.add_column(heading, justify="left" if heading in ("arm", "") else "right")
        for work in rows[:MAX_LINES]:
            run, steps = work.run, self._num_steps[work.run.arm]
            own = self._seconds_left([work]) if work.state == RUNNING else None
            cells = (
                one_line(run.arm),
                str(run.seed),
                work.state,
                f"{self._step(run):,}/{steps:,}",
                self._ce(run),
                "" if own is None else clock(own),
            )
            table.add_row(*map(Text, cells))
        if len(rows) > MAX_LINES:
            table.add_row(Text(f"and {len(rows) - MAX_LINES} more"))
        return table

    def _step(self, run: StudyRun) -> int:
        return int(run.progress().get("step", 0))

    def _ce(self, run: StudyRun) -> str:
        found = run.progress()
        for name, what in (("val/ce_loss", "validation CE"), ("train/ce_loss", "CE")):
            if isinstance(value := found.get(name), float):
                return f"{what} {value:.4f}"
        return ""

    def _seconds_left(self, works: Sequence[Work]) -> float | None:
        """From the steps that were taken since the study was started; None before the first."""
        done = sum(
            self._step(work.run) - before
            for work in works
            if (before := self._steps_before.get(work.run.name)) is not None
        )
        total = sum(
            self._num_steps[work.run.arm] - self._step(work.run)
            for work in works
            if work.state not in (FINISHED, FAILED)
        )
        started = min((w.started for w in works if w.started), default=0.0)
        return (time.monotonic() - started) * total / done if done > 0 and started else None
