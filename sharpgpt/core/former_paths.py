"""Former import paths: scripts written for an earlier layout keep working, with a warning.

`sharpgpt/__init__.py` installs the finder. A former path gives the module object of the present
one, imported when it is first asked for.
"""

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

FORMER_PATHS = {
    "sharpgpt.device": "sharpgpt.runtime.device",
    "sharpgpt.files": "sharpgpt.core.files",
    "sharpgpt.sample": "sharpgpt.commands.sample",
    "sharpgpt.saved_model": "sharpgpt.evaluation.saved_model",
    "sharpgpt.validation_text": "sharpgpt.evaluation.validation_text",
}
"""Former path: present path."""


class FormerPathFinder(MetaPathFinder, Loader):
    """Finds the modules of `FORMER_PATHS`."""

    def __init__(self) -> None:
        self._specs: dict[str, ModuleSpec | None] = {}

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,  # noqa: ARG002 (the interface)
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        """The spec of a former path; None for any other module."""
        if fullname not in FORMER_PATHS:
            return None
        return importlib.util.spec_from_loader(fullname, self)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The present module."""
        present = FORMER_PATHS[spec.name]
        message = f"{spec.name} is now {present}"
        warnings.warn(message, DeprecationWarning, stacklevel=2)
        module = importlib.import_module(present)
        self._specs[spec.name] = module.__spec__  # which the import system replaces
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Nothing to execute: `create_module` imported it. Give it its own spec again."""
        former = module.__spec__
        assert former is not None
        module.__spec__ = self._specs.pop(former.name)


def install() -> None:
    """Add the finder to `sys.meta_path`, once, before the one for folders.

    A folder left behind with nothing but `__pycache__` would be found as a namespace package.
    """
    if not any(isinstance(finder, FormerPathFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, FormerPathFinder())
