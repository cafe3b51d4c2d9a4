"""nanoGPT and SharpGPT in turn on the same work: steps, memory, and time to a validation loss.

    git clone https://github.com/karpathy/nanoGPT
    python benchmarks/bench_peers.py nanoGPT [--sections small character memory loss]
        [--text TINYSHAKESPEARE] [--recipe configs/shakespeare_char_fast.yaml]

    small       a step of GPT-2 small, 4 blocks of 256 tokens: tokens/s
    character   a step of nanoGPT's character model for CPUs, 12 blocks of 64 characters
    memory      the peak of the resident set of a process that makes these steps
    loss        whole runs of the character recipe with each program's own command: wall time and
                tokens to nanoGPT's published validation loss, 1.88, on the whole validation text

Cases alternate; figures are medians, and ratios medians of the ratios within a round. nanoGPT runs
from its own files, with its own optimizer and the loss of its forward; eager and compiled, in
float32 and under bfloat16 autocast. Its vocabulary is 50,304, as its train.py pads it; ours 50,257.
Ours has a penalty on. Results: results/peers.json.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import pickle
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from record import REPOSITORY, spread, write_result
from timing import alternating
from training_step import TrainingStep

from sharpgpt.config import TrainingConfig
from sharpgpt.runtime.device import Device
from sharpgpt.sharpness.products import cpu_multiplies_bfloat16

CPU = torch.device("cpu")
PUBLISHED_LOSS = 1.88
SHAPES = {
    "small": {"n_layer": 12, "n_head": 12, "n_embd": 768, "batch": 4, "block": 256},
    "character": {"n_layer": 4, "n_head": 4, "n_embd": 128, "batch": 12, "block": 64},
}
VOCABULARIES = {"small": (50304, 50257), "character": (65, 65)}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
ROUNDS = {"small": 7, "character": 60}
RECIPE = [
    "--device=cpu", "--compile=False", "--eval_iters=20", "--log_interval=1", "--block_size=64",
    "--batch_size=12", "--n_layer=4", "--n_head=4", "--n_embd=128", "--max_iters=2000",
    "--lr_decay_iters=2000", "--dropout=0.0",
]  # fmt: skip
"""The options that nanoGPT's README gives for CPUs."""


def load_nanogpt(checkout: Path) -> ModuleType:
    """The module model.py of the checkout."""
    spec = importlib.util.spec_from_file_location("nanogpt_model", checkout / "model.py")
    if spec is None or spec.loader is None or not (checkout / "model.py").is_file():
        sys.exit(f"nanogpt: given {checkout}, allowed is a checkout of nanoGPT (with model.py)")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def nanogpt_step(
    module: ModuleType, size: str, dtype: str, *, is_compiled: bool = False
) -> Callable[[], None]:
    """A step as nanoGPT's train.py makes it: forward, backward, clipping, fused AdamW."""
    shape, vocab_size = SHAPES[size], VOCABULARIES[size][0]
    with contextlib.redirect_stdout(sys.stderr):
        config = module.GPTConfig(
            n_layer=shape["n_layer"], n_head=shape["n_head"], n_embd=shape["n_embd"],
            block_size=shape["block"], vocab_size=vocab_size, dropout=0.0, bias=False,
        )  # fmt: skip
        model: Any = module.GPT(config)
        optimizer = model.configure_optimizers(0.1, 1e-3, (0.9, 0.95), "cpu")
    parameters = list(model.parameters())
    if is_compiled:
        model = torch.compile(model)
    generator = torch.Generator().manual_seed(0)
    ids_BT = torch.randint(65, (shape["batch"], shape["block"] + 1), generator=generator)

    def step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == "bfloat16"):
            _, loss = model(ids_BT[:, :-1], ids_BT[:, 1:].contiguous())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def our_step(size: str, dtype: str, *, is_compiled: bool = False, weight: float = 0.05) -> Any:
    """A step of ours, with the penalty on, by the calls of the training loop."""
    shape = SHAPES[size]
    config = TrainingConfig(
        n_layer=shape["n_layer"], n_head=shape["n_head"], n_embd=shape["n_embd"],
        max_seq_length=shape["block"], batch_size=shape["batch"], gradient_accumulation_steps=1,
        penalty_type="neg_entropy", penalty_weight=weight, compile=is_compiled,
    )  # fmt: skip
    output = DTYPES[dtype] if cpu_multiplies_bfloat16() else torch.float32
    device = Device(CPU, DTYPES[dtype], output)
    return TrainingStep(config, VOCABULARIES[size][1], device=device)


