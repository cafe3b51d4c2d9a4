"""The ranges that options share."""

import os
from pathlib import Path

import pytest

from sharpgpt.config import ConfigError, TrainingConfig
from sharpgpt.config.options import Options
from sharpgpt.config.values import DeviceName, File, FileOrFolder, Folder, NewFile, Temperature


class Places(Options):
    folder: Folder = "."
    """A folder."""

    file: File | None = None
    """A file that is there."""

    new_file: NewFile = "new"
    """A file."""

    either: FileOrFolder = "."
    """Either."""

    temperature: Temperature = 1.0
    """A temperature."""

    device: DeviceName = "cpu"
    """A device."""


@pytest.fixture(autouse=True)
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("text", "utf-8")
    (tmp_path / "loop").symlink_to("loop")


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("folder", "text.txt", "which is a file, allowed is a folder"),
        ("folder", "text.txt/inside", "which leads through a file"),
        ("folder", "loop", "which cannot be used"),
        ("folder", "a\0b", "which has a NUL character"),
        ("folder", "a" * 241, "which is too long for a path"),
        ("folder", "a/" * 2500, "which is too long for a path"),
        ("folder", "\ud800", "which is not Unicode"),
        ("folder", "a\nb", "which has control characters"),
        ("folder", "", "given '', allowed is a folder"),
        ("file", ".", "which is a folder, allowed is a file"),
        ("file", "nowhere", "which does not exist"),
        ("new_file", ".", "which is a folder, allowed is the path of a file"),
        ("either", "\x1b[2J", "which has control characters"),
    ],
)
def test_what_no_path_is(name: str, value: str, problem: str) -> None:
    """These reached the system, and ended in a traceback or with another program's words."""
    with pytest.raises(ConfigError) as refused:
        Places.from_dict({name: value})
    assert str(refused.value).startswith(f"{name}: given ")
    assert problem in str(refused.value)
    assert "\n" not in str(refused.value)


def test_paths_are_taken_as_they_are_typed(tmp_path: Path) -> None:
    """On Linux a name is bytes, which need not be UTF-8, nor free of control characters."""
    strange = os.fsdecode(b"caf\xe9\x1b")
    (tmp_path / strange).mkdir()
    assert Places(folder=strange).folder == strange
    assert Places(file="text.txt", either="text.txt", new_file="none/x").new_file == "none/x"
    assert Places(folder=tmp_path).folder == str(tmp_path)


@pytest.mark.parametrize(
    "value", ["nan", "inf", "1e400", "1e-42", "5e-324", "-1", "1e300", "", "x"]
)
def test_temperatures_that_overflow_are_refused(value: str) -> None:
    """Logits divided by 1e-42 are infinite: the sample ended in a traceback, a training at its
    first sample."""
    for options, name in ((Places, "temperature"), (TrainingConfig, "generate_temperature")):
        with pytest.raises(ConfigError, match=f"{name}: given .* 0 or 1e-06 to 1e\\+06"):
            options.from_dict({name: value})


def test_temperatures_that_do_not() -> None:
    for value in ("-0.0", "0", "1e-6", "0.7", "1e6"):
        assert Places.from_dict({"temperature": value}).temperature == float(value)


@pytest.mark.parametrize("name", ["output_dir", "checkpoint_dir", "cache_dir", "dataset", "resume"])
def test_settings_that_are_paths(name: str) -> None:
    for value in ("a\0b", "a" * 256, "a/" * 2500, "", "caf\udce9"):
        with pytest.raises(ConfigError, match=f"{name}: given "):
            TrainingConfig.from_dict({name: value, "run_name": "a"})


def test_devices() -> None:
    for value in ("cuda:", "gpu", "CUDA", "cuda:1 ", "cpu\n", "meta", "cuda:9999", "\ud800"):
        with pytest.raises(ConfigError, match=r"device: given .*allowed is one of auto, cpu"):
            Places.from_dict({"device": value})
    assert Places(device="cuda:7").device == "cuda:7"
