"""The processors of this process."""

import os


def num_processors() -> int:
    """Those that it may use: of a container or a job, not of the machine."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
