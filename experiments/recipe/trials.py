"""Trials of training recipes: run them, keep one line for each in FILE, print a table.

    python experiments/recipe/trials.py FILE.yaml [--dataset TEXT] [--workers 2] [--threads 1]
    python experiments/recipe/trials.py FILE.yaml --table

FILE.yaml names a base configuration, seeds and trials (name -> settings that differ). Each
finished run is one line of FILE.jsonl: the trial, the seed, the settings, the validation losses and
the seconds. What is there already is not run again, so it can be stopped and started.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).resolve().parents[2]


def read_trials(path: Path) -> tuple[dict[str, Any], list[tuple[str, int, dict[str, Any]]]]:
    """(the file, [(trial, seed, settings that differ from the base)])."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    common = content.get("common") or {}
    runs = [
        (name, seed, common | (changes or {}) | {"seed": seed})
        for name, changes in content["trials"].items()
        for seed in content["seeds"]
    ]
    return content, runs


def finished(path: Path) -> list[dict[str, Any]]:
    """The lines of the runs that have ended."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def train_once(base: str, settings: Mapping[str, Any], num_threads: int) -> dict[str, Any]:
    """A run in a process of its own: its validation losses, its last one, its seconds."""
    with tempfile.TemporaryDirectory() as folder:
        options = {
            "output_dir": folder, "run_name": "run", "save_interval": 0, "use_wandb": False,
            "num_generate_samples": 0, **settings,
        }  # fmt: skip
        command = [sys.executable, "train.py", "--config", base]
        for name, value in options.items():
            if isinstance(value, bool):
                command.append(f"--{name}" if value else f"--no_{name}")
            elif isinstance(value, list):
                command += [f"--{name}", *map(str, value)]
            else:
                command += [f"--{name}", str(value)]
        started = time.perf_counter()
        environment = {**os.environ, "OMP_NUM_THREADS": str(num_threads)}
        done = subprocess.run(
            command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
        )
        seconds = time.perf_counter() - started
        if done.returncode:
            return {"error": (done.stderr or done.stdout)[-500:], "seconds": round(seconds, 1)}
        lines = (Path(folder) / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        events = [event for event in map(json.loads, lines) if "val/ce_loss" in event]
        curve = [[event["step"], round(event["val/ce_loss"], 4)] for event in events]
        return {"val_ce": curve[-1][1], "curve": curve, "seconds": round(seconds, 1)}


def table(lines: list[dict[str, Any]], trials: list[str]) -> str:
    """Mean and range of the last validation loss over seeds, in the order of the file."""
    rows = [f"{'trial':36} seeds  val CE  (least to largest)"]
    for name in trials:
        found = [line["val_ce"] for line in lines if line["trial"] == name and "val_ce" in line]
        if found:
            spread = f"({min(found):.4f} to {max(found):.4f})"
            rows.append(f"{name:36} {len(found):5}  {statistics.mean(found):.4f}  {spread}")
        elif any(line["trial"] == name for line in lines):
            rows.append(f"{name:36}     -  failed")
    return "\n".join(rows)


def main() -> None:
    """Run what is not run yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--dataset", help="path of the text, where there is no network")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", action="store_true", help="print the table only")
    args = parser.parse_args()
    content, runs = read_trials(args.file)
    log = args.file.with_suffix(".jsonl")
    done = {(line["trial"], line["seed"]) for line in finished(log)}
    todo = [] if args.table else [run for run in runs if run[:2] not in done]

    def one(run: tuple[str, int, dict[str, Any]]) -> None:
        name, seed, settings = run
        extra = {"dataset": args.dataset} if args.dataset else {}
        result = train_once(content["base"], settings | extra, args.threads)
        line = {"trial": name, "seed": seed, "settings": settings, **result}
        with log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        outcome = result.get("val_ce", "failed")
        print(f"{name} seed {seed}: {outcome}, {result['seconds']} s", flush=True)

    with ThreadPoolExecutor(args.workers) as pool:
        list(pool.map(one, todo))
    print(table(finished(log), list(content["trials"])))


if __name__ == "__main__":
    main()
