"""The records of a run: metrics.jsonl and samples.jsonl always, Weights & Biases where asked.

One JSON object per line; `step` counts finished optimizer steps, `time_s` seconds since the run
began. A resumed run drops what lies after its checkpoint, so each step stands once.
"""

import json
import math
import time
from pathlib import Path
from typing import Any

from sharpgpt.files import write_text
from sharpgpt.training.wandb_run import WandbRun


class RunLog:
    """Writes every event of a run to its files and to W&B."""

    def __init__(self, run_folder: Path, wandb_run: WandbRun | None, first_step: int) -> None:
        self.metrics_path = run_folder / "metrics.jsonl"
        self.samples_path = run_folder / "samples.jsonl"
        self.latest: dict[str, float] = {}
        self._wandb = wandb_run
        kept = _keep_until(self.metrics_path, first_step)
        _keep_until(self.samples_path, first_step)
        elapsed_s = kept[-1].get("time_s", 0.0) if kept else 0.0
        for event in kept:
            self.latest |= {n: v for n, v in event.items() if "/" in n and isinstance(v, float)}
        self._began = time.monotonic() - elapsed_s

    def log(self, step: int, metrics: dict[str, float], histogram: list[int] | None = None) -> None:
        """One event; `histogram` counts the rows by their largest probability."""
        self.latest |= metrics
        event: dict[str, Any] = {"step": step, "time_s": round(self.elapsed_s(), 3), **metrics}
        if histogram is not None:
            event["train/max_prob_histogram"] = histogram
        _append(self.metrics_path, event)
        if self._wandb:
            self._wandb.log(step, metrics)
            if histogram is not None:
                self._wandb.log_histogram(step, "train/max_prob_histogram", histogram)

    def log_samples(
        self, step: int, prompt: str, texts: list[str], settings: dict[str, Any]
    ) -> None:
        """Generated texts with how they were made."""
        samples = [
            {"step": step, "prompt": prompt, "text": text, "settings": settings} for text in texts
        ]
        for sample in samples:
            _append(self.samples_path, sample)
        if self._wandb:
            self._wandb.log_samples(step, samples)

    def elapsed_s(self) -> float:
        """Seconds since the run began, earlier parts of a resumed run included."""
        return time.monotonic() - self._began

    def finish(self, exit_code: int) -> None:
        """Close W&B with the run's last figures; any exit code but 0 marks the run as failed."""
        if self._wandb:
            self._wandb.summary(self.latest)
            self._wandb.finish(exit_code)


def _append(path: Path, event: dict[str, Any]) -> None:
    finite = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in event.items()
    }
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(finite, ensure_ascii=False, allow_nan=False) + "\n")


def _keep_until(path: Path, last_step: int) -> list[dict[str, Any]]:
    """Drop events after `last_step`, and a torn last line; return those that stay."""
    if not path.exists():
        return []
    kept = []
    # Not splitlines(): a sample may hold U+2028 and the like, which JSON leaves as they are.
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            event = json.loads(line)
            if event["step"] <= last_step:
                kept.append(event)
        except (ValueError, TypeError, KeyError):
            continue
    write_text(path, "".join(json.dumps(event, ensure_ascii=False) + "\n" for event in kept))
    return kept
