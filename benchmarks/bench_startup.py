"""From the start of the process to the end of the first training step, and where it goes.

    python benchmarks/bench_startup.py

Real processes: `python train.py` of a small character model, of GPT-2 small, and `--help`.
The target is 20 s for the small model and 1 s for --help.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from record import REPOSITORY, spread, write_result

REPETITIONS = 5
SMALL = ["--config", "configs/shakespeare_char_cpu.yaml"]
GPT2 = ["--config", "configs/quick_test.yaml"]
ONE_STEP = ["--max_steps", "1", "--num_generate_samples", "0", "--eval_max_blocks", "1"]


def one_run(arguments: list[str]) -> tuple[float, dict[str, float]]:
    """Seconds from the start of the process to the end of its first step, and its phases."""
    with tempfile.TemporaryDirectory() as folder:
        place = ["--output_dir", folder, "--run_name", "startup"]
        command = [sys.executable, "train.py", *arguments, *ONE_STEP, *place]
        subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)
        text = (Path(folder) / "startup" / "summary.json").read_text(encoding="utf-8")
    phases = json.loads(text)["startup_s"]
    return sum(phases.values()), phases


def measure(arguments: list[str]) -> dict[str, Any]:
    runs = [one_run(arguments) for _ in range(REPETITIONS)]
    names = runs[0][1].keys()
    phases = {name: round(statistics.median(run[1][name] for run in runs), 2) for name in names}
    return spread([total for total, _ in runs]) | {"median_phases_s": phases}


def help_seconds() -> float:
    started = time.perf_counter()
    command = [sys.executable, "train.py", "--help"]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)
    return time.perf_counter() - started


def main() -> None:
    small, gpt2 = measure(SMALL), measure(GPT2)
    figures = {
        "first step, 4 layers of width 128": small | {"target_s": 20},
        "first step, GPT-2 small": gpt2,
        "--help": spread([help_seconds() for _ in range(REPETITIONS)]) | {"target_s": 1},
    }
    write_result("startup", "python benchmarks/bench_startup.py", figures)


if __name__ == "__main__":
    main()
