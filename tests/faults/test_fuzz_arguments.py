"""The arguments of every command, fuzzed: what was asked for, or one clear message.

A refused argument (exit code 2) is one line, or one for each problem, and nothing is written.
"""

import json
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import strategies as st

from sharpgpt.commands.compare import CompareOptions
from sharpgpt.commands.evaluate import EvaluateOptions
from sharpgpt.commands.inspect import InspectOptions
from sharpgpt.commands.main import COMMANDS, main
from sharpgpt.commands.power import PowerOptions
from sharpgpt.commands.push import PushOptions
from sharpgpt.commands.report import ReportOptions
from sharpgpt.commands.sample import SampleOptions
from sharpgpt.commands.study import StudyCommand
from sharpgpt.commands.view import ViewOptions
from sharpgpt.config import TrainingConfig
from sharpgpt.config.options import Options, annotations, choices, validated
from sharpgpt.config.scalars import read_short_value
from sharpgpt.data.prepare.options import PrepareOptions
from sharpgpt.training.train import train
from tests.evaluation.test_pilot import pilot_content
from tests.faults.fuzz import fuzz, require_clear, watched
from tests.faults.harness import command_here, write_text_file
from tests.faults.hostile import RAW_SCALARS, text

TINY = [
    "--tokenizer=char", "--n_layer=1", "--n_head=2", "--n_embd=16", "--max_seq_length=16",
    "--device=cpu", "--no_wandb", "--dataset=text.txt", "--output_dir=out",
]  # fmt: skip
STUDY = """
question: Any?
settings:
  {dataset: text.txt, tokenizer: char, n_layer: 1, n_head: 2, n_embd: 16, max_seq_length: 16,
   max_steps: 2, device: cpu, dtype: float32}
arms: {a: {penalty_weight: 0}, b: {penalty_weight: 0.1}}
seeds: [1]
"""
FEW = ["--num_texts=0", "--num_tokens=8", "--max_blocks=4", "--output=out"]
SOUND: dict[str, tuple[type[Options], list[str]]] = {
    "train": (TrainingConfig, [*TINY, "--dry_run"]),
    "prepare": (
        PrepareOptions,
        ["--dataset=text.txt", "--output=out", "--tokenizer=char", "--num_workers=0"],
    ),
    "inspect": (InspectOptions, ["prepared"]),
    "sample": (SampleOptions, ["run", "--max_new_tokens=3"]),
    "view": (ViewOptions, ["or not to be", "--runs", "run", "other", "--max_tokens=9"]),
    "evaluate": (EvaluateOptions, ["run", *FEW]),
    "compare": (CompareOptions, ["run", "--baseline=other", *FEW]),
    "power": (PowerOptions, ["--pilot=pilot.json", "--detect=0.01"]),
    "study": (StudyCommand, ["study.yaml", "--plan", "--output=out"]),
    "push": (PushOptions, ["run", "me/tiny", "--dry_run=out"]),
    "report": (ReportOptions, ["run"]),
}
"""Of each command its options, and arguments that it accepts."""

