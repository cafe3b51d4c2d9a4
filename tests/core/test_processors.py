"""The processors that a process may use are those of its affinity."""

import os

import pytest

from sharpgpt.core.processors import num_processors


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_a_process_that_may_use_one_processor_has_one() -> None:
    allowed = os.sched_getaffinity(0)
    assert num_processors() == len(allowed)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert num_processors() == 1
    finally:
        os.sched_setaffinity(0, allowed)
