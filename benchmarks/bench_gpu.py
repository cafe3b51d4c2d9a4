"""All that can be said of one GPU, in one command of less than ten minutes.

    make gpu                                         the same, with what it needs installed
    python benchmarks/bench_gpu.py
    python benchmarks/bench_gpu.py --sections loss chunks
    python benchmarks/bench_gpu.py --device cpu --small      a trial of this file, without a GPU

    tests    the tests of tests/cuda: loss against reference, a run, its resumption
    loss     N = 8192, D = 768, V = 50257 in bfloat16: three matrix products in the same chunks,
             ours with weight 0 and each penalty, Liger-Kernel's, PyTorch's (chunked and not), and
             dense
    step     GPT-2 small in bfloat16, 16 blocks of 1,024 tokens, eager and compiled, with and
             without a penalty: tokens/s, MFU, peak memory
    chunks   our loss by the size of its chunks
    recipe   200 steps of configs/neg_entropy.yaml on the text that is there without a network

Times are between CUDA events on an idle device; cases take turns, medians count. Results, with the
targets and whether each is met: results/gpu-NAME.json, written after each section. A section that
fails is recorded with its error, and the others go on. Exit code: 0; 1 if a section failed; 2
without a GPU. A trial on a CPU writes nothing and is no measurement.
"""

import argparse
import gc
import json
import operator
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from bench_fused import inputs, liger_case, loss_case, pytorch_case, three_products
from record import REPOSITORY, save_result
from timing import alternating, free, peak_bytes
from training_step import TrainingStep

from sharpgpt.config import TrainingConfig
from sharpgpt.runtime.device import Device, choose_device, peak_flops
from sharpgpt.sharpness import PENALTIES, fused, reference
from sharpgpt.training.build import training_flops_per_token
from sharpgpt.training.train import train

PENALTY, WEIGHT = "neg_entropy", 0.1
PLAIN = "ours, weight 0"


@dataclass(frozen=True)
class Sizes:
    """Of the problems: those of GPT-2 small, or a trial's."""

    shape: tuple[int, int, int] = (8192, 768, 50257)
    rounds: int = 20
    chunks: tuple[int, ...] = (256, 512, 1024, 2048, 4096, 8192)
    model: tuple[tuple[str, Any], ...] = (("batch_size", 16), ("max_seq_length", 1024))
    vocab_size: int = 50257
    backend: str = "inductor"
    recipe: tuple[tuple[str, Any], ...] = (("max_steps", 200), ("compile", True))


TRIAL = Sizes(
    shape=(96, 16, 300),
    rounds=2,
    chunks=(32, 96),
    model=(("batch_size", 2), ("max_seq_length", 16), ("n_layer", 1), ("n_embd", 16),
           ("n_head", 1)),
    vocab_size=300,
    backend="eager",
    recipe=(("max_steps", 3), ("tokenizer", "char"), ("n_layer", 1), ("n_embd", 16),
            ("n_head", 1), ("max_seq_length", 16), ("batch_size", 2), ("eval_max_blocks", 2),
            ("num_generate_samples", 0)),
)  # fmt: skip


@dataclass
class Bench:
    """What a section needs to know, and what the sections before it found."""

    device: Device
    sizes: Sizes
    results: dict[str, Any]

    @property
    def on(self) -> torch.device:
        """The device."""
        return self.device.torch_device

    def timed(self, cases: dict[str, Callable[[], object]]) -> dict[str, dict[str, Any]]:
        """Milliseconds and extra memory of each case; a case without memory says so."""
        times = alternating(cases, self.on, rounds=self.sizes.rounds)
        table = {}
        for name, values in times.items():
            if not values:
                table[name] = {"error": "out of memory"}
                continue
            memory = peak_bytes(cases[name], self.on)
            table[name] = {
                "repetitions": len(values),
                "median_ms": round(1e3 * statistics.median(values), 4),
                "min_ms": round(1e3 * min(values), 4),
                "max_ms": round(1e3 * max(values), 4),
                "extra_memory_gb": None if memory is None else round(memory / 1e9, 3),
            }
        return table