def cases(module: ModuleType, size: str, *, with_compiled: bool) -> dict[str, Callable[[], None]]:
    """Name -> a step."""
    found: dict[str, Callable[[], None]] = {}
    for dtype in DTYPES:
        for is_compiled in (False, True) if with_compiled else (False,):
            name = f"{dtype}, compiled" if is_compiled else dtype
            found[f"nanoGPT, {name}"] = nanogpt_step(module, size, dtype, is_compiled=is_compiled)
            found[f"ours, {name}"] = our_step(size, dtype, is_compiled=is_compiled)
    return found


def products_gflops() -> dict[str, float]:
    """GFLOP/s of a square product of this machine: what bounds the ratio of the two dtypes."""
    found = {}
    for name, dtype in DTYPES.items():
        a = torch.ones(2048, 2048, dtype=dtype)
        times = []
        for _ in range(8):
            started = time.perf_counter()
            a @ a
            times.append(time.perf_counter() - started)
        found[name] = round(2 * 2048**3 / statistics.median(times) / 1e9)
    return found


def measure_steps(module: ModuleType, size: str, *, with_compiled: bool) -> dict[str, Any]:
    """Medians of each case, and of its ratio to nanoGPT's eager float32 step in the same round."""
    shape = SHAPES[size]
    num_tokens = shape["batch"] * shape["block"]
    seconds = alternating(
        cases(module, size, with_compiled=with_compiled), CPU, rounds=ROUNDS[size], warm_up=3
    )

    def over(name: str, other: str) -> float:
        pairs = zip(seconds[name], seconds[other], strict=True)
        return round(statistics.median(a / b for a, b in pairs), 3)

    table = {
        name: {
            **spread(times),
            "median_ms": round(1e3 * statistics.median(times), 2),
            "tokens_per_s": round(num_tokens / statistics.median(times), 1),
            "over nanoGPT, float32": over(name, "nanoGPT, float32"),
            "over ours, float32": over(name, "ours, float32"),
        }
        for name, times in seconds.items()
    }
    return {
        "tokens of a step": num_tokens,
        "products of 2048 x 2048, GFLOP/s": products_gflops(),
        "ours over nanoGPT in the same dtype, eager": {
            dtype: over(f"ours, {dtype}", f"nanoGPT, {dtype}") for dtype in DTYPES
        },
        "cases": table,
    }


def measure_memory(checkout: Path, name: str) -> None:
    """In a process of its own: three steps of GPT-2 small, then print the peak resident bytes."""
    program, dtype = name.split(", ")
    step = nanogpt_step(load_nanogpt(checkout), "small", dtype) if program == "nanoGPT" else None
    step = step or our_step("small", dtype)
    for _ in range(3):
        step()
    status = Path("/proc/self/status").read_text(encoding="ascii")
    peak = re.search(r"VmHWM:\s+(\d+) kB", status)  # ru_maxrss begins with that of the parent
    assert peak is not None
    print(int(peak[1]) * 1024)


def peak_memory_gb(checkout: Path) -> dict[str, float]:
    """Program and dtype -> peak of the resident set."""
    found = {}
    for name in (f"{program}, {dtype}" for program in ("nanoGPT", "ours") for dtype in DTYPES):
        command = [sys.executable, __file__, str(checkout), "--memory", name]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found[name] = round(int(output.split()[-1]) / 1e9, 3)
    return found


def prepare_like_nanogpt(text: Path, folder: Path) -> None:
    """The files of its data/shakespeare_char/prepare.py, from a text that is here already."""
    data = text.read_text(encoding="utf-8")
    characters = sorted(set(data))
    place = {character: number for number, character in enumerate(characters)}
    ids = np.array([place[character] for character in data], dtype=np.uint16)
    cut = int(len(data) * 0.9)
    folder.mkdir(parents=True, exist_ok=True)
    ids[:cut].tofile(folder / "train.bin")
    ids[cut:].tofile(folder / "val.bin")
    meta = {"vocab_size": len(characters), "itos": dict(enumerate(characters)), "stoi": place}
    (folder / "meta.pkl").write_bytes(pickle.dumps(meta))


