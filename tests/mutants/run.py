"""Apply each mutant to a copy of the tree, run its tests there, and count those that are noticed.

    python -m tests.mutants.run                 all of them
    python -m tests.mutants.run lock fsync      those with one of these words in their title

A mutant is killed when a test fails, or when its tests take longer than LIMIT_S. Exit code 1: a
mutant survived that is not listed as equivalent, fewer than MIN_KILLED are killed, or one could not
be tried: the old text is gone, or the tests cannot be collected.

Each run of tests is a fork of this process, which has imported what takes seconds and nothing of
the project. Needs git, and a system with fork.
"""

import importlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.mutants.mutant import Mutant
from tests.mutants.table import ALL

ROOT = Path(__file__).resolve().parents[2]
NUM_WORKERS = 2
LIMIT_S = 120
MIN_KILLED = 0.95
PRELOADED = (
    "filelock", "huggingface_hub", "hypothesis", "networkx", "numpy", "pyarrow", "pydantic",
    "safetensors.torch", "sympy", "tiktoken", "tokenizers", "torch", "torch._dynamo",
    "torch._functorch.aot_autograd", "torch.distributed.checkpoint.state_dict",
    "torch.fx.experimental.symbolic_shapes", "torch.testing._internal.optests",
    "transformers", "transformers.models.gpt2.modeling_gpt2", "transformers.generation.utils",
)  # fmt: skip


