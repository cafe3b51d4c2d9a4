import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from sharpgpt.core.errors import UserError
from sharpgpt.data.pieces import GPT2_PATTERN
from sharpgpt.data.prepare.encoding import Gpt2Coding, Gpt2Encoder, encode_texts, gpt2_coding
from sharpgpt.data.prepare.workers import WorkerPool
from sharpgpt.data.tokenizer import Gpt2Tokenizer

REPOSITORY = Path(__file__).resolve().parents[3]
END = 50256
NOTHING = np.array([], np.uint16)


@pytest.fixture(scope="module")
def coding() -> Gpt2Coding:
    return gpt2_coding(Gpt2Tokenizer().ranks, GPT2_PATTERN)


@pytest.fixture(scope="module")
def pool(coding: Gpt2Coding) -> Iterator[WorkerPool]:
    pool = WorkerPool(coding, np.array([END], np.uint16), 2)
    yield pool
    pool.close()


BATCHES = [[f"batch {i} text {j} é漢👍 " * (1 + 40 * (i % 3)) for j in range(7)] for i in range(20)]


def test_processes_give_what_one_process_gives(pool: WorkerPool, coding: Gpt2Coding) -> None:
    encoder = Gpt2Encoder(coding)
    end = np.array([END], np.uint16)
    ends = [True, False, True, True, False, False, True]
    futures = [pool.submit(batch, ends) for batch in BATCHES]
    for batch, future in zip(BATCHES, futures, strict=True):
        there = future.result()
        expected = encode_texts(encoder.encode, batch, ends, end, audit=encoder.audit)
        assert there.ids.tolist() == expected.ids.tolist()
        assert there.counts == expected.counts
        assert there.num_bytes == expected.num_bytes == [len(text.encode()) for text in batch]


def test_what_is_wrong_with_a_batch_comes_back_as_its_error(coding: Gpt2Coding) -> None:
    """The encoders of a process compare themselves; here one of them gets another pattern."""
    if not coding.is_fast:
        pytest.skip("splintr is not installed")
    other = Gpt2Coding(coding.ranks, r"\S+|\s+", is_fast=True)
    pool = WorkerPool(other, NOTHING, 1)
    try:
        with pytest.raises(UserError, match="pip uninstall splintr-rs"):
            pool.submit(["I'll see you in 1999!"], [True]).result()
        assert pool.submit(["I"], [True]).result().counts == [1]
    finally:
        pool.close()


def test_a_process_that_is_killed_is_one_message(coding: Gpt2Coding) -> None:
    pool = WorkerPool(coding, NOTHING, 1)
    try:
        pool.submit(["alive"], [True]).result()
        os.kill(pool._workers[0]._process.pid, signal.SIGKILL)
        with pytest.raises(UserError, match=r"signal 9 \(SIGKILL\); most likely.*out of memory"):
            pool.submit(["dead"], [True]).result()
    finally:
        pool.close()


def test_closing_ends_every_process_in_the_middle_of_its_work(coding: Gpt2Coding) -> None:
    pool = WorkerPool(coding, NOTHING, 2)
    for _ in range(20):
        pool.submit(["some text " * 100_000], [True])
    pool.close()
    assert all(worker._process.returncode is not None for worker in pool._workers)


def test_a_process_does_not_import_torch() -> None:
    program = "import sys, sharpgpt.data.prepare.workers; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, check=True)


SCRIPT = """
import sys, time
import numpy as np
sys.path.insert(0, {root!r})
from sharpgpt.data.pieces import GPT2_PATTERN
from sharpgpt.data.tokenizer import Gpt2Tokenizer
from sharpgpt.data.prepare.encoding import Gpt2Coding
from sharpgpt.data.prepare.workers import WorkerPool

coding = Gpt2Coding("".join(open(sys.argv[1])), GPT2_PATTERN, False)
pool = WorkerPool(coding, np.array([], np.uint16), 1)
assert pool.submit(["hello world"], [True]).result().ids.tolist() == [31373, 995]
print(pool._workers[0]._process.pid, flush=True)
time.sleep(60)
"""


def is_running(process: Path) -> bool:
    """Not so a process that has ended and that nobody has asked about yet."""
    try:
        return (process / "stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks processes up in /proc")
def test_a_script_without_a_guard_may_use_them_and_they_do_not_outlive_it(
    coding: Gpt2Coding, tmp_path: Path
) -> None:
    """multiprocessing would run the script again in each process, and leave them behind."""
    (tmp_path / "ranks").write_text(coding.ranks)
    (tmp_path / "script.py").write_text(SCRIPT.format(root=str(REPOSITORY)))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "numpy.py").write_text("raise SystemExit('not to be imported')")
    script = subprocess.Popen(
        [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "ranks")],
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path / "elsewhere",
    )
    assert script.stdout is not None
    try:
        process = Path("/proc") / script.stdout.readline().strip()
        assert process.name != "proc"
        assert is_running(process)
    finally:
        script.kill()
        script.wait()
        script.stdout.close()
    deadline = time.monotonic() + 10
    while is_running(process) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not is_running(process)
