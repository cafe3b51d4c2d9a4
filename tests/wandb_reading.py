"""What an offline W&B run has stored, read back by W&B's own command."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class WandbRecord:
    """The content of one .wandb file."""

    run_id: str
    name: str
    project: str
    config: dict[str, Any]
    history: dict[int, dict[str, Any]]
    """Step -> its row; nested values have dotted names, such as `histogram.values`."""
    summary: dict[str, Any]
    exit_code: int | None

    def table(self, run_folder: Path, name: str, step: int) -> list[dict[str, Any]]:
        """The rows of the table `name` logged at `step`, as column -> value."""
        path = self.history[step][f"{name}.path"]
        (file,) = run_folder.glob(f"wandb/*run-*-{self.run_id}/files/{path}")
        content = json.loads(file.read_text())
        return [dict(zip(content["columns"], row, strict=True)) for row in content["data"]]


def read_wandb(run_folder: Path, segment: Path | None = None) -> WandbRecord:
    """Read the one W&B run under `run_folder`/wandb, or the folder `segment` of several."""
    (path,) = segment.glob("*.wandb") if segment else run_folder.glob("wandb/*run-*/run-*.wandb")
    command = [str(Path(sys.executable).with_name("wandb")), "leet", "inspect", "--json", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    records = [json.loads(line) for line in done.stdout.splitlines()]
    of_type = {
        kind: [record[kind] for record in records if record["type"] == kind]
        for kind in ("run", "config", "history", "summary", "exit")
    }
    run = of_type["run"][0]
    config: dict[str, Any] = {}
    for update in [run.get("config", {}), *of_type["config"]]:
        config |= update.get("update", {})
    summary: dict[str, Any] = {}
    for update in of_type["summary"]:
        summary |= update.get("update", {})
    return WandbRecord(
        run_id=run["run_id"],
        name=run.get("display_name", ""),
        project=run.get("project", ""),
        config=config,
        history={row["step"]["num"]: row["item"] for row in of_type["history"]},
        summary=summary,
        exit_code=of_type["exit"][0].get("exit_code", 0) if of_type["exit"] else None,
    )
