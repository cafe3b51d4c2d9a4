"""The moments at which a run is killed: drawn from a seed, spread over its whole course.

A moment of kind

    startup      is up to START_UP_S after the process began
    step         is up to SPREAD_S after a chosen step was logged, so anywhere in a step, a
                 validation or a sample
    checkpoint   is when a chosen number of files of the next checkpoint are there, or when it is
                 just whole
    signal       is as `step`, and SIGTERM, SIGINT or SIGUSR1 is sent, which must save and end
"""

import random
import signal
import time
from collections import Counter
from dataclasses import dataclass

from tests.faults.harness import Scenario, TrainingProcess

START_UP_S = 4.0
SPREAD_S = 0.03
FILES = 9
"""Files of a checkpoint, and one more for the moment after the last."""
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


@dataclass(frozen=True)
class Moment:
    """When a process is killed."""

    kind: str
    step: int
    """After this step was logged by the process."""
    delay_s: float
    num_files: int
    number: signal.Signals


def draw_moments(seed: int, kinds: dict[str, int], num_steps: int) -> list[Moment]:
    """So many moments of each kind, in random order at random steps that ascend."""
    draw = random.Random(seed)
    order = [kind for kind, count in kinds.items() for _ in range(count)]
    draw.shuffle(order)
    steps = sorted(draw.sample(range(1, num_steps - 1), len(order)))
    return [
        Moment(
            kind=kind,
            step=step,
            delay_s=draw.uniform(0, START_UP_S if kind == "startup" else SPREAD_S),
            num_files=draw.randint(0, FILES),
            number=draw.choice(SIGNALS),
        )
        for kind, step in zip(order, steps, strict=True)
    ]


def run_through(scenario: Scenario, moments: list[Moment]) -> Counter[str]:
    """Kill the run at each moment and start it again.

    Returns how often what was hit: `killed`, `in a checkpoint` (half of one was left), `signalled`.
    """
    hit: Counter[str] = Counter()
    for moment in moments:
        with scenario.start(is_fresh=moment.kind == "startup") as process:
            if not _wait(scenario, process, moment):
                assert process.wait() == 0, process.printed()
                raise AssertionError(f"the run was over before {moment}")
            if moment.kind == "signal":
                process.send(moment.number)
                code = process.wait()
                assert code == 128 + moment.number, process.printed()
                hit["signalled"] += 1
            else:
                process.kill()
                hit["killed"] += 1
                hit["in a checkpoint"] += bool(scenario.work_in_progress())
    return hit


def _wait(scenario: Scenario, process: TrainingProcess, moment: Moment) -> bool:
    """Wait for the moment; False if the process ends before."""
    if moment.kind != "startup":
        if not process.wait_for(lambda: process.step() >= moment.step):
            return False
        if moment.kind == "checkpoint":
            saved = scenario.saved_steps()

            def is_there() -> bool:
                folders = scenario.work_in_progress()
                num_files = max((_num_entries(folder) for folder in folders), default=-1)
                return num_files >= moment.num_files or scenario.saved_steps() > saved

            return process.wait_for(is_there)
    time.sleep(moment.delay_s)
    return process.process.poll() is None


def _num_entries(folder: object) -> int:
    try:
        return len(list(folder.iterdir()))  # type: ignore[attr-defined]
    except OSError:
        return -1
