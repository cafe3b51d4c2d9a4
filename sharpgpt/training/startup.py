"""Where the time before the first training step goes."""

import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path

logger = logging.getLogger(__name__)


def process_age_s() -> float | None:
    """Seconds since this process started; None if unknown."""
    try:
        fields = Path("/proc/self/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
        uptime_s = float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])
        return uptime_s - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return None


class Startup:
    """Seconds by phase, from here on, and before it those of `earlier`.

    A command gives the age of its process. In Python, where a process may have done anything
    before, such as another run, the count begins with `train`.
    """

    def __init__(self, earlier: Mapping[str, float] | None = None) -> None:
        self.phases: dict[str, float] = dict(earlier or {})
        self._last = time.monotonic()
        self._is_over = False

    @classmethod
    def of_process(cls) -> "Startup":
        """From the start of the process, where the system tells it."""
        age_s = process_age_s()
        return cls() if age_s is None else cls({"python and torch": round(age_s, 2)})

    def phase(self, name: str) -> None:
        """Count the time since the last phase as `name`."""
        now = time.monotonic()
        self.phases[name] = round(now - self._last, 2)
        self._last = now

    def first_step_done(self) -> None:
        """End the last phase and log all of them; later calls do nothing."""
        if self._is_over:
            return
        self._is_over = True
        self.phase("first step")
        parts = ", ".join(f"{name} {seconds:.1f}" for name, seconds in self.phases.items())
        total_s = sum(self.phases.values())
        logger.info("first step done %.1f s after the start (%s)", total_s, parts)
