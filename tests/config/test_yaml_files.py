"""Settings files: what is read, what is written, and what is refused."""

import os
import threading
from pathlib import Path

import pytest
import yaml

from sharpgpt.config import ConfigError, TrainingConfig
from sharpgpt.config.options import Options, Text
from sharpgpt.config.yaml_files import read_settings, write_settings


def test_yaml_round_trip(tmp_path: Path) -> None:
    config = TrainingConfig(
        learning_rate=1e-5, betas=(0.8, 0.99), run_name="123", generate_prompt="\n: é #x", eps=1e-10
    )
    config.to_yaml(tmp_path / "a.yaml")
    assert TrainingConfig.from_yaml(tmp_path / "a.yaml") == config


def test_floats_in_yaml_without_a_dot(tmp_path: Path) -> None:
    """YAML 1.1 reads 6e-4 as a text; users write it so."""
    (tmp_path / "a.yaml").write_text("learning_rate: 6e-4\n", encoding="utf-8")
    assert TrainingConfig.from_yaml(tmp_path / "a.yaml").learning_rate == 6e-4


def test_a_long_text_that_starts_like_a_number_is_read_fast(tmp_path: Path) -> None:
    """Found in review: it took time by the square of its length, hours for a file of 1 MB."""
    path = tmp_path / "long.yaml"
    path.write_text(f"run_name: {'1' * 1_000_000}x\n", encoding="utf-8")
    assert read_settings(path, TrainingConfig)["run_name"].endswith("1x")