NUMBERS = [
    "1e-42", "5e-324", "1e-400", "nan", "inf", "-inf", "-0.0", "0.0", "1e400", "-1", "0", "1", "2",
    "3", "9", "0.5", "1e-7", "1e7", "2147483648", "4294967295", "4294967296", "9223372036854775808",
    "18446744073709551616", "1000000000000", "1000000000001", "9" * 400, "1.0000000000000002", "",
]  # fmt: skip
PATHS = [
    ".", "text.txt", "text.txt/inside", "run", "run/", "other", "run/config.yaml", "run/best",
    "run/latest", "run/checkpoints", "prepared", "prepared/manifest.json", "empty", "nowhere",
    "nowhere/deeper", "loop", "dangling", "fifo", "a\x00b", "\x00", "caf\udce9", "\ud800", "a\nb",
    "\x1b[2J", "\u202eabc", "a" * 241, "a" * 256, "a" * 5000, "a/" * 2500, "é" * 130, "~",
    "~nosuchuser/x", "$HOME", "$HOME/x", "$NOWHERE", " ", "", "-", "a b", "*.txt", "me/tiny",
]  # fmt: skip
DEVICES = ["cuda", "cuda:0", "cuda:999", "cuda:" + "9" * 30, "mps", "meta", "xpu", "CPU", "cpu "]
OTHERS = ["--", "-", "--help", "-h", "--no", "--=", "@text.txt", "-1", "--device", "--seed", "x"]


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs, one of them with a penalty, prepared data, a text, and strange files."""
    folder = tmp_path_factory.mktemp("pristine")
    write_text_file(folder / "text.txt")
    for name, weight in (("run", 0.1), ("other", 0.0)):
        settings = {
            "tokenizer": "char", "n_layer": 1, "n_head": 2, "n_embd": 16, "max_seq_length": 16,
            "batch_size": 2, "gradient_accumulation_steps": 1, "max_steps": 2, "warmup_steps": 1,
            "num_generate_samples": 0, "eval_max_blocks": 2, "use_wandb": False, "device": "cpu",
            "num_workers": 0, "dataset": str(folder / "text.txt"), "output_dir": str(folder),
            "run_name": name, "penalty_weight": weight,
        }  # fmt: skip
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sharpgpt.training.result.write_report", lambda _: None)
            patch.setattr("sharpgpt.training.build.peak_flops", lambda _: (1e12, "none"))
            train(TrainingConfig.from_dict(settings))
    prepared = ["--dataset", str(folder / "text.txt"), "--output", str(folder / "prepared")]
    assert main(["prepare", *prepared, "--tokenizer=char", "--num_workers=0"]) == 0
    (folder / "pilot.json").write_text(json.dumps(pilot_content()), "utf-8")
    (folder / "study.yaml").write_text(STUDY, encoding="utf-8")
    (folder / "empty").mkdir()
    return folder


def restore(sandbox: Path, pristine: Path) -> None:
    """Make the sandbox what it was before."""
    for path in sandbox.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    shutil.copytree(pristine, sandbox, dirs_exist_ok=True)
    (sandbox / "loop").symlink_to("loop")
    (sandbox / "dangling").symlink_to("not-there")
    os.mkfifo(sandbox / "fifo")


def listing(sandbox: Path) -> list[tuple[str, int, int]]:
    return sorted(
        (str(path), facts.st_size, facts.st_mtime_ns)
        for path in sandbox.rglob("*")
        for facts in [path.lstat()]
        if not path.is_dir()
    )


def value_for(options: type[Options], name: str) -> st.SearchStrategy[str]:
    """What is typed for an option: mostly wrong, and never outside the sandbox or for long."""
    values = st.one_of(
        st.sampled_from(NUMBERS),
        st.sampled_from(PATHS),
        st.sampled_from([*DEVICES, *choices(annotations(options)[name]), *RAW_SCALARS]),
        text,
    )

    def harmless(value: str) -> str:
        if ".." in value or value.startswith(("/", "\\")) or value[:2] == "~/":
            return "nowhere"
        number = read_short_value(value)
        _, problem = validated(options, name, value)
        is_much = isinstance(number, int | float) and number > 9 and not problem
        if is_much and name in ("num_samples", "max_new_tokens", "num_texts", "num_tokens"):
            return "9"
        return "0" if name == "num_workers" and is_much else value

    return values.map(harmless)


@st.composite
def arguments(draw: st.DrawFn, command: str) -> list[str]:
    """A sound command line with one to three changes."""
    options, sound = SOUND[command]
    argv = list(sound)
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
        name = draw(st.sampled_from(list(annotations(options))))
        value = draw(value_for(options, name))
        form = draw(st.sampled_from(["=", "=", "=", " ", "replace", "replace", "other"]))
        if form == "replace":  # also a positional argument, or the value of another option
            place = draw(st.integers(0, len(argv) - 1))
            flag, equals, _ = argv[place].partition("=")
            if flag[2:] in annotations(options):
                value = draw(value_for(options, flag[2:]))
            argv[place] = flag + equals + value if equals else value
        elif form == "other":
            argv.insert(draw(st.integers(0, len(argv))), draw(st.sampled_from(OTHERS) | text))
        else:
            argv += [f"--{name}={value}"] if form == "=" else [f"--{name}", value]
    return argv


def require_one_message(code: int, printed: str) -> None:
    """Success, or one message that begins with `error: `, with a line for each problem."""
    assert code in (0, 1, 2), printed
    assert "Traceback" not in printed
    if code == 0:
        return
    assert printed.count("error: ") >= 1, printed
    message = printed[printed.index("error: ") :]
    require_clear(message)
    if code == 2:
        first, *others = message.splitlines()
        assert all(line.startswith("  ") for line in others), message
        assert not others or first.endswith("problems:"), message


def test_every_command_is_fuzzed() -> None:
    assert list(SOUND) == list(COMMANDS)


@pytest.mark.parametrize("command", SOUND)
def test_arguments(
    sandbox: Path, pristine: Path, is_long: bool, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """`sample --device cuda` on a machine without it and `--temperature 1e-42` were tracebacks."""
    if not is_long:  # drawing takes longer than all else
        for name in ("evaluate.write_evaluation", "compare.write_comparison"):
            monkeypatch.setattr(f"sharpgpt.commands.{name}", lambda *_: "page")
    monkeypatch.setattr("tempfile.tempdir", str(sandbox))  # of large arrays, without a name
    restore(sandbox, pristine)
    code, printed = command_here(main, [command, *SOUND[command][1]])
    assert code == 0, printed
    restore(sandbox, pristine)
    before = listing(sandbox)

    def case(argv: list[str]) -> str:
        with watched(sandbox):
            code, printed = command_here(main, [command, *argv])
        require_one_message(code, printed)
        if listing(sandbox) != before:
            assert code != 2, f"refused, but written: {printed}"
            restore(sandbox, pristine)
            before[:] = listing(sandbox)
        return f"exit code {code}"

    fuzz(f"arguments of {command}", arguments(command), case, is_long=is_long)
