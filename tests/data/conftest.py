"""No test reaches the network or the user's cache folder unless it says so."""

from pathlib import Path

import pytest

TINYSHAKESPEARE_COPY = Path(__file__).parents[2] / "../shared/data/tinyshakespeare.txt"


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv("SHARPGPT_OFFLINE", "1")
    monkeypatch.setenv("SHARPGPT_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def tinyshakespeare() -> Path:
    """A local copy of TinyShakespeare; it is not part of the repository."""
    if not TINYSHAKESPEARE_COPY.is_file():
        pytest.skip("there is no copy of TinyShakespeare beside the repository")
    return TINYSHAKESPEARE_COPY
