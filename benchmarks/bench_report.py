"""Time and size of the report over many runs.

    python benchmarks/bench_report.py

50 runs of 10,000 logged steps (metrics.jsonl as training writes it, 13 MB each, random
values), in 17 configurations with up to 3 seeds. The target is under 20 seconds and 10 MB.
"""

import json
import math
import random
import tempfile
import time
from pathlib import Path

from record import spread, write_result

from sharpgpt.config import TrainingConfig
from sharpgpt.report.runs import write_runs_report

NUM_RUNS, NUM_STEPS, EVAL_EVERY, SEEDS = 50, 10_000, 50, 3
METRICS = ("loss", "ce_loss", "penalty", "avg_max_prob", "entropy", "top_k_mass", "accuracy")
MORE = ("perplexity", "learning_rate", "penalty_weight", "grad_norm", "tokens_per_s", "mfu")


def make_run(folder: Path, number: int) -> None:
    """A run folder with a configuration and metrics."""
    folder.mkdir()
    draw = random.Random(number)
    TrainingConfig(seed=number % SEEDS, penalty_weight=(1 + number // SEEDS) / 100).to_yaml(
        folder / "config.yaml"
    )
    with open(folder / "metrics.jsonl", "w", encoding="utf-8") as file:
        for step in range(1, NUM_STEPS + 1):
            level = 3 + 6 / math.sqrt(step)
            line = {"step": step, "time_s": step * 0.5}
            line |= {f"train/{name}": level + draw.random() for name in (*METRICS, *MORE)}
            line["train/max_prob_histogram"] = [draw.randrange(1000) for _ in range(20)]
            file.write(json.dumps(line) + "\n")
            if step % EVAL_EVERY == 0:
                line = {"step": step, "time_s": step * 0.5}
                line |= {f"val/{name}": level + draw.random() for name in (*METRICS, "perplexity")}
                file.write(json.dumps(line) + "\n")


def main() -> None:
    """Make the runs, build the page three times, write the result."""
    with tempfile.TemporaryDirectory() as temporary:
        folders = [Path(temporary) / f"run{number:02}" for number in range(NUM_RUNS)]
        for number, folder in enumerate(folders):
            make_run(folder, number)
        page = Path(temporary) / "runs.html"
        seconds = []
        for _ in range(3):
            started = time.perf_counter()
            write_runs_report(folders, page)
            seconds.append(time.perf_counter() - started)
        summary = {
            "runs": NUM_RUNS,
            "logged steps a run": NUM_STEPS,
            "metrics_mb": round(
                sum((one / "metrics.jsonl").stat().st_size for one in folders) / 1e6
            ),
            "seconds": spread(seconds),
            "page_mb": round(page.stat().st_size / 1e6, 2),
        }
    write_result("report", "python benchmarks/bench_report.py", summary)


if __name__ == "__main__":
    main()
