"""The quick form of the tests of this folder is part of every test run; the long form is

pytest tests/faults --faults long         (make test-faults)
"""

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.faults.harness import Scenario
from tests.faults.mounts import Mounts


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--faults", choices=("quick", "long"), default="quick",
        help="quick: a few kills and some hundred fuzzed inputs; long: 100 and 10,000, in minutes",
    )  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "long: in the long form of the tests of tests/faults alone")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if _is_long(config):
        for item in items:  # minutes each, and they limit the time of every case themselves
            item.add_marker(pytest.mark.timeout(0))
    else:
        left_out = [item for item in items if item.get_closest_marker("long")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def _is_long(config: pytest.Config) -> bool:
    # Where pytest was not given this folder by name, the option is not known.
    return bool(config.getoption("--faults", default="quick") == "long")


@pytest.fixture(scope="session")
def is_long(pytestconfig: pytest.Config) -> bool:
    return _is_long(pytestconfig)


@pytest.fixture
def scenario(
    tmp_path: Path, command_environment: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Scenario]:
    """Make a run by its name; keyword arguments change settings."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))  # for penalty_type injected:PENALTY

    def make(name: str, **changes: Any) -> Scenario:
        return Scenario(tmp_path / name, command_environment, changes)

    return make


@pytest.fixture
def mounts() -> Iterator[Mounts]:
    """Mounts file systems, which are unmounted after the test."""
    made = Mounts()
    yield made
    for folder in reversed(made.folders.copy()):
        made.end(folder)


@pytest.fixture
def sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a fuzzed case may write, which is the working directory; its parent holds it alone."""
    folder = tmp_path / "surroundings" / "sandbox"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("MATPLOTLIBRC", os.devnull)  # as the commands set it
    monkeypatch.setenv("SHARPGPT_CACHE", str(folder / "cache"))  # also keeps hashes of read files
    return folder
