"""A benchmark's result file: the command, the environment and the results."""

import json
import statistics
import sys
from pathlib import Path
from typing import Any

from sharpgpt.config import TrainingConfig
from sharpgpt.core.files import write_text
from sharpgpt.runtime.device import choose_device
from sharpgpt.runtime.environment import describe_environment

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "benchmarks" / "results"


def spread(seconds: list[float]) -> dict[str, Any]:
    """Median and range of repeated timings, in seconds."""
    return {
        "repetitions": len(seconds),
        "median_s": round(statistics.median(seconds), 3),
        "min_s": round(min(seconds), 3),
        "max_s": round(max(seconds), 3),
    }


def write_result(name: str, command: str, results: dict[str, Any]) -> None:
    """Write results/NAME.json and print it."""
    path = save_result(name, command, results)
    json.dump(results, sys.stdout, indent=2)
    print(f"\nwritten to {path.relative_to(REPOSITORY)}")


def save_result(name: str, command: str, results: dict[str, Any]) -> Path:
    """Write results/NAME.json; returns its path."""
    environment = describe_environment(choose_device(TrainingConfig()))
    environment["command"] = command
    path = RESULTS / f"{name}.json"
    write_text(path, json.dumps({"figures": results, "environment": environment}, indent=2) + "\n")
    return path
