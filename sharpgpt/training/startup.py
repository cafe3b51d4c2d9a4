"""Where the time before the first training step goes."""

import os
import time
from pathlib import Path

_IMPORTED_AT = time.monotonic()
LONG_AT_WORK_S = 120.0
"""A process older than this did other things before, such as a notebook."""


def process_age_s() -> float:
    """Seconds since this process started; since this module was imported where that is unknown."""
    try:
        fields = Path("/proc/self/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
        started_s = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        uptime_s = float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])
        return uptime_s - started_s
    except (OSError, ValueError, IndexError):
        return time.monotonic() - _IMPORTED_AT


class Startup:
    """Seconds by phase, from the start of the process (of `train`, in one long at work)."""

    def __init__(self) -> None:
        self.phases: dict[str, float] = {}
        if (age_s := process_age_s()) < LONG_AT_WORK_S:
            self.phases["python and torch"] = round(age_s, 2)
        self._last = time.monotonic()

    def phase(self, name: str) -> None:
        """The time since the last phase was spent on `name`."""
        now = time.monotonic()
        self.phases[name] = round(now - self._last, 2)
        self._last = now

    def total_s(self) -> float:
        """All phases together."""
        return sum(self.phases.values())

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {seconds:.1f}" for name, seconds in self.phases.items())
        return f"first step done {self.total_s():.1f} s after the start ({parts})"
