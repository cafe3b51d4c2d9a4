from pathlib import Path

import pytest

from sharpgpt.data.sources.download import cache_folder


def test_cache_folder_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    monkeypatch.setenv("SHARPGPT_CACHE", "~/own")
    assert cache_folder() == Path("/home/me/own")
    monkeypatch.delenv("SHARPGPT_CACHE")
    assert cache_folder() == Path("/xdg/sharpgpt")
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    assert cache_folder() == Path("/home/me/.cache/sharpgpt")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path("/home/me/.cache/sharpgpt")
