"""Import paths of earlier layouts."""

import importlib
import sys

import pytest

from sharpgpt.core import former_paths


@pytest.mark.parametrize(("former", "present"), former_paths.FORMER_PATHS.items())
def test_a_former_path_is_the_present_module(former: str, present: str) -> None:
    sys.modules.pop(former, None)
    with pytest.warns(DeprecationWarning, match=f"{former} is now {present}"):
        module = importlib.import_module(former)
    assert module is importlib.import_module(present)
    assert module.__name__ == present
    assert module.__spec__ is not None
    assert module.__spec__.name == present


def test_the_finder_is_installed_once() -> None:
    former_paths.install()
    found = [f for f in sys.meta_path if isinstance(f, former_paths.FormerPathFinder)]
    assert len(found) == 1


def test_an_unknown_module_is_not_found() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'sharpgpt\.no_such_module'"):
        importlib.import_module("sharpgpt.no_such_module")
