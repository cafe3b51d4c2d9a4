"""The study of README.md beside this file: train every arm that is not trained yet, then compare.

    python experiments/shakespeare_char/study.py [--dataset PATH] [--parallel 2]
    python experiments/shakespeare_char/study.py --table | --page | --compact

Stop it at any time; the same command continues. `--dataset` is the path of TinyShakespeare for
machines without a network; another text is refused. `--table` prints the committed results as
docs/study.md shows them, `--page` writes them as comparison.html, and `--compact` reduces the full
comparison of outputs/ to the committed form again (compact.py). With `--more_seeds` each command is
about the second part: two arms with eight further seeds.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compact import compact, to_text

FOLDER = Path(__file__).resolve().parent
REPOSITORY = FOLDER.parents[1]
OUTPUTS = FOLDER / "outputs"
CONFIG = REPOSITORY / "configs" / "shakespeare_char_cpu.yaml"

PENALTIES = ("neg_entropy", "non_max_sum", "neg_max_prob", "top_k_mass")
WEIGHTS = (0.03, 0.1, 0.3)
OWN_MAPS = ("maximum", "top-k")
"""The first words of the controls that belong to one penalty."""


@dataclass(frozen=True)
class Run:
    """One arm with one seed."""

    penalty: str
    weight: float
    seed: int

    @property
    def arm(self) -> str:
        """The name that its seeds share."""
        return "baseline" if self.weight == 0 else f"{self.penalty}_{self.weight:g}"

    @property
    def folder(self) -> Path:
        """Where the run is kept."""
        return OUTPUTS / f"{self.arm}_seed{self.seed}"

    def is_finished(self) -> bool:
        """Whether its summary names the last step."""
        try:
            summary = json.loads((self.folder / "summary.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return bool(summary["step"] == summary["num_steps"])


@dataclass(frozen=True)
class Part:
    """A part of the study: its arms, each with every seed, and the name of its comparison."""

    arms: tuple[tuple[str, float], ...]
    seeds: tuple[int, ...]
    name: str

    @property
    def full(self) -> Path:
        """What `sharpgpt compare` writes, with its page beside it; not committed."""
        return OUTPUTS / self.name / "comparison.json"

    @property
    def committed(self) -> Path:
        """The compact form of it."""
        return FOLDER / self.name / "comparison.json"

    def runs(self) -> list[Run]:
        """Every run, seed by seed, so that a study cut short has whole seeds; baselines first."""
        arms = (("neg_entropy", 0.0), *self.arms)
        return [Run(penalty, weight, seed) for seed in self.seeds for penalty, weight in arms]


FIRST = Part(tuple(itertools.product(PENALTIES, WEIGHTS)), seeds=(1, 2, 3), name="comparison")
MORE_SEEDS = Part(
    (("neg_entropy", 0.1), ("non_max_sum", 0.3)),
    seeds=tuple(range(4, 12)),
    name="more_seeds",
)


def train(run: Run, dataset: str) -> str | None:
    """Train or continue one run on one core; return what went wrong, or None."""
    command = [
        sys.executable, str(REPOSITORY / "train.py"), "--config", str(CONFIG), "--no_wandb",
        "--dataset", dataset, "--penalty_type", run.penalty, "--penalty_weight", str(run.weight),
        "--seed", str(run.seed), "--output_dir", str(OUTPUTS), "--run_name", run.folder.name,
        "--resume", "auto", "--num_generate_samples", "3", "--num_workers", "0", "--device", "cpu",
        "--dtype", "float32",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, cwd=REPOSITORY
    )
    if done.returncode != 0:
        return f"{run.folder.name}: exit code {done.returncode}\n{done.stderr[-2000:]}"
    facts = json.loads((run.folder / "environment.json").read_text(encoding="utf-8"))["data"]
    if facts["name"] != "tinyshakespeare":
        return f"{run.folder.name}: trained on {facts['name']}; give the path of TinyShakespeare"
    return None


def main() -> int:
    """Train what is missing and compare, or what a flag asks for; returns the exit code."""
    parser = argparse.ArgumentParser(
        description="Train every arm that is not trained yet, then compare."
    )
    parser.add_argument("--dataset", default="tinyshakespeare")
    parser.add_argument("--parallel", type=int, default=2, help="runs at a time, a core each [2]")
    parser.add_argument("--more_seeds", action="store_true", help="the second part of the study")
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--table", action="store_true", help="print the committed results")
    instead.add_argument("--page", action="store_true", help="the committed results as HTML")
    instead.add_argument(
        "--compact", action="store_true", help="reduce the full comparison to the committed form"
    )
    arguments = parser.parse_args()
    part = MORE_SEEDS if arguments.more_seeds else FIRST
    if arguments.table:
        print(table(json.loads(part.committed.read_text(encoding="utf-8"))))
        return 0
    if arguments.page:
        return write_page(part)
    if arguments.compact:
        return write_compact(part)
    runs = part.runs()
    left = [run for run in runs if not run.is_finished()]
    print(f"runs to train: {len(left)} of {len(runs)}", flush=True)

    def one(run: Run) -> str | None:
        problem = train(run, arguments.dataset)
        print(problem or f"finished {run.folder.name}", flush=True)
        return problem

    with ThreadPoolExecutor(arguments.parallel) as threads:
        problems = [problem for problem in threads.map(one, left) if problem]
    return 1 if problems else compare(part, arguments.dataset)


def compare(part: Part, dataset: str) -> int:
    """The verdict on every arm, with `sharpgpt compare`, and its compact form; returns the exit
    code."""
    folders = {run: run.folder.relative_to(REPOSITORY) for run in part.runs()}
    baselines = [
        flag
        for run, folder in folders.items()
        if run.weight == 0
        for flag in ("--baseline", folder)
    ]
    others = [folder for run, folder in folders.items() if run.weight != 0]
    command = [
        sys.executable, "-m", "sharpgpt", "compare", *baselines, *others,
        "--data", dataset, "--output", part.full.parent.relative_to(REPOSITORY),
    ]  # fmt: skip
    done = subprocess.run([*map(str, command)], check=False, cwd=REPOSITORY)
    return done.returncode or write_compact(part)


def write_compact(part: Part) -> int:
    """Write the committed form of the full comparison; returns the exit code."""
    try:
        full = json.loads(part.full.read_text(encoding="utf-8"))
    except FileNotFoundError:
        print(f"{part.full} does not exist; study.py without a flag writes it", file=sys.stderr)
        return 1
    part.committed.parent.mkdir(parents=True, exist_ok=True)
    part.committed.write_text(to_text(compact(full)), encoding="utf-8")
    print(part.committed)
    return 0


def write_page(part: Part) -> int:
    """Write the page of the committed results beside them; returns the exit code."""
    sys.path.insert(0, str(REPOSITORY))
    from sharpgpt.report.comparison import write_comparison

    content = json.loads(part.committed.read_text(encoding="utf-8"))
    print(write_comparison(content, part.committed.parent))
    return 0


def table(comparison: dict[str, Any]) -> str:
    """The verdicts as a Markdown table: differences in nats with their 95% intervals."""

    def interval(one: dict[str, Any], digits: int = 4) -> str:
        values = (f"{one[name]:+.{digits}f}" for name in ("estimate", "low", "high"))
        estimate, low, high = (value.replace("-", "−") for value in values)
        return f"{estimate} ({low} to {high})"

    lines = [
        "| arm | T | d against a temperature | against the entropy's map | against its own map "
        "| verdict |",
        "|---|---|---|---|---|---|",
    ]
    for arm in comparison["models"]:
        controls = arm["controls"]
        own = next((controls[name] for name in controls if name.split()[0] in OWN_MAPS), None)
        temperature = controls["temperature"]["parameter"]
        lines.append(
            f"| `{arm['name']}` | {sum(temperature) / len(temperature):.3f} "
            f"| {interval(controls['temperature'])} | {interval(controls['entropy map'])} "
            f"| {interval(own) if own else '–'} | {arm['verdict']} |"
        )
    lines += [
        "",
        "| arm | accuracy, points | top-5 accuracy, points | mean reciprocal rank "
        "| each at its best temperature, nats |",
        "|---|---|---|---|---|",
    ]
    for arm in comparison["models"]:
        unchanged = arm["unchanged_by_temperature"]
        points = [
            interval({name: 100 * (one[name] or 0) for name in ("estimate", "low", "high")}, 2)
            for one in (unchanged["accuracy"], unchanged["accuracy_top_5"])
        ]
        lines.append(
            f"| `{arm['name']}` | {' | '.join(points)} | {interval(unchanged['reciprocal_rank'])} "
            f"| {interval(arm['best_temperatures'])} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
