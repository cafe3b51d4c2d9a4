"""Twenty steps of GPT-2 small on Shakespeare, then PASS or what failed: `python quick_test.py`."""

import json
import sys
from pathlib import Path

from config import TrainingConfig
from train import train

ARTEFACTS = (
    "config.yaml",
    "environment.json",
    "metrics.jsonl",
    "samples.jsonl",
    "summary.json",
    "report.html",
    "checkpoints/step_00000020/model.safetensors",
    "checkpoints/step_00000020/tokenizer.json",
)


def failures(run_folder: Path) -> list[str]:
    """What is wrong with a finished run of 20 steps; empty when nothing is."""
    found = [f"{name} is missing" for name in ARTEFACTS if not (run_folder / name).is_file()]
    if found:
        return found
    lines = (run_folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    losses = [event["train/loss"] for event in map(json.loads, lines) if "train/loss" in event]
    first, last = sum(losses[:3]) / 3, sum(losses[-3:]) / 3
    if len(losses) != 20:
        found.append(f"{len(losses)} training losses were logged, expected 20")
    if not last < first - 1:
        found.append(f"the loss went from {first:.3f} to {last:.3f}, expected a fall of 1 or more")
    if not (run_folder / "samples.jsonl").read_text(encoding="utf-8").strip():
        found.append("samples.jsonl is empty")
    if "</html>" not in (run_folder / "report.html").read_text(encoding="utf-8"):
        found.append("report.html is cut short")
    return found


def main() -> int:
    """Run and print the verdict; returns the exit code."""
    config = TrainingConfig.from_yaml(Path(__file__).with_name("configs") / "quick_test.yaml")
    found = failures(train(config).run_folder)
    print("\n".join(f"FAIL: {failure}" for failure in found) or "PASS")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