def copy_tree(target: Path) -> None:
    """The files of the working tree that git knows or would add."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout
    for name in filter(None, listed.decode().split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


class Worker:
    """A copy of the tree in which one mutant at a time is tried."""

    def __init__(self, tree: Path) -> None:
        self.tree = tree
        self.mutant: Mutant | None = None
        self._output = tree.with_suffix(".txt")
        self._moment = int(time.time())
        self._original = ""
        self._process: int | None = None
        self._begun = 0.0

    @property
    def seconds(self) -> float:
        """Since the tests began."""
        return time.monotonic() - self._begun

    def start(self, tests: tuple[str, ...], mutant: Mutant | None) -> None:
        """Begin to run the tests, with the mistake in its file. Raises as `Mutant.source`."""
        if mutant is not None:
            mutated = mutant.source(self.tree)
            self._original = (self.tree / mutant.file).read_text(encoding="utf-8")
            self._write(mutant.file, mutated)
        self.mutant = mutant
        self._begun = time.monotonic()
        self._process = os.fork()
        if self._process == 0:
            self._run(tests)

    def outcome(self) -> str | None:
        """None while the tests run, then passed, killed, "killed (time limit)", or an error."""
        assert self._process is not None
        is_late = self.seconds > LIMIT_S
        if is_late:
            os.killpg(self._process, signal.SIGKILL)
        ended, status = os.waitpid(self._process, 0 if is_late else os.WNOHANG)
        if not ended:
            return None
        self._process = None
        if self.mutant is not None:
            self._write(self.mutant.file, self._original)
        if is_late:
            return "killed (time limit)"
        known = {0: "passed", 1: "killed"}.get(os.waitstatus_to_exitcode(status))
        return known or f"error\n{self._output.read_text(errors='replace')[-3000:]}"

    def _write(self, file: str, text: str) -> None:
        """Each text gets a time of its own: Python's cached bytecode knows a file by its size and
        its time in seconds, which a mutant may share with the original."""
        self._moment += 1
        (self.tree / file).write_text(text, encoding="utf-8")
        os.utime(self.tree / file, (self._moment, self._moment))

    def _run(self, tests: tuple[str, ...]) -> None:
        """In the forked process: pytest, with the packages of the copy. Does not return."""
        code = 3
        try:
            os.setsid()
            with open(self._output, "wb") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            os.chdir(self.tree)
            sys.dont_write_bytecode = False
            os.environ["PYTHONPATH"] = str(self.tree)
            sys.path[:] = [str(self.tree), *(p for p in sys.path if p not in ("", str(ROOT)))]
            for name in [name for name in sys.modules if name.split(".")[0] == "tests"]:
                del sys.modules[name]
            temporary = f"--basetemp={self.tree.with_suffix('.tmp')}"
            # anyio, which httpx imports, is a plugin too, and pytest would like to be the first.
            how = ["-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
            code = pytest.main(["-x", "-q", *how, temporary, *tests])
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(int(code))


@dataclass(frozen=True)
class Work:
    """Tests to run, with a mutant or without one."""

    title: str
    tests: tuple[str, ...]
    mutant: Mutant | None = None


def run_all(
    works: list[Work], trees: list[Path], show: Callable[[int, str, float, str], None]
) -> dict[str, str]:
    """Title -> outcome. `show` is given the place, the title, the seconds and the outcome."""
    outcomes: dict[str, str] = {}
    waiting, busy = deque(works), dict[Worker, str]()
    idle = [Worker(tree) for tree in trees]
    while waiting or busy:
        while waiting and idle:
            work, worker = waiting.popleft(), idle.pop()
            try:
                worker.start(work.tests, work.mutant)
                busy[worker] = work.title
            except (OSError, ValueError, SyntaxError) as error:
                outcomes[work.title] = f"error\n{error}"
                idle.append(worker)
        for worker, title in list(busy.items()):
            if outcome := worker.outcome():
                outcomes[title] = outcome
                show(len(outcomes), title, worker.seconds, outcome)
                del busy[worker]
                idle.append(worker)
        time.sleep(0.05)
    return outcomes


def main() -> int:
    words = sys.argv[1:]
    chosen = [m for m in ALL if not words or any(word in m.title for word in words)]
    # Without a mistake every test passes, or a mutant that is killed would mean nothing.
    works = [
        Work(f"(no mistake) {' '.join(tests)}", tests)
        for tests in dict.fromkeys(mutant.tests for mutant in chosen)
    ]
    num_sound = len(works)
    works += [Work(mutant.title, mutant.tests, mutant) for mutant in chosen]
    started = time.monotonic()
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    for name in PRELOADED:
        importlib.import_module(name)

    def show(place: int, title: str, seconds: float, outcome: str) -> None:
        what = outcome.partition("\n")[0]
        print(f"{place}/{len(works)} {seconds:4.0f} s  {what:7} {title[:110]}", flush=True)

    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        trees = [Path(folder) / str(number) for number in range(NUM_WORKERS)]
        for tree in trees:
            copy_tree(tree)
        outcomes = run_all(works, trees, show)
    for work in works[:num_sound]:
        if outcomes[work.title].startswith("killed"):
            outcomes[work.title] = "error\nthese tests fail without a mistake"
    return report(chosen, outcomes, time.monotonic() - started)


def report(chosen: list[Mutant], outcomes: dict[str, str], seconds: float) -> int:
    """Print what was found; the exit code."""
    errors = {title: found for title, found in outcomes.items() if found.startswith("error")}
    survivors = [mutant for mutant in chosen if outcomes.get(mutant.title) == "passed"]
    killed = [mutant for mutant in chosen if outcomes.get(mutant.title, "").startswith("killed")]
    unexplained = [mutant for mutant in survivors if not mutant.equivalent]
    refuted = [mutant for mutant in killed if mutant.equivalent]
    for title, found in errors.items():
        print(f"ERROR {title}\n{found}")
    for mutant in survivors:
        print(f"SURVIVED {mutant.title}: {mutant.equivalent or 'no test notices it'}")
    for mutant in refuted:
        print(f"KILLED, though listed as equivalent: {mutant.title}")
    share = len(killed) / max(1, len(chosen))
    print(
        f"{len(chosen)} mutants: {len(killed)} killed ({share:.1%}), {len(survivors)} survived, of "
        f"which {len(survivors) - len(unexplained)} are equivalent, {len(errors)} errors; "
        f"{seconds / 60:.1f} minutes"
    )
    return int(bool(errors or unexplained or refuted) or share < MIN_KILLED)


if __name__ == "__main__":
    sys.exit(main())