def test_yaml_anchors_and_merges(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("<<: &base {seed: 3, top_k: 7}\nseed: 4\npenalty_positions: 5:30\n", "utf-8")
    config = TrainingConfig.from_yaml(path)
    assert (config.seed, config.top_k, config.penalty_positions) == (4, 7, "5:30")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("penalty_weight: 0.1\npenalty_weight: 0.2\n", "appears twice"),
        ("- a\n- b\n", "contains a list"),
        ("a: [1\n", "line 2"),
        ("key: !!python/object/apply:os.system ['true']\n", "could not determine a constructor"),
        ("\ttab: 1\n", "line 1"),
        ("? [a, b]\n: 1\n", "a list or mapping as a name"),
        ("seed: !!timestamp 2026-13-01\n", "a value cannot be read: month"),
        ("(: !!bool", "a value "),  # found by fuzzing: a KeyError
        ("seed: " + 5000 * "1" + "\n", "a value cannot be read"),
    ],
)
def test_files_that_are_not_settings(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        TrainingConfig.from_yaml(path)
    assert message in str(caught.value)
    assert "bad.yaml" in str(caught.value)


def test_a_missing_file_names_the_files_that_exist(tmp_path: Path) -> None:
    (tmp_path / "quick_test.yaml").write_text("", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"did you mean .*quick_test\.yaml"):
        TrainingConfig.from_yaml(tmp_path / "quicktest.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"run_name: caf\xe9")
    with pytest.raises(ConfigError, match="not UTF-8"):
        TrainingConfig.from_yaml(tmp_path / "latin.yaml")


TYPED = [
    "08", "1.10", "4671e80", "No", "~", "2024-01-01", "2024-13-01", "0x1F", "1_000", "12:30:00",
    "1e5", ".inf", ".nan", "yes", "on", "Off", "true", "None", "NULL", "Null", "-0", "+1", "0o17",
    "0b1", "=", "<<", "1e-05", "5:30", "190:20:30", "1__0", "é", "東京", "x" * 3000, "-.5", "1.",
    "a b", "N/2:N-2",
]  # fmt: skip
MARKED = [
    "null", "", " ", "#x", "a #x", "a: b", "[a]", "{a: b}", "[a", "}", "!x", "!!int 3", "&a", "*a",
    "- a", "? a", "a:", "%a", "@a", "`a", "'", '"', "\\", "a\nb", "\n", "\n\n a \n", "\ta", "a\t",
    " a", "a ", "\r\n", "a\rb", "\x85", "\u2028", "\ufeff", "\x7f", "\x1b[2J", "\U0001f600", "\x00",
    "|", ">", "---", "...", "--- a", "'a'", '"a"', "a'b", "\\n", "\u00a0", "\u200b", "x, y", ",",
]  # fmt: skip


@pytest.mark.parametrize("style", ["{}", "'{}'", '"{}"', "!!str {}", "{}   # comment", "&{} {}"])
def test_a_text_setting_is_the_text_that_stands_in_the_file(tmp_path: Path, style: str) -> None:
    """YAML read `08` as 8.0, `No` as false, `1.10` as 1.1, 2024-01-01 as a date."""
    path = tmp_path / "a.yaml"
    for text in TYPED:
        names = ("wandb_project", "generate_prompt", "wandb_entity")
        lines = [f"{name}: {style.replace('&{}', '&' + name).format(text)}\n" for name in names]
        path.write_text("".join([*lines, "seed: 3\n"]), encoding="utf-8")
        config = TrainingConfig.from_dict(read_settings(path, TrainingConfig))
        assert [getattr(config, name) for name in names] == [text] * 3
        assert config.seed == 3


class Texts(Options):
    given: Text
    """A text."""

    maybe: Text | None = None
    """A text or none."""


@pytest.mark.parametrize("text", [*TYPED, *MARKED])
def test_every_text_is_written_so_that_it_is_read_again(tmp_path: Path, text: str) -> None:
    """By this reader and, since people copy from config.yaml, by any reader of YAML."""
    options = Texts(given=text, maybe=text) if text else Texts(given="x")
    write_settings(options, path := tmp_path / "a.yaml")
    assert Texts.from_dict(read_settings(path, Texts)) == options
    assert yaml.safe_load(path.read_text(encoding="utf-8")) == options.to_dict()


def test_the_settings_of_a_run_are_written_so_that_they_are_read_again(tmp_path: Path) -> None:
    for prompt, project in zip(MARKED[2:], TYPED, strict=False):
        config = TrainingConfig(generate_prompt=prompt, wandb_project=project, learning_rate=1e-5)
        config.to_yaml(tmp_path / "a.yaml")
        assert TrainingConfig.from_yaml(tmp_path / "a.yaml") == config


@pytest.mark.parametrize("text", ["[a]", "{a: b}", "[a, 'b c']", "!x", "!x y", "[]"])
def test_what_looks_like_a_list_is_a_text_where_a_text_is_meant(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.yaml").write_text(f"wandb_project: {text}\nseed: 3\n", encoding="utf-8")
    assert TrainingConfig.from_yaml(tmp_path / "a.yaml").wandb_project == text


def test_none_is_null_or_nothing_and_only_where_it_is_allowed(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("wandb_entity: null\nresume:\ncache_dir: # nothing\nmax_steps: ~\n", "utf-8")
    config = TrainingConfig.from_yaml(path)
    assert (config.wandb_entity, config.resume, config.cache_dir, config.max_steps) == (None,) * 4
    path.write_text("wandb_entity: 'null'\nwandb_project: null\ncache_dir: ~\n", "utf-8")
    config = TrainingConfig.from_yaml(path)
    assert (config.wandb_entity, config.wandb_project, config.cache_dir) == ("null", "null", "~")


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("batch_size: 1e3", "batch_size", 1000),
        ("batch_size: 1_000", "batch_size", 1000),
        ("batch_size: 3.0", "batch_size", 3),
        ("batch_size: 08", "batch_size", 8),
        ("batch_size: '1e3'", "batch_size", 1000),
        ("max_steps: 'null'", "max_steps", None),
        ("learning_rate: '6e-4'", "learning_rate", 6e-4),
        ("use_wandb: off", "use_wandb", False),
        ("use_wandb: 'no'", "use_wandb", False),
        ("use_wandb: 0", "use_wandb", False),
        ("betas: [.8, '0.99']", "betas", (0.8, 0.99)),
    ],
)
def test_numbers_and_switches_may_be_in_quotes(
    tmp_path: Path, line: str, name: str, value: object
) -> None:
    (tmp_path / "a.yaml").write_text(line, encoding="utf-8")
    assert getattr(TrainingConfig.from_yaml(tmp_path / "a.yaml"), name) == value


# ---- bounded work ----

BOMBS = {
    "unknown names": "".join(f"key{number}: 1\n" for number in range(200_000)).encode(),
    "unknown names, fewer": "".join(f"key{number}: 1\n" for number in range(4_900)).encode(),
    "a long name": b"k" * 500_000 + b": 1\n",
    "long names": b"".join(b"%d%s: 1\n" % (n, b"k" * 900) for n in range(1_000)),
    "brackets": b"seed: " + b"[" * 300_000,
    "a flat list": b"seed: [" + b"1," * 200_000 + b"]",
    "digits": b"seed: " + b"9" * 300_000,
    "a huge exponent": b"seed: 1e" + b"9" * 300_000,
    "equal names": b"seed: 1\n" * 4_000,
    "empty lines": b"\n" * 300_000,
    "aliases": b"a: &a [x,x,x,x,x,x,x,x,x]\n"
    + b"".join(b"b%d: &a [*a,*a,*a,*a,*a,*a,*a,*a,*a]\n" % n for n in range(9)),
    "a binary file": bytes(range(256)) * 4000,
    "zeros": bytes(1_000_000),
    "too long": b"# " + b"x" * 2**20,
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", BOMBS)
def test_the_work_for_a_hostile_file_is_bounded(tmp_path: Path, name: str) -> None:
    """200,000 unknown names took 24 s: near names were looked for, for each of them."""
    (tmp_path / "a.yaml").write_bytes(BOMBS[name])
    if name == "empty lines":
        assert TrainingConfig.from_yaml(tmp_path / "a.yaml") == TrainingConfig()
    else:
        with pytest.raises(ConfigError) as caught:
            TrainingConfig.from_yaml(tmp_path / "a.yaml")
        assert len(str(caught.value)) < 4000


def test_unknown_names_in_python_are_bounded_too() -> None:
    with pytest.raises(ConfigError, match="unknown_0: no such setting") as caught:
        TrainingConfig.from_dict({f"unknown_{number}": 1 for number in range(100_000)})
    assert "and 99,980 more" in str(caught.value)
    assert len(caught.value.problems) == 100_000


def test_files_of_windows_tools(tmp_path: Path) -> None:
    for encoding in ("utf-8-sig", "utf-16"):
        (tmp_path / "a.yaml").write_bytes("seed: 7\r\nwandb_project: é\r\n".encode(encoding))
        config = TrainingConfig.from_yaml(tmp_path / "a.yaml")
        assert (config.seed, config.wandb_project) == (7, "é")


def test_a_folder_or_a_pipe_is_no_settings_file(tmp_path: Path) -> None:
    """A pipe in somebody's run folder must not be waited on."""
    with pytest.raises(ConfigError, match="it is a folder"):
        TrainingConfig.from_yaml(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="no plain file"):
        TrainingConfig.from_yaml(tmp_path / "pipe")


def from_pipe(path: str | Path) -> dict[str, object]:
    return read_settings(path, TrainingConfig, may_be_pipe=True)


def test_settings_from_pipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--config <(...)`, `--config /dev/stdin`, a FIFO; one that nobody writes to is refused."""
    reading, writing = os.pipe()
    os.write(writing, b"seed: 5\n")
    os.close(writing)  # before it is read, as the process in <(...) often has ended
    assert from_pipe(f"/dev/fd/{reading}") == {"seed": 5}
    os.close(reading)
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_text, args=("seed: 6\n",))
    writer.start()
    assert from_pipe(tmp_path / "pipe") == {"seed": 6}
    writer.join()
    monkeypatch.setattr("sharpgpt.config.yaml_files.PIPE_WAIT_S", 0.2)
    with pytest.raises(ConfigError, match=r"nobody wrote all of it within 0\.2 s"):
        from_pipe(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="more than 1,048,576 bytes"):
        from_pipe("/dev/zero")
    assert from_pipe("/dev/null") == {}
    with pytest.raises(ConfigError, match="cannot be read"):
        from_pipe("/dev/fd/999999")
