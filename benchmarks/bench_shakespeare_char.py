"""Validation CE of the character recipe on the real TinyShakespeare: at most 1.90.

    python benchmarks/bench_shakespeare_char.py [PATH OF TINYSHAKESPEARE]

nanoGPT publishes 1.88 for this recipe. Trains for two to four minutes on two CPU cores; without a
path the text comes from the cache or the network, and the stand-in is refused.
"""

import json
import sys
import tempfile
import time

from record import REPOSITORY, write_result

from sharpgpt.config import TrainingConfig
from sharpgpt.training.build import load_training_data
from sharpgpt.training.train import train

TARGET_CE = 1.90


def main() -> int:
    config = TrainingConfig.from_yaml(REPOSITORY / "configs" / "shakespeare_char_cpu.yaml")
    if sys.argv[1:]:
        config.dataset = sys.argv[1]
    if load_training_data(config).name != "tinyshakespeare":
        print(
            "This is not TinyShakespeare, so the result would not be comparable; nothing was run."
        )
        return 1
    with tempfile.TemporaryDirectory() as folder:
        config.output_dir, config.run_name = folder, "shakespeare_char_cpu"
        started = time.perf_counter()
        result = train(config)
        seconds = time.perf_counter() - started
        text = (result.run_folder / "environment.json").read_text(encoding="utf-8")
    environment = json.loads(text)
    val_ce = result.metrics["val/ce_loss"]
    results = {
        "val_ce": round(val_ce, 4),
        "target_val_ce": TARGET_CE,
        "met": val_ce <= TARGET_CE,
        "steps": result.step,
        "repetitions": 1,
        "config": config.to_dict() | {"dataset": "tinyshakespeare", "output_dir": "./outputs"},
        "seconds": round(seconds, 1),
        "num_parameters": environment["model"]["num_parameters"],
        "data_sha256": environment["data"]["sha256"],
        "val": {name: value for name, value in result.metrics.items() if name.startswith("val/")},
    }
    write_result(
        "shakespeare_char_cpu",
        "python benchmarks/bench_shakespeare_char.py",
        results,
    )
    return 0 if results["met"] else 1


if __name__ == "__main__":
    sys.exit(main())
