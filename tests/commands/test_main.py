"""The commands as a person types them: real processes, exit codes, one clear message."""

import itertools
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from sharpgpt.commands import main as cli
from sharpgpt.commands.main import main, train_command
from sharpgpt.config.training_flags import parse_training_flags
from tests.forked_python import ForkedPython

REPOSITORY = Path(__file__).resolve().parents[2]
TINY_COMMAND = (
    "--tokenizer char --n_layer 1 --n_head 2 --n_embd 16 --max_seq_length 16 --batch_size 2 "
    "--gradient_accumulation_steps 1 --max_steps 3 --eval_max_blocks 2 --num_generate_samples 1 "
    "--generate_max_length 8 --no_wandb --device cpu"
)
TINY = TINY_COMMAND.split()


def text_file(folder: Path, content: bytes = b"To be, or not to be: that is it.\n" * 40) -> str:
    path = folder / "text.txt"
    path.write_bytes(content)
    return str(path)


def command(
    *arguments: str, environment: dict[str, str], cwd: Path = REPOSITORY, timeout: int = 120
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip


def test_help_needs_no_torch(command_environment: dict[str, str]) -> None:
    """What makes --help answer within a second; the second itself is in benchmarks/."""
    code = (
        "import sys, train, contextlib\n"
        "with contextlib.suppress(SystemExit): train.train_command(['--help'])\n"
        "heavy = {'torch', 'transformers', 'wandb', 'matplotlib', 'numpy'}\n"
        "print('heavy:', heavy & set(sys.modules))"
    )
    done = command("-c", code, environment=command_environment)
    assert "heavy: set()" in done.stdout
    assert "--penalty_weight NUM" in done.stdout


def test_the_commands_are_listed_without_torch_and_each_has_a_help(
    command_environment: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    code = (
        "import sys, contextlib; from sharpgpt.commands.main import main\n"
        "with contextlib.suppress(SystemExit): main(['--help'])\n"
        "print('heavy:', {'torch', 'numpy', 'pydantic', 'rich'} & set(sys.modules))"
    )
    done = command("-c", code, environment=command_environment)
    assert "heavy: set()" in done.stdout
    for name in cli.COMMANDS:
        assert f"\n    {name} " in done.stdout
        with pytest.raises(SystemExit) as ended:
            main([name, "--help"])
        assert ended.value.code == 0
        assert capsys.readouterr().out.startswith(f"usage: sharpgpt {name} ")
    with pytest.raises(SystemExit) as ended:
        main(["trian"])
    assert ended.value.code == 2


def test_the_exit_codes_are_said_where_they_are_looked_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["train", "--help"])
    assert ended.value.code == 0
    printed = " ".join(capsys.readouterr().out.split())
    said = " ".join(cli.__doc__.split("Exit codes: ")[1].split())
    assert f"Exit codes: {said}" in printed
    assert "130 for SIGINT, which is Ctrl-C, 143 for SIGTERM, 129 for SIGHUP" in said


def test_a_run_from_the_command_line(command_environment: dict[str, str], tmp_path: Path) -> None:
    done = command(
        "train.py", *TINY, "--dataset", text_file(tmp_path), "--output_dir", str(tmp_path / "o"),
        "--run_name", "cli", environment=command_environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "first step done" in done.stdout
    for name in ("report.html", "samples.jsonl", "checkpoints/step_00000003"):
        assert str(tmp_path / "o" / "cli" / name) in done.stdout
    assert done.stderr == ""


def test_dry_run_trains_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = [*TINY, "--dataset", text_file(tmp_path), "--dry_run"]
    assert train_command(arguments) == 0
    printed = capsys.readouterr().out
    assert "penalty_weight: 0.01" in printed
    # 16 * (16 characters + 16 positions) + one layer of 12 * 16^2 + 13 * 16 + the last norm 2 * 16
    assert f"{16 * (16 + 16) + 12 * 256 + 13 * 16 + 32:,} parameters" in printed
    assert "tokens per step   32" in printed
    assert "steps             3 (96 tokens" in printed
    assert "FLOPs" in printed
    assert "memory, estimate" in printed
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b" \n\n ", "empty"),
        (b"\x00\x01\x02" * 500, "binary"),
        ("café ".encode("latin-1") * 400, "UTF-8"),
        (b"too short", "too short for blocks of max_seq_length = 16"),
    ],
)
def test_texts_that_cannot_be_trained_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, message: str
) -> None:
    path = text_file(tmp_path, content)
    assert train_command([*TINY, "--dataset", path, "--output_dir", str(tmp_path / "o")]) == 1
    printed = capsys.readouterr()
    assert message in printed.err
    assert path in printed.err
    assert "Traceback" not in printed.err
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--penalty_wieght", "1"], 2, "did you mean --penalty_weight"),
        (["--batch_size", "-1"], 2, "given -1, allowed is a whole number, at least 1"),
        (["--n_embd", "15"], 2, "n_embd: given 15 with n_head 2"),
        (["--max_seq_length", "5000"], 2, "allowed for gpt2 is at most 1024"),
        (["--top_k", "1000"], 1, "top_k: given 1000, allowed is at most the vocabulary size, 16"),
        (["--generate_prompt", "@"], 1, "generate_prompt: "),
        (["--device", "cuda:7"], 2, "here there is cpu"),
        (["--dataset", "openwebtext"], 1, "openwebtext"),
        (["--dataset", "tinyshakespear"], 1, "tinyshakespeare"),
        (["--output_dir", "{file}/inside"], 1, "output_dir: the run folder"),
        (["--model_name", "no/where"], 1, "model_name: given the name 'no/where'"),
        (["--resume", "nowhere"], 1, "resume: given 'nowhere'"),
    ],
)
def test_what_a_new_user_gets_wrong(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    # The hub's client reads the variable when it is imported; it would ask for 20 seconds.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    path = text_file(tmp_path)
    arguments = [argument.replace("{file}", path) for argument in arguments]
    given = [*TINY, "--dataset", path, "--output_dir", str(tmp_path / "o"), *arguments]
    assert train_command(given) == code
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.startswith("error: ")
    assert "Traceback" not in printed.err


def test_report_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = [*TINY, "--dataset", text_file(tmp_path), "--run_name", "again"]
    assert main(["train", *given]) == 0
    page = tmp_path / "outputs" / "again" / "report.html"
    page.unlink()
    assert main(["report", "outputs/again"]) == 0
    assert page.exists()
    assert main(["report", "outputs/none"]) == 1
    assert "no such run folder" in capsys.readouterr().err


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_ends(
    command_environment: dict[str, str], tmp_path: Path, kind: signal.Signals
) -> None:
    run_folder = tmp_path / "o" / "stopped"
    process = ForkedPython(
        [
            "train.py", *TINY, "--max_steps", "1000000", "--log_interval", "1",
            "--dataset", text_file(tmp_path), "--output_dir", str(tmp_path / "o"),
            "--run_name", "stopped",
        ],
        cwd=REPOSITORY, env=command_environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    metrics, deadline = run_folder / "metrics.jsonl", time.monotonic() + 60
    while not metrics.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(kind)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + kind
    assert "Interrupted after step" in out
    assert err.strip() == f"{kind.name}: saving after this step (again to end at once)"
    (checkpoint,) = (run_folder / "checkpoints").iterdir()
    state = json.loads((checkpoint / "training_state.json").read_text(encoding="utf-8"))
    last_line = metrics.read_text(encoding="utf-8").splitlines()[-1]
    assert state["step"] == json.loads(last_line)["step"]
    assert (run_folder / "report.html").exists()


def test_the_progress_bar_on_a_terminal(
    command_environment: dict[str, str], tmp_path: Path
) -> None:
    ours, theirs = pty.openpty()
    process = ForkedPython(
        [
            "train.py", *TINY, "--dataset", text_file(tmp_path),
            "--output_dir", str(tmp_path / "o"), "--run_name", "bar", "--log_interval", "1",
        ],
        cwd=REPOSITORY, env=command_environment | {"COLUMNS": "150", "TERM": "xterm"},
        stdout=theirs, stderr=theirs, stdin=theirs,
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 65536):
            shown += chunk
    except OSError:  # Linux says so when the other end is closed
        pass
    assert process.wait(timeout=60) == 0
    text = shown.decode()
    for part in ("step 3/3", "CE ", "penalty ", "max p ", "tokens/s", "Finished 3 steps"):
        assert part in text
    log = (tmp_path / "o" / "bar" / "log.txt").read_text(encoding="utf-8")
    assert "step 2/3  CE " in log
    assert "\x1b" not in log


def test_the_committed_sweep_gives_flags_of_a_training() -> None:
    """Each combination, as W&B's own agent writes it."""
    from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

    sweep = yaml.safe_load((REPOSITORY / "configs" / "sweep.yaml").read_text(encoding="utf-8"))
    choices = [one.get("values") or [one["value"]] for one in sweep["parameters"].values()]
    found = set()
    for values in itertools.product(*choices):
        given = {n: {"value": v} for n, v in zip(sweep["parameters"], values, strict=True)}
        flags = create_sweep_command_args({"args": given})["args"]
        config, _ = parse_training_flags(flags, "train.py")
        found.add((config.penalty_weight, config.seed, config.n_layer))
    weights = (0.0, 0.005, 0.01, 0.02, 0.05)
    assert found == {(weight, seed, 4) for weight in weights for seed in (1, 2, 3)}


def test_a_sweep_can_drive_the_flags(
    tiny_config: Callable[..., object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`wandb sweep` runs `python train.py --name=value ...`, booleans and lists included."""
    sweep = ["--penalty_weight=0.05", "--use_wandb=False", "--compile=False", "--betas=[0.9, 0.99]"]
    given = [*TINY, "--dataset", text_file(tmp_path), "--output_dir", str(tmp_path / "o"), *sweep]
    assert train_command([*given, "--run_name=swept"]) == 0
    resolved = (tmp_path / "o" / "swept" / "config.yaml").read_text(encoding="utf-8")
    assert "penalty_weight: 0.05" in resolved
    assert "betas: [0.9, 0.99]" in resolved
