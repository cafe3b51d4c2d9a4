"""Write fixtures/ with the code of a checkout: `make_fixtures.py PATH_OF_THE_CHECKOUT`.

fixtures/text.txt is read; everything else there is made anew. README.md names the commit.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

FIXTURES = Path(__file__).with_name("fixtures")

PREPARE = "prepare --dataset documents.jsonl --val_fraction 0.3 --shard_tokens 1000 --num_workers 0"
PREPARED = {
    "sharpgpt": f"{PREPARE} --tokenizer char",
    "nanogpt": f"{PREPARE} --tokenizer gpt2 --form nanogpt",
    "llm.c": f"{PREPARE} --tokenizer gpt2 --form llm.c",
}
"""The form and the command that writes shards/FORM."""

TINY = (
    "train --n_layer 2 --n_head 2 --n_embd 12 --max_seq_length 16 --batch_size 4 "
    "--gradient_accumulation_steps 1 --warmup_steps 2 --learning_rate 0.02 --dropout 0.1 "
    "--penalty_type neg_entropy --penalty_weight 0.1 --log_interval 3 --eval_interval 4 "
    "--generate_interval 4 --num_generate_samples 1 --generate_max_length 12 --save_interval 4 "
    "--keep_checkpoints 2 --num_workers 0 --device cpu --no_wandb --output_dir runs"
)
"""Metrics are logged every 3 steps and checkpoints saved every 4, so each holds half a window."""

RUNS = {
    "adamw": f"{TINY} --tokenizer char --dataset text.txt --max_steps 8",
    "muon": f"{TINY} --tokenizer char --dataset shards/sharpgpt --max_steps 12 --optimizer muon",
}
"""The run and the command that writes runs/RUN."""

CONTINUED = {
    "fork": "train --config runs/adamw/config.yaml --max_steps 12 "
    "--allow_config_change --resume runs/adamw/checkpoints/step_00000004",
    "adamw": "train --config runs/adamw/config.yaml --resume runs/adamw --max_steps 12 "
    "--allow_config_change",
    "muon": "train --config runs/muon/config.yaml --resume auto",
    "on_sharpgpt": f"{TINY} --tokenizer char --dataset shards/sharpgpt --max_steps 2",
    "on_nanogpt": f"{TINY} --tokenizer gpt2 --dataset shards/nanogpt --max_steps 2",
    "on_llm.c": f"{TINY} --tokenizer gpt2 --dataset shards/llm.c --max_steps 2",
}
"""The run and the command that continues or starts it; reference/RUN.jsonl keeps its metrics."""

SAMPLED = ("runs/adamw", "runs/adamw/checkpoints/step_00000004", "runs/muon")
SAMPLE = "sample --prompt 'the ' --max_new_tokens 40 --seed 1"
EVALUATE = "evaluate runs/adamw --data shards/sharpgpt --output evaluation"

TIMES = ("time_s", "train/tokens_per_s", "train/mfu")


def metrics(run_folder: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what a clock measured."""
    lines = (run_folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]


def estimates(evaluation: Path) -> dict[str, float]:
    """The statistics of the one model in an evaluation.json."""
    (found,) = json.loads(evaluation.read_text(encoding="utf-8"))["evaluations"]
    return {name: interval["estimate"] for name, interval in found["figures"].items() if interval}


def machine(run_folder: Path) -> dict[str, Any]:
    """What decides the order of float32 sums."""
    found = json.loads((run_folder / "environment.json").read_text(encoding="utf-8"))
    names = ("cpu", "cpu_capability", "num_threads")
    return {name: found["hardware"][name] for name in names} | {"torch": found["versions"]["torch"]}


def documents(text: Path) -> str:
    """The paragraphs of the text as JSON lines."""
    paragraphs = text.read_text(encoding="utf-8").split("\n\n")[:-1]
    return "".join(json.dumps({"text": paragraph}) + "\n" for paragraph in paragraphs)


def main(checkout: Path) -> None:
    environment = os.environ | {
        "PYTHONPATH": str(checkout),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "SHARPGPT_OFFLINE": "1",
        "HF_HUB_OFFLINE": "1",
    }
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)

        def sharpgpt(command: str) -> str:
            words = [sys.executable, "-P", "-m", "sharpgpt", *shlex.split(command)]
            done = subprocess.run(
                words, cwd=work, env=environment, check=True, stdout=subprocess.PIPE, text=True
            )
            return done.stdout

        shutil.copy(FIXTURES / "text.txt", work)
        (work / "documents.jsonl").write_text(documents(work / "text.txt"), encoding="utf-8")
        for form, command in PREPARED.items():
            sharpgpt(f"{command} --output shards/{form}")
        for name, command in RUNS.items():
            sharpgpt(f"{command} --run_name {name}")
        # As a crash after step 8 leaves a run: metrics go further than the newest checkpoint.
        shutil.rmtree(work / "runs/muon/checkpoints/step_00000012")
        for leftover in (*work.rglob("report.html"), *work.rglob("*.lock")):
            leftover.unlink()
        for described in work.rglob("environment.json"):
            text = described.read_text(encoding="utf-8")
            described.write_text(text.replace(f"{checkout}/", ""), encoding="utf-8")
        for folder in ("runs", "shards", "reference"):
            shutil.rmtree(FIXTURES / folder, ignore_errors=True)
        shutil.copytree(work, FIXTURES, dirs_exist_ok=True)

        reference: dict[str, Any] = {"machine": machine(work / "runs/adamw")}
        reference["samples"] = {model: sharpgpt(f"{SAMPLE} {model}") for model in SAMPLED}
        sharpgpt(EVALUATE)
        reference["evaluation"] = estimates(work / "evaluation/evaluation.json")
        (FIXTURES / "reference").mkdir(exist_ok=True)
        (FIXTURES / "reference" / "results.json").write_text(
            json.dumps(reference, indent=1) + "\n", encoding="utf-8"
        )
        for name, command in CONTINUED.items():
            sharpgpt(f"{command} --run_name {name}")
            events = [json.dumps(event) + "\n" for event in metrics(work / "runs" / name)]
            (FIXTURES / "reference" / f"{name}.jsonl").write_text("".join(events), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