def tests(bench: Bench) -> dict[str, Any]:
    if bench.on.type != "cuda":
        return {"skipped": "tests/cuda needs a GPU"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/cuda"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    lines = done.stdout.splitlines()
    if done.returncode:
        print(done.stdout, done.stderr, file=sys.stderr)
        failed = [line[:300] for line in lines if line.startswith(("FAILED", "ERROR"))]
        raise RuntimeError(f"tests/cuda: {lines[-1] if lines else done.returncode}; {failed}")
    return {"summary": lines[-1]}


def loss(bench: Bench) -> dict[str, Any]:
    """A case gets new gradients in every call, and the three products no loss."""
    given = inputs(*bench.sizes.shape, device=bench.on, dtype=torch.bfloat16)
    ours = fused.linear_sharpness_loss
    ways = {
        "three products": three_products,
        PLAIN: loss_case(ours),
        **{
            f"ours, {name}": loss_case(ours, penalty=name, penalty_weight=WEIGHT)
            for name in PENALTIES
        },
        "F.linear_cross_entropy, options: chunked": pytorch_case(
            torch.nn.LinearCrossEntropyOptions()
        ),
        "F.linear_cross_entropy, no options: not chunked": pytorch_case(None),
        "dense, weight 0": loss_case(reference.linear_sharpness_loss),
        f"dense, {PENALTY}": loss_case(
            reference.linear_sharpness_loss, penalty=PENALTY, penalty_weight=WEIGHT
        ),
    }
    missing = {}
    if liger := liger_case(bench.on):
        ways["Liger-Kernel"] = liger
    else:
        missing["Liger-Kernel"] = {"error": "not measured: pip install -e '.[gpu]', on a GPU"}
        print("Liger-Kernel is not installed, or this is no GPU: its loss is not measured")
    table = bench.timed({name: lambda way=way: way(*given) for name, way in ways.items()})
    for row in table.values():
        if "median_ms" in row:
            for name in ("three products", PLAIN):
                row[f"over {name}"] = round(row["median_ms"] / table[name]["median_ms"], 3)
    return dict(zip("NDV", bench.sizes.shape, strict=True)) | {"cases": table | missing}


def step(bench: Bench) -> dict[str, Any]:
    base = TrainingConfig(dropout=0.0, gradient_accumulation_steps=1, **dict(bench.sizes.model))
    peak, source = peak_flops(bench.device)
    steps: dict[str, TrainingStep] = {}
    for way in ("eager", "compiled"):
        for name, weight in (("weight 0", 0.0), (PENALTY, WEIGHT)):
            config = replace(
                base, penalty_type=PENALTY, penalty_weight=weight, compile=way == "compiled"
            )
            steps[f"{way}, {name}"] = TrainingStep(
                config, bench.sizes.vocab_size, device=bench.device, backend=bench.sizes.backend
            )
    table = bench.timed(dict(steps))
    for name, row in table.items():
        if "median_ms" in row:
            tokens_per_s = steps[name].num_tokens / row["median_ms"] * 1e3
            flops = training_flops_per_token(steps[name].causal_lm, steps[name].config)
            num_parameters = sum(p.numel() for p in steps[name].causal_lm.parameters())
            extra = row["extra_memory_gb"]
            # Weights and AdamW's two averages in float32; gradients are in the extra memory.
            row["peak_memory_gb"] = extra and round(extra + 12 * num_parameters / 1e9, 3)
            row["tokens_per_s"] = round(tokens_per_s)
            row["mfu"] = round(tokens_per_s * flops / peak, 4)
            row["over weight 0"] = round(
                row["median_ms"] / table[f"{name.split(',')[0]}, weight 0"]["median_ms"], 4
            )
    return {"peak_flops": peak, "peak_flops_source": source, "model": dict(bench.sizes.model),
            "dtype": bench.device.dtype_name, "cases": table}  # fmt: skip


def chunks(bench: Bench) -> dict[str, Any]:
    given = inputs(*bench.sizes.shape, device=bench.on, dtype=torch.bfloat16)
    cases = {}
    for size in bench.sizes.chunks:
        way = loss_case(
            fused.linear_sharpness_loss, penalty=PENALTY, penalty_weight=WEIGHT, chunk_size=size
        )
        cases[f"{size} rows"] = lambda way=way: way(*given)
    num_rows, _, vocab_size = bench.sizes.shape
    default = fused.default_chunk_size(num_rows, vocab_size, bench.on.type)
    return {"default_rows": default, "cases": bench.timed(cases)}


def recipe(bench: Bench) -> dict[str, Any]:
    config = TrainingConfig.from_yaml(REPOSITORY / "configs" / "neg_entropy.yaml")
    with tempfile.TemporaryDirectory() as folder:
        changes: dict[str, Any] = {
            "device": str(bench.on), "use_wandb": False, "output_dir": folder, "run_name": "recipe",
            "eval_interval": 0, "generate_interval": 0, "save_interval": 0, "warmup_steps": 50,
            "dataset": "tinyshakespeare",
        }  # fmt: skip
        started = time.perf_counter()
        result = train(replace(config, **{**changes, **dict(bench.sizes.recipe)}))
        seconds = time.perf_counter() - started
        lines = (result.run_folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    logged = [json.loads(line) for line in lines]
    steps = [event for event in logged if "train/ce_loss" in event]
    return {
        "settings": dict(bench.sizes.recipe),
        "wall_s": round(seconds, 1),
        "train/ce_loss": {event["step"]: round(event["train/ce_loss"], 4) for event in steps},
        "val/ce_loss": round(result.metrics["val/ce_loss"], 4),
        # The first windows compile.
        "tokens_per_s": round(statistics.median(e["train/tokens_per_s"] for e in steps[-10:])),
        "mfu": round(statistics.median(e["train/mfu"] for e in steps[-10:]), 4),
    }


SECTIONS: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "tests": tests, "loss": loss, "step": step, "chunks": chunks, "recipe": recipe,
}  # fmt: skip


def targets(results: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Each target whose figures are there, the figure and whether it is met."""
    losses = results.get("loss", {}).get("cases", {})
    steps = results.get("step", {}).get("cases", {})

    def over(first: str, second: str) -> float | None:
        pair = [losses.get(name, {}).get("median_ms") for name in (first, second)]
        return None if None in pair else round(pair[0] / pair[1], 4)

    def of(choose: Callable[..., float], figures: list[Any]) -> float | None:
        return None if None in figures else choose(figures)

    penalties = [over(f"ours, {name}", PLAIN) for name in PENALTIES]
    mfu = [steps.get(f"compiled, {name}", {}).get("mfu") for name in ("weight 0", PENALTY)]
    found: dict[str, tuple[float | None, Callable[[float, float], bool], float]] = {
        "worst penalty over our plain loss, at most 1.05": (of(max, penalties), operator.le, 1.05),
        "our plain loss over the three products, at most 1.3": (
            over(PLAIN, "three products"), operator.le, 1.3,
        ),
        "our plain loss over Liger-Kernel's, at most 1": (
            over(PLAIN, "Liger-Kernel"), operator.le, 1,
        ),
        "MFU of a compiled step, at least 0.4": (of(min, mfu), operator.ge, 0.4),
    }  # fmt: skip
    return {
        name: {"figure": figure, "met": None if figure is None else is_met(figure, limit)}
        for name, (figure, is_met, limit) in found.items()
    }


def result_name(device_name: str) -> str:
    """gpu-nvidia-h100-80gb-hbm3."""
    return "gpu-" + re.sub(r"[^a-z0-9]+", "-", device_name.lower()).strip("-")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="tiny sizes; required on a CPU")
    parser.add_argument("--check", action="store_true", help="only look for a GPU")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    options = parser.parse_args(argv)
    if options.device == "cuda" and not torch.cuda.is_available():
        print(
            "bench_gpu: this machine has no CUDA GPU, or this build of PyTorch "
            f"({torch.__version__}) cannot use it; --device cpu --small tries the code without one",
            file=sys.stderr,
        )
        return 2
    if options.check:
        return 0
    if options.device == "cpu" and not options.small:
        parser.error("--device cpu: only with --small, which is a trial and measures nothing")
    os.environ.setdefault("SHARPGPT_OFFLINE", "1")
    device = choose_device(TrainingConfig(device=options.device))
    bench = Bench(device, TRIAL if options.small else Sizes(), {})
    is_trial = options.small or options.device == "cpu"
    failed = False
    for name in options.sections:
        started = time.perf_counter()
        print(f"{'TRIAL, no measurement: ' if is_trial else ''}{name} ...", flush=True)
        try:
            bench.results[name] = SECTIONS[name](bench)
        except Exception as error:
            traceback.print_exc()
            bench.results[name] = {"error": " ".join(f"{type(error).__name__}: {error}".split())}
            failed = True
        bench.results[name]["section_s"] = round(time.perf_counter() - started, 1)
        torch.compiler.reset()
        gc.collect()
        free(bench.on)
        if not is_trial:
            figures = {"targets": targets(bench.results), **bench.results}
            path = save_result(result_name(device.name()), "make gpu", figures)
    print(json.dumps({"targets": targets(bench.results), **bench.results}, indent=2))
    if not is_trial:
        print(f"written to {path.relative_to(REPOSITORY)}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
