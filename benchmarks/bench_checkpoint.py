"""How long training waits for a checkpoint of GPT-2 small, with and without background saving.

    python benchmarks/bench_checkpoint.py

Real steps of GPT-2 small (B=4, T=128) in one process; a checkpoint after every fourth. The stall is
the time that the loop spends in saving; steps during the writing are compared with those after it.
The first background checkpoint also allocates its buffers, so it is listed separately.
"""

import contextlib
import io
import resource
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from record import REPOSITORY, spread, write_result

from sharpgpt.config import TrainingConfig
from sharpgpt.runs.saver import CheckpointSaver
from sharpgpt.training.state import Training
from sharpgpt.training.train import train

STEPS, INTERVAL = 13, 4


def one_run(folder: Path, *, background: bool) -> dict[str, Any]:
    """The seconds of each save, of its writing, and of the steps during and after the writing."""
    config = TrainingConfig.from_yaml(REPOSITORY / "configs" / "quick_test.yaml")
    config = replace(
        config, max_steps=STEPS, save_interval=INTERVAL, background_saving=background,
        keep_checkpoints=1, eval_interval=0, eval_max_blocks=1, num_generate_samples=0,
        output_dir=str(folder), run_name=f"background-{background}",
    )  # fmt: skip
    stalls, writes, beside, after = list[float](), list[float](), list[float](), list[float]()
    last_written = 0.0
    save, write, end_step = CheckpointSaver.save, CheckpointSaver._write, Training.end_step

    def timed_save(self: CheckpointSaver, *rest: Any) -> None:
        started = time.perf_counter()
        save(self, *rest)
        stalls.append(time.perf_counter() - started)

    def timed_write(self: CheckpointSaver, *rest: Any) -> None:
        nonlocal last_written
        started = time.perf_counter()
        write(self, *rest)
        last_written = time.perf_counter()
        writes.append(last_written - started)

    def timed_step(self: Training, started: float, *, is_taken: bool) -> None:
        writing = self.outputs.saver._writing
        is_writing = writing is not None and not writing.done()
        if self.progress.step > 0:
            was_beside = is_writing or started < last_written
            (beside if was_beside else after).append(time.perf_counter() - started)
        end_step(self, started, is_taken=is_taken)

    CheckpointSaver.save, CheckpointSaver._write = timed_save, timed_write  # type: ignore[method-assign]
    Training.end_step = timed_step  # type: ignore[method-assign]
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            train(config)
    finally:
        CheckpointSaver.save, CheckpointSaver._write = save, write  # type: ignore[method-assign]
        Training.end_step = end_step  # type: ignore[method-assign]
    return {
        "first_stall_s": round(stalls[0], 3),
        "stall_s": spread(stalls[1:]),
        "write_s": spread(writes[:-1]),
        "steps_beside_writing_s": [round(seconds, 3) for seconds in beside],
        "median_step_s": round(statistics.median(after), 3),
        "peak_memory_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        # The waiting one first: the peak of memory is that of the whole process so far.
        results = {
            "training waits": one_run(Path(folder), background=False),
            "in the background": one_run(Path(folder), background=True),
        }
    write_result("checkpoint", "python benchmarks/bench_checkpoint.py", results)


if __name__ == "__main__":
    main()