def losses_over_time(
    command: Sequence[str], folder: Path, pattern: str
) -> tuple[list[tuple[int, float, float]], float]:
    """([(step, seconds since the start, validation loss)], seconds of the whole run)."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "COLUMNS": "200"}
    started, found = time.perf_counter(), []
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if match := re.search(pattern, line):
                seconds = time.perf_counter() - started
                found.append((int(match[1].replace(",", "")), seconds, float(match[2])))
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with exit code {process.returncode}")
    return found, time.perf_counter() - started


def nanogpt_final_loss(module: ModuleType, checkout: Path) -> float:
    """Of the checkpoint on the whole validation text, in blocks of 64 with 64 predictions each."""
    saved = torch.load(checkout / "out-shakespeare-char" / "ckpt.pt", weights_only=False)
    with contextlib.redirect_stdout(sys.stderr):
        model = module.GPT(module.GPTConfig(**saved["model_args"]))
    model.load_state_dict(saved["model"])
    model.eval()
    ids = np.fromfile(checkout / "data" / "shakespeare_char" / "val.bin", dtype=np.uint16)
    num_blocks = (len(ids) - 1) // 64
    ids_N = torch.from_numpy(ids[: num_blocks * 64 + 1].astype(np.int64))
    inputs_BT, targets_BT = ids_N[:-1].view(-1, 64), ids_N[1:].view(-1, 64)
    with torch.no_grad():
        losses = [
            model(x, y)[1].item() * len(x)
            for x, y in zip(inputs_BT.split(64), targets_BT.split(64), strict=True)
        ]
    return sum(losses) / num_blocks


def whole_runs(module: ModuleType, checkout: Path, text: Path, recipe: Path) -> dict[str, Any]:
    """Both programs on the character recipe, from the start of the process."""
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary) / "nanoGPT"
        shutil.copytree(checkout, copy, ignore=shutil.ignore_patterns(".git"))
        prepare_like_nanogpt(text, copy / "data" / "shakespeare_char")
        theirs, seconds = losses_over_time(
            [sys.executable, "train.py", "config/train_shakespeare_char.py", *RECIPE],
            copy,
            r"^step (\d+): .* val loss ([\d.]+)",
        )
        results = {
            "nanoGPT": {
                "seconds of its 2,000 steps": round(seconds, 1),
                "tokens": 2000 * 12 * 64,
                "its own validation losses (20 random batches)": theirs,
                "loss on the whole validation text": round(nanogpt_final_loss(module, copy), 4),
            }
        }
        for config in (REPOSITORY / "configs" / "shakespeare_char_cpu.yaml", recipe):
            settings = TrainingConfig.from_yaml(config)
            output = Path(temporary) / config.stem
            ours, whole_s = losses_over_time(
                [
                    sys.executable, "train.py", "--config", str(config), "--dataset", str(text),
                    "--output_dir", str(output), "--run_name", "run", "--num_generate_samples", "0",
                ],
                REPOSITORY,
                r"^step ([\d,]+): validation CE ([\d.]+)",
            )  # fmt: skip
            reached = [(step, when) for step, when, loss in ours if loss <= PUBLISHED_LOSS]
            step, when = reached[0] if reached else (None, None)
            tokens = settings.batch_size * settings.gradient_accumulation_steps * 64
            results[config.stem] = {
                "seconds of the whole run": round(whole_s, 1),
                "validation losses": ours,
                f"step of the first validation at most {PUBLISHED_LOSS}": step,
                "seconds to it": round(when, 1) if when else None,
                "tokens to it": step * tokens if step else None,
                "seconds to it over nanoGPT's run": round(when / seconds, 3) if when else None,
            }
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("nanogpt", type=Path, help="a checkout of nanoGPT")
    names = ["small", "character", "memory", "loss"]
    parser.add_argument("--sections", nargs="+", choices=names, default=names)
    parser.add_argument("--text", type=Path, help="TinyShakespeare, for the section loss")
    parser.add_argument(
        "--recipe", type=Path, default=REPOSITORY / "configs" / "shakespeare_char_fast.yaml"
    )
    parser.add_argument("--compiled", action="store_true", help="compiled steps too")
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    args = parser.parse_args()
    checkout = args.nanogpt.resolve()
    module = load_nanogpt(checkout)
    if args.memory:
        return measure_memory(checkout, args.memory)
    if "loss" in args.sections and args.text is None:
        parser.error("--text: the section loss needs the path of TinyShakespeare")
    path = REPOSITORY / "benchmarks" / "results" / "peers.json"
    results = json.loads(path.read_text(encoding="utf-8"))["figures"] if path.exists() else {}
    for section in args.sections:
        if section in SHAPES:
            results[section] = measure_steps(module, section, with_compiled=args.compiled)
        elif section == "memory":
            results[section] = {"peak of the resident set, GB": peak_memory_gb(checkout)}
        else:
            results[section] = whole_runs(module, checkout, args.text.resolve(), args.recipe)
        write_result("peers", "python benchmarks/bench_peers.py nanoGPT", results)
    return None


if __name__ == "__main__":
    main()
