"""How the cost of everything grows: time and peak memory by size, exponents, and a plot.

    python benchmarks/bench_scaling.py
    python benchmarks/bench_scaling.py --sections step/length prepare/bytes --max_mb 200
    python benchmarks/bench_scaling.py --small       a trial, which writes nothing

A training step (4 layers, width 256, 4 blocks of 128 tokens, V = 50257, entropy penalty, float32)
by block length, width, vocabulary, micro-batches, and of a small model by processes; `prepare` by
bytes of text and by workers; the start of a run by the size of its data, the first time and later;
`evaluate` and `compare` by tokens. One size varies, the others stay.

Each size of a step, `evaluate` and `compare` is measured in a process of its own, forked from this
one, in which nothing was computed: its peak of resident memory above what it began with. Whole
commands are measured with their start, and their memory is that of all their processes together.
An exponent k says cost ~ size ** k, fitted to the logarithms. Results: results/scaling.json, where
sections that are not measured again stay as they are, and docs/images/scaling.png.
"""

import argparse
import json
import multiprocessing
import os
import random
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import bench_prepare
import numpy as np
import torch
from bench_fused import resident_bytes
from growth import growth, plot
from record import REPOSITORY, RESULTS, write_result
from training_step import TrainingStep

from sharpgpt.config import TrainingConfig
from sharpgpt.core.jsonio import read_object
from sharpgpt.evaluation.compare import compare
from sharpgpt.evaluation.evaluate import evaluate
from sharpgpt.runtime.device import Device
from sharpgpt.training.train import train

CPU = Device(torch.device("cpu"), torch.float32)
PICTURE = REPOSITORY / "docs" / "images" / "scaling.png"
BASE = TrainingConfig(
    n_layer=4, n_embd=256, n_head=4, max_seq_length=128, batch_size=4, dropout=0.0,
    gradient_accumulation_steps=1, penalty_type="neg_entropy", penalty_weight=0.1,
    num_workers=0, use_wandb=False, device="cpu", dtype="float32",
)  # fmt: skip
TINY = {
    "tokenizer": "char", "n_layer": 2, "n_embd": 64, "n_head": 2, "max_seq_length": 64,
    "batch_size": 32, "num_generate_samples": 0, "eval_interval": 0, "eval_max_blocks": 4,
    "save_interval": 0, "log_interval": 10,
}  # fmt: skip
"""Changes of BASE: a model whose steps take milliseconds."""
VOCABULARY = 50257


@dataclass(frozen=True)
class Sizes:
    """What is measured."""

    length: tuple[int, ...] = (64, 128, 256, 512, 1024)
    width: tuple[int, ...] = (64, 128, 256, 512, 1024)
    vocabulary: tuple[int, ...] = (65, 512, 4096, 16384, 50257, 131072)
    micro_batches: tuple[int, ...] = (1, 2, 4, 8)
    processes: tuple[int, ...] = (1, 2)
    megabytes: tuple[float, ...] = (10, 30, 100, 300, 1000, 2000)
    workers: tuple[int, ...] = (1, 2, 4)
    workers_megabytes: float = 100
    tokens: tuple[int, ...] = (16_384, 65_536, 262_144, 1_048_576, 4_194_304)
    repetitions: int = 5
    steps: int = 100


TRIAL = Sizes(
    length=(8, 16), width=(64, 128), vocabulary=(65, 512), micro_batches=(1, 2), processes=(1, 2),
    megabytes=(0.5, 1), workers=(1, 2), workers_megabytes=0.5, tokens=(1024, 4096), repetitions=2,
    steps=20,
)  # fmt: skip
Points = dict[float, dict[str, Any]]


def in_child(measure: Callable[..., list[float]], *given: Any) -> dict[str, Any]:
    """Median of the seconds that `measure` returns, and the peak of memory, in a forked process."""
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)

    def child() -> None:
        # Libraries allocate their own things first.
        TrainingStep(replace(BASE, n_layer=1, max_seq_length=8), 65, device=CPU)()
        before = resident_bytes()
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
            seconds = measure(*given)
        peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        send.send((seconds, peak - before))

    process = context.Process(target=child)
    process.start()
    send.close()
    try:
        seconds, peak = receive.recv()
    except EOFError:
        raise SystemExit(
            f"{measure.__name__}{given[1:]}: its process ended without a result"
        ) from None
    process.join()
    return figures(seconds, peak)


