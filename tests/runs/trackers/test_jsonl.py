"""metrics.jsonl and samples.jsonl: what a resumed log keeps."""

import json
from pathlib import Path

from sharpgpt.runs.tracker import RunLog


def test_a_resumed_log_drops_what_lies_after_its_checkpoint(tmp_path: Path) -> None:
    first = RunLog(tmp_path, first_step=0)
    for step in (1, 2, 3):
        first.log(step, {"train/loss": float(step)})
        first.log_samples(step, "p", [f"text\u2028{step}\x85"], {})
    with open(tmp_path / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write('{"step": 3, "tra')  # torn by a crash
    second = RunLog(tmp_path, first_step=2)
    second.log(3, {"train/loss": 30.0, "train/perplexity": float("inf")})
    lines = (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    events = [json.loads(line) for line in lines]
    assert [(event["step"], event["train/loss"]) for event in events] == [(1, 1), (2, 2), (3, 30)]
    assert events[2]["train/perplexity"] is None
    assert events[2]["time_s"] >= events[1]["time_s"]
    samples = (tmp_path / "samples.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    assert [json.loads(line)["text"] for line in samples] == ["text\u20281\x85", "text\u20282\x85"]
