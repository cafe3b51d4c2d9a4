"""YAML files and command lines, fuzzed: a configuration, or one clear message."""

from pathlib import Path

import pytest
import yaml
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from sharpgpt.commands.main import main, train_command
from sharpgpt.config import TrainingConfig
from sharpgpt.config.training_flags import parse_training_flags
from tests.conftest import committed_configurations
from tests.faults.fuzz import CASES, fuzz, message_of, require_clear, watched
from tests.faults.harness import command_here, write_text_file
from tests.faults.hostile import (
    CANARY,
    HOSTILE_YAML,
    RAW_SCALARS,
    mutated,
    names,
    plain_values,
    setting_names,
    sound_value,
    text,
)


def test_the_cases_are_as_many_as_is_promised() -> None:
    quick, long = (sum(counts) for counts in zip(*CASES.values(), strict=True))
    assert quick >= 300
    assert long >= 10_000


# ---- YAML ----


@st.composite
def _lines(draw: st.DrawFn) -> bytes:
    """`name: value` with values that YAML has its own views about."""
    values = st.sampled_from(RAW_SCALARS) | text
    lines = [f"{draw(names)}: {draw(values)}" for _ in range(draw(st.integers(1, 5)))]
    return "\n".join(lines).encode("utf-8", errors="surrogatepass")


_settings = st.dictionaries(names, plain_values, max_size=5).map(
    lambda settings: yaml.safe_dump(settings).encode("utf-8", errors="surrogatepass")
)
_sound_settings = st.sets(setting_names, max_size=8).flatmap(
    lambda chosen: st.fixed_dictionaries({name: sound_value(name) for name in sorted(chosen)})
)
_written = st.sampled_from([path.read_bytes() for path in committed_configurations()])
yaml_files: SearchStrategy[bytes] = st.one_of(
    st.sampled_from(HOSTILE_YAML).map(lambda hostile: hostile.encode("utf-8", "surrogatepass")),
    st.binary(max_size=60),
    _lines(),
    _settings,
    _sound_settings.map(lambda settings: yaml.safe_dump(settings).encode()),
    mutated(_written),
)


def test_yaml_files(sandbox: Path, is_long: bool) -> None:
    canary = sandbox.parent / "canary"

    def case(data: bytes) -> str:
        path = sandbox / "config.yaml"
        path.write_bytes(data.replace(CANARY.encode(), bytes(canary)))
        with watched(sandbox):
            if message_of(lambda: TrainingConfig.from_yaml(path, allow_import=True)) is not None:
                return "refused"
            config = TrainingConfig.from_yaml(path, allow_import=True)
            config.to_yaml(sandbox / "again.yaml")
            assert TrainingConfig.from_yaml(sandbox / "again.yaml", allow_import=True) == config
        return "accepted"

    fuzz("YAML files", yaml_files, case, is_long=is_long)


@pytest.mark.parametrize("number", range(len(HOSTILE_YAML)))
def test_each_hostile_yaml_file(sandbox: Path, number: int) -> None:
    """Each of them once, whatever the fuzzer draws."""
    fuzz_one(sandbox, HOSTILE_YAML[number].encode("utf-8", "surrogatepass"))


def fuzz_one(sandbox: Path, data: bytes) -> None:
    from tests.faults.fuzz import CASE_TIMEOUT_S, time_limit

    path = sandbox / "config.yaml"
    path.write_bytes(data.replace(CANARY.encode(), bytes(sandbox.parent / "canary")))
    with time_limit(CASE_TIMEOUT_S), watched(sandbox):
        message_of(lambda: TrainingConfig.from_yaml(path, allow_import=True))


# ---- command lines ----


@st.composite
def _flag(draw: st.DrawFn, sound: bool = False) -> list[str]:
    if sound:
        name = draw(setting_names)
        value = str(draw(sound_value(name)))
    else:
        name, value = draw(names), draw(st.sampled_from(RAW_SCALARS) | text)
    form = draw(st.sampled_from(["--{}={}", "--{} {}", "--no_{}", "--{}", "-{} {}", "{}"]))
    if sound and draw(st.integers(0, 9)):
        form = "--{}={}"
    return [part.format(*([name, value][index:])) for index, part in enumerate(form.split(" "))]


def command_lines(sound: bool = False) -> SearchStrategy[list[str]]:
    """Arguments as a shell hands them over: no NUL, perhaps bytes that are no UTF-8."""
    extra = st.sampled_from(
        ["--dry_run", "--no_wandb", "--", "-", "--help", "-h", "--config", "--config=config.yaml",
         "--config=.", "--config=nowhere.yaml", "@config.yaml", "", "--=", "--config="]
    )  # fmt: skip
    pieces = _flag(sound) if sound else _flag() | extra.map(lambda one: [one])
    return st.lists(pieces, max_size=6).map(lambda parts: [word for part in parts for word in part])


def test_command_lines(sandbox: Path, is_long: bool) -> None:
    (sandbox / "config.yaml").write_text("seed: 1\n", encoding="utf-8")

    def case(argv: list[str]) -> str:
        def parse() -> None:
            try:
                parse_training_flags(argv, "train.py")
            except SystemExit as end:  # --help
                if end.code != 0:
                    raise

        with watched(sandbox):
            code, _ = command_here(lambda _: int(message_of(parse) is not None), argv)
        return "refused" if code else "accepted"

    fuzz("command lines", command_lines(), case, is_long=is_long)


SMALL = [
    "--tokenizer=char", "--n_layer=1", "--n_head=2", "--n_embd=16", "--max_seq_length=16",
    "--device=cpu", "--no_wandb", "--dataset=text.txt", "--output_dir=out",
]  # fmt: skip


def check_outcome(code: int, printed: str) -> None:
    """Of a command: success, or one message and its exit code."""
    assert code in (0, 1, 2), printed
    assert "Traceback" not in printed
    if code:
        errors = printed[printed.index("error: ") :]
        require_clear(errors)


@pytest.mark.parametrize("of_training", [True, False])
def test_dry_runs(sandbox: Path, is_long: bool, of_training: bool) -> None:
    """The whole command on command lines that are nearly sound, and on any at all."""
    write_text_file(sandbox / "text.txt")
    (sandbox / "config.yaml").write_text("seed: 1\n", encoding="utf-8")

    command = train_command if of_training else main
    sound = [*SMALL, "--dry_run"] if of_training else ["train", *SMALL, "--dry_run"]
    assert command_here(command, sound)[0] == 0

    def case(argv: list[str]) -> str:
        before = set(sandbox.iterdir())
        with watched(sandbox):
            given = [*SMALL, *argv, "--dry_run"] if of_training else argv
            code, printed = command_here(command, given)
        check_outcome(code, printed)
        assert set(sandbox.iterdir()) == before
        return f"exit code {code}"

    strategy = command_lines(sound=True)
    if not of_training:
        words = ["report", "inspect", "sample", "view", "evaluate", "--help", "text.txt", "."]
        # Hypothesis also tries words that stand in the code; these would train, or prepare data.
        other = text.filter(lambda word: word not in ("train", "prepare"))
        strategy = st.tuples(st.sampled_from(words) | other, command_lines()).map(
            # argparse repeats the words of the person who typed them as they are.
            lambda both: [word for word in [both[0], *both[1]] if word.isprintable()]
        )
    fuzz("dry runs", strategy, case, is_long=is_long)