def figures(seconds: Sequence[float], peak_bytes: float | None = None) -> dict[str, Any]:
    found: dict[str, Any] = {
        "repetitions": len(seconds),
        "median_s": round(statistics.median(seconds), 5),
        "min_s": round(min(seconds), 5),
        "max_s": round(max(seconds), 5),
    }
    return found if peak_bytes is None else found | {"peak_mb": round(peak_bytes / 1e6, 1)}


def timed(call: Callable[[], object], repetitions: int, *, warm_up: int = 1) -> list[float]:
    seconds = []
    for repetition in range(warm_up + repetitions):
        started = time.perf_counter()
        call()
        if repetition >= warm_up:
            seconds.append(time.perf_counter() - started)
    return seconds


def step_seconds(repetitions: int, config: TrainingConfig, vocab_size: int) -> list[float]:
    return timed(TrainingStep(config, vocab_size, device=CPU), repetitions)


def steps(sizes: Sizes, setting: str, values: Sequence[int]) -> Points:
    points = {}
    for value in values:
        changes = {} if setting == "vocab_size" else {setting: value}
        if setting == "n_embd":
            changes["n_head"] = value // 64
        vocab_size = value if setting == "vocab_size" else VOCABULARY
        config = replace(BASE, **changes)
        points[value] = in_child(step_seconds, sizes.repetitions, config, vocab_size)
    return points


def processes(sizes: Sizes) -> Points:
    """Seconds of a step whose micro-batches the processes share, each with one thread."""
    points: Points = {}
    for number in sizes.processes:
        with tempfile.TemporaryDirectory() as folder:
            flags = flag_list(
                replace(BASE, **TINY, gradient_accumulation_steps=2 * max(sizes.processes)),
                max_steps=sizes.steps, output_dir=folder, run_name="run",
            )  # fmt: skip
            launcher = f"-m torch.distributed.run --standalone --nproc_per_node={number}"
            with environment(OMP_NUM_THREADS="1", SHARPGPT_OFFLINE="1"):
                _, peak, _ = bench_prepare.run([*launcher.split(), "train.py", *flags])
            lines = (Path(folder) / "run" / "metrics.jsonl").read_text("utf-8").splitlines()
        rates = [event["train/tokens_per_s"] for event in map(json.loads, lines[1:])
                 if "train/loss" in event]  # fmt: skip
        tokens = 2 * max(sizes.processes) * TINY["batch_size"] * TINY["max_seq_length"]
        points[number] = figures([tokens / rate for rate in rates], peak)
    return points


@contextmanager
def environment(**values: str) -> Iterator[None]:
    before = os.environ.copy()
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def flag_list(config: TrainingConfig, **more: Any) -> list[str]:
    """What differs from the defaults, as a command line."""
    defaults = TrainingConfig()
    changed = {n: v for n, v in config.to_dict().items() if v != getattr(defaults, n)} | more
    return [f"--{name}={value}" for name, value in changed.items()]


def prepare_bytes(sizes: Sizes) -> Points:
    return {size: prepared(size, workers=2) for size in sizes.megabytes}


def prepare_workers(sizes: Sizes) -> Points:
    return {number: prepared(sizes.workers_megabytes, workers=number) for number in sizes.workers}


