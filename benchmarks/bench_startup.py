"""Time from process start to the end of the first training step, by phase.

    python benchmarks/bench_startup.py
    python benchmarks/bench_startup.py --against ../another_checkout

Real processes: `python train.py` of a small character model, of GPT-2 small, and `--help`.
The target is 20 s for the small model and 1 s for --help. Results: results/startup.json.

With `--against`, the small model and `--help` of this checkout and of another, alternating
(make one with `git worktree add ../another_checkout COMMIT`). Both are measured through `train.py`
and summary.json, so they may differ in everything else; a `ratio` below 1 means that this checkout
is faster. Results: results/startup_against.json.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from record import REPOSITORY, spread, write_result

SMALL = ["--config", "configs/shakespeare_char_cpu.yaml"]
GPT2 = ["--config", "configs/quick_test.yaml"]
ONE_STEP = ["--max_steps", "1", "--num_generate_samples", "0", "--eval_max_blocks", "1"]


@dataclass(frozen=True)
class FirstStep:
    """One process that trained for one step."""

    phases: dict[str, float]
    """Seconds by phase."""
    commit: str | None

    @property
    def seconds(self) -> float:
        """From the start of the process to the end of the step."""
        return sum(self.phases.values())


def train_py(checkout: Path, *arguments: str) -> float:
    """Wall seconds of `python train.py` with the code of `checkout`, compiled by an earlier run."""
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "train.py", *arguments],
        cwd=checkout,
        env=environment,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return time.perf_counter() - started


def first_step(checkout: Path, arguments: list[str]) -> FirstStep:
    with tempfile.TemporaryDirectory() as folder:
        place = ["--output_dir", folder, "--run_name", "startup"]
        train_py(checkout, *arguments, *ONE_STEP, *place)
        summary, environment = (
            json.loads((Path(folder) / "startup" / name).read_text(encoding="utf-8"))
            for name in ("summary.json", "environment.json")
        )
    return FirstStep(summary["startup_s"], environment["commit"])


def summarised(runs: list[FirstStep]) -> dict[str, Any]:
    names = runs[0].phases.keys()
    phases = {name: round(statistics.median(run.phases[name] for run in runs), 2) for name in names}
    return spread([run.seconds for run in runs]) | {"median_phases_s": phases}


def measure(repetitions: int) -> dict[str, Any]:
    small, gpt2 = (
        summarised([first_step(REPOSITORY, model) for _ in range(repetitions)])
        for model in (SMALL, GPT2)
    )
    help_s = [train_py(REPOSITORY, "--help") for _ in range(repetitions)]
    return {
        "first step, 4 layers of width 128": small | {"target_s": 20},
        "first step, GPT-2 small": gpt2,
        "--help": spread(help_s) | {"target_s": 1},
    }


def compare(other: Path, repetitions: int) -> dict[str, Any]:
    """Both checkouts in turn, after a run of each that compiles its modules and is not counted."""
    checkouts = {"this": REPOSITORY, "other": other}
    steps: dict[str, list[FirstStep]] = {name: [] for name in checkouts}
    help_s: dict[str, list[float]] = {name: [] for name in checkouts}
    for repetition in range(repetitions + 1):
        # The first of a pair alternates, so that neither always follows the other.
        for name in sorted(checkouts, reverse=repetition % 2 == 0):
            step = first_step(checkouts[name], SMALL)
            seconds = train_py(checkouts[name], "--help")
            if repetition > 0:
                steps[name].append(step)
                help_s[name].append(seconds)
    return {
        "commits": {name: runs[0].commit for name, runs in steps.items()},
        "first step, 4 layers of width 128": {
            **{name: summarised(runs) for name, runs in steps.items()},
            "ratio": ratio({name: [run.seconds for run in runs] for name, runs in steps.items()}),
        },
        "--help": {
            **{name: spread(seconds) for name, seconds in help_s.items()},
            "ratio": ratio(help_s),
        },
    }


def ratio(seconds: dict[str, list[float]]) -> dict[str, float]:
    """This checkout's time over the other's: of the medians, and the range over the pairs."""
    pairs = [this / other for this, other in zip(seconds["this"], seconds["other"], strict=True)]
    medians = statistics.median(seconds["this"]) / statistics.median(seconds["other"])
    return {
        "of_medians": round(medians, 3),
        "min": round(min(pairs), 3),
        "max": round(max(pairs), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--against", type=Path, help="another checkout to compare this one with")
    parser.add_argument("--repetitions", type=int, default=5, help="processes of each kind [5]")
    options = parser.parse_args()
    if options.repetitions < 1:
        parser.error(f"--repetitions: given {options.repetitions}, allowed is at least 1")
    command = "python benchmarks/bench_startup.py"
    if options.against is None:
        write_result("startup", command, measure(options.repetitions))
        return
    other = options.against.expanduser().resolve()
    if not (other / "train.py").is_file():
        parser.error(f"--against: {options.against} is not a checkout; it has no train.py")
    command += f" --against CHECKOUT --repetitions {options.repetitions}"
    write_result("startup_against", command, compare(other, options.repetitions))


if __name__ == "__main__":
    main()
