"""Processes of torchrun that meet a fault or a signal in one of them: they end together, saved."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.forked_python import run_forked

REPOSITORY = Path(__file__).resolve().parents[2]
FLAGS = (
    "--tokenizer char --n_layer 1 --n_head 2 --n_embd 16 --max_seq_length 16 --batch_size 2 "
    "--gradient_accumulation_steps 2 --max_steps 40 --eval_interval 0 --no_wandb --dropout 0 "
    "--generate_interval 0 --save_interval 5 --eval_max_blocks 9 --device cpu --run_name run"
)
SCRIPT = """
import errno, os, signal, sys, time
from datetime import timedelta

from sharpgpt.runtime import distributed
from sharpgpt.training import checks
from sharpgpt.data.blocks import TrainingBlocks, ValidationBlocks
from sharpgpt.runs import saver as saving
from sharpgpt.training import loop
from train import train_command

fault, is_first = sys.argv[1], os.environ["RANK"] == "0"
accumulate, micro_batch = loop.accumulate_gradients, TrainingBlocks.micro_batch
read_val, write = ValidationBlocks.__getitem__, saving.write_checkpoint
load = checks.load_training_data

def step(run, *rest):
    loss = accumulate(run, *rest)
    if run.progress.step == 12 and fault == "kill" and not is_first:
        os.kill(os.getpid(), signal.SIGKILL)
    if run.progress.step == 12 and fault == "nan":
        return loss * float("nan")
    if run.progress.step == 12 and fault == "signal" and not is_first:
        os.kill(os.getpid(), signal.SIGUSR1)
    if run.progress.step == 12 and fault == "twice":
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
    return loss

def read(blocks, first_block, number, **place):
    if number == 12 and fault == "read" and not is_first:
        raise OSError(errno.EIO, "Input/output error")
    return micro_batch(blocks, first_block, number, **place)

def read_validation(blocks, index):
    if not is_first and index.start > 2 and fault == "validation":
        raise OSError(errno.EIO, "Input/output error")
    if not is_first and index.start > 2 and fault == "signal in validation":
        os.kill(os.getpid(), signal.SIGUSR1)
    return read_val(blocks, index)

def slow_write(path, *given, **more):
    if path.name in ("step_00000012", "step_00000013"):
        time.sleep(2)
    return write(path, *given, **more)

def slow_load(*given, **more):
    if fault == "signal" and is_first:  # no process waits this long for a sum
        time.sleep(4)
    return load(*given, **more)

distributed.REDUCE_TIMEOUT = timedelta(seconds=3)
loop.accumulate_gradients, TrainingBlocks.micro_batch = step, read
ValidationBlocks.__getitem__, saving.write_checkpoint = read_validation, slow_write
checks.load_training_data = slow_load
code = train_command(sys.argv[2:])
os.write(1, f"\\nexit code {code}\\n".encode())  # in one piece, whatever the other prints
sys.exit(code)
"""


@pytest.fixture
def processes(tmp_path: Path, command_environment: dict[str, str]) -> "Launched":
    return Launched(tmp_path, command_environment)


class Launched:
    """A run of 40 steps with a fault in step 13, or at a validation."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        self._environment = environment | {"PYTHONPATH": str(REPOSITORY)}
        (folder / "faulty.py").write_text(SCRIPT, encoding="utf-8")
        (folder / "text.txt").write_text("To be, or not to be: that is it.\n" * 800, "utf-8")

    def run(self, fault: str, *flags: str, number: int = 2, returncode: int = 1) -> str:
        """What they print, to either stream."""
        done = run_forked(
            [
                "-W", "ignore", "-m", "torch.distributed.run", "--standalone",
                f"--nproc_per_node={number}", "faulty.py", fault, *FLAGS.split(),
                "--dataset", "text.txt", "--output_dir", ".", *flags,
            ],
            env=self._environment, cwd=self.folder, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert done.returncode == returncode, done.stdout  # torchrun's own
        assert "ended at once" not in done.stdout
        return done.stdout

    def steps(self) -> list[int]:
        """The checkpoints that are there."""
        return sorted(int(path.name[5:]) for path in self.folder.glob("run/checkpoints/step_*"))


def exit_codes(printed: str) -> list[str]:
    return re.findall(r"^exit code (\d+)$", printed, re.MULTILINE)


@pytest.mark.parametrize(
    ("fault", "flags", "step", "reason"),
    [
        ("nan", (), 12, "step 13: the loss is nan"),
        ("read", (), 12, "rank 1: error: step 13: the training text cannot be read ([Errno 5]"),
        ("validation", ("--eval_interval", "7"), 7, "step 7: the validation text cannot be read"),
    ],
)
def test_a_fault_in_one_process_ends_both_after_saving(
    processes: Launched, fault: str, flags: tuple[str, ...], step: int, reason: str
) -> None:
    printed = processes.run(fault, *flags)
    assert exit_codes(printed) == ["1", "1"], printed
    assert reason in printed
    assert f"the weights after step {step} are in run/checkpoints/step_{step:08d}" in printed
    assert "are in None" not in printed
    assert processes.steps()[-1] == step


def test_a_killed_process_is_named_by_the_other_one(processes: Launched) -> None:
    """Only the table of torchrun was printed."""
    printed = processes.run("kill")
    assert exit_codes(printed) == ["1"], printed
    assert re.search(
        r"^rank 0: error: rank 1 \(process \d+ on .*\) is gone: ", printed, re.MULTILINE
    )
    assert "start all ranks again with --run_name run --resume auto to continue from" in printed
    assert processes.steps()[-1] == 10
    assert "rank 1 (process" in (processes.folder / "run" / "log.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("fault", "number", "code"), [("signal", 2, "138"), ("twice", 2, "143"), ("twice", 1, "143")]
)
def test_a_signal_to_one_process_or_twice_stops_all_after_the_step(
    processes: Launched, fault: str, number: int, code: str
) -> None:
    printed = processes.run(fault, number=number)
    assert exit_codes(printed) == [code] * number, printed
    assert "Interrupted after step 13 of 40; saved" in printed
    assert processes.steps()[-1] == 13


def test_a_signal_to_one_process_interrupts_the_validation_of_all(
    processes: Launched,
) -> None:
    printed = processes.run("signal in validation", "--eval_interval", "7")
    assert exit_codes(printed) == ["138", "138"], printed
    assert "Interrupted after step 7 of 40; saved" in printed
    assert processes.steps()[-1] == 7
    assert due_work(processes.folder / "run" / "checkpoints" / "step_00000007") == ["validate"]
    ending = ["--eval_interval=7", "--resume=auto", "--max_steps=7", "--allow_config_change"]
    printed = processes.run("none", *ending, returncode=0)
    assert exit_codes(printed) == ["0", "0"], printed
    assert "step 7: validation CE" in printed
    assert due_work(processes.folder / "run" / "checkpoints" / "step_00000007") == []


def due_work(checkpoint: Path) -> list[str]:
    manifest = json.loads((checkpoint / "checkpoint.json").read_text("utf-8"))
    due: list[str] = manifest["after_step"]["due"]
    return due