def prepared(megabytes: float, *, workers: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus.parquet"
        documents = bench_prepare.shakespeare(random.Random(1))
        bench_prepare.write_corpus(corpus, documents, int(1e6 * megabytes))
        command = f"-m sharpgpt prepare --dataset {corpus} --num_workers {workers} --output"
        seconds, peak, _ = bench_prepare.run([*command.split(), f"{folder}/shards"])
    return figures([seconds], peak)


def startup(sizes: Sizes, *, again: bool) -> Points:
    """Until the first step is done; a first start hashes the data, later ones know the hashes."""
    points: Points = {}
    for megabytes in sizes.megabytes:
        with tempfile.TemporaryDirectory() as folder:
            data = Path(folder) / "data"
            data.mkdir()
            for split, count in (("train", int(megabytes * 5e5)), ("val", 10_000)):
                ids = np.random.default_rng(0).integers(0, VOCABULARY, count, dtype=np.uint16)
                ids.tofile(data / f"{split}.bin")
            small = replace(BASE, **TINY | {"tokenizer": "gpt2"}, max_steps=1, dataset=str(data))
            seconds, peaks = [], []
            with environment(SHARPGPT_CACHE=f"{folder}/cache"):
                for number in range(3 if again else 1):
                    flags = flag_list(small, output_dir=folder, run_name=f"run{number}")
                    _, peak, _ = bench_prepare.run(["train.py", *flags])
                    phases = read_object(Path(folder) / f"run{number}/summary.json")["startup_s"]
                    seconds.append(sum(phases.values()))
                    peaks.append(peak)
            points[megabytes] = figures(seconds[1:] or seconds, max(peaks))
            points[megabytes]["text_and_tokens_s"] = phases["text and tokens"]
    return points


def evaluation(sizes: Sizes, *, with_baseline: bool) -> Points:
    """Two models of a text of which half is for validation."""
    length = int(TINY["max_seq_length"])
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "text.txt"
        documents = bench_prepare.shakespeare(random.Random(1))
        with open(text, "w", encoding="utf-8") as file:
            while file.tell() < 2.2 * max(sizes.tokens) + 1e5:
                file.write(next(documents) + "\n\n")
        config = replace(
            BASE, **TINY, dataset=str(text), val_fraction=0.5, max_steps=20, warmup_steps=2,
            output_dir=folder,
        )  # fmt: skip
        for name, weight in (("plain", 0.0), ("sharp", 0.1)):
            in_child(lambda c: [0.0] if train(c) else [], replace(
                config, run_name=name, penalty_weight=weight))  # fmt: skip
        runs = [f"{folder}/{name}" for name in ("plain", "sharp")]
        points = {}
        # A comparison is many times the work: 2 minutes for a million tokens.
        for tokens in sizes.tokens[: -1 if with_baseline else None]:
            blocks = max(4, tokens // (length - 1))
            points[tokens] = in_child(
                evaluation_seconds, runs if with_baseline else runs[1:], blocks
            )
    return points


def evaluation_seconds(runs: Sequence[str], max_blocks: int) -> list[float]:
    options: dict[str, Any] = {"max_blocks": max_blocks, "num_texts": 0, "device": "cpu"}
    if len(runs) == 1:
        return timed(lambda: evaluate(runs[0], **options), 2)
    return timed(lambda: compare(runs[1], baseline=runs[0], **options), 2)


SECTIONS: dict[str, tuple[str, Callable[[Sizes], Points]]] = {
    "step/length": ("T, tokens of a block", lambda s: steps(s, "max_seq_length", s.length)),
    "step/width": ("width of the model", lambda s: steps(s, "n_embd", s.width)),
    "step/vocabulary": ("V, tokens of the vocabulary",
                        lambda s: steps(s, "vocab_size", s.vocabulary)),
    "step/micro_batches": ("micro-batches of a step", lambda s: steps(
        s, "gradient_accumulation_steps", s.micro_batches)),
    "step/processes": ("processes that share a step", processes),
    "prepare/bytes": ("text, MB", prepare_bytes),
    "prepare/workers": ("processes that tokenize", prepare_workers),
    "startup/first": ("tokens on disk, MB", lambda s: startup(s, again=False)),
    "startup/again": ("tokens on disk, MB", lambda s: startup(s, again=True)),
    "evaluate": ("validation tokens", lambda s: evaluation(s, with_baseline=False)),
    "compare": ("validation tokens", lambda s: evaluation(s, with_baseline=True)),
}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--max_mb", type=float, default=2000, help="of text and data [2000]")
    parser.add_argument("--small", action="store_true", help="a trial, which writes nothing")
    options = parser.parse_args(argv)
    sizes = TRIAL if options.small else Sizes()
    sizes = replace(sizes, megabytes=tuple(mb for mb in sizes.megabytes if mb <= options.max_mb))
    if not sizes.megabytes:
        parser.error(f"--max_mb: given {options.max_mb}, allowed is at least 10")
    import transformers.models.gpt2.modeling_gpt2  # noqa: F401  # once, not in every process

    measured = {}
    for name in options.sections:
        axis, measure = SECTIONS[name]
        started = time.perf_counter()
        measured[name] = growth(axis, measure(sizes))
        measured[name]["section_s"] = round(time.perf_counter() - started, 1)
        print(f"{name}: {json.dumps(measured[name]['exponents'])}", file=sys.stderr, flush=True)
    if options.small:
        print(json.dumps(measured, indent=2))
        return
    path = RESULTS / "scaling.json"
    before = read_object(path)["figures"] if path.exists() else {}
    found = {name: (before | measured)[name] for name in SECTIONS if name in before | measured}
    plot(found, PICTURE)
    command = "python benchmarks/bench_scaling.py"
    if options.sections != list(SECTIONS):
        command += f" --sections {' '.join(options.sections)}"
    write_result("scaling", f"{command} --max_mb {options.max_mb:g}", found)


if __name__ == "__main__":
    main()
