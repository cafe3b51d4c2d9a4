"""The tree is what docs/architecture.md describes, and every import in it resolves."""

import importlib
import re

import pytest

from tests.conftest import REPOSITORY

PACKAGE = REPOSITORY / "sharpgpt"

SEVERAL_MODULES = {
    "commands/test_paths.py": "~ and $NAME in every path of every command",
    "data/sources/test_user_defined_source.py": "the example source in docs/examples",
    "sharpness/test_distributed.py": "the loss under DDP and FSDP2",
    "sharpness/test_logit_softcap.py": "the soft cap in every form of the loss",
    "training/test_logit_softcap.py": "a soft cap from training to evaluation, samples and card",
    "sharpness/test_label_smoothing.py": "label smoothing in every form of the loss",
    "sharpness/test_z_loss.py": "the z-loss in the fused, the reference and the compiled loss",
    "training/test_arithmetic.py": "a continued run keeps the dtypes that it began with",
    "training/test_elastic.py": "one process against several, from one checkpoint",
    "training/test_exactness.py": "a resumed run is bit-identical to an uninterrupted one",
    "training/test_faults.py": "faults around a run: disk, memory, files",
    "training/test_python_api.py": "train() in a notebook, a loop, a thread",
    "training/test_penalty_effect.py": "what the penalties do to a trained model",
    "training/test_recipe.py": "each setting of docs/recipe.md trains",
    "training/test_several_processes.py": "torchrun",
}
"""Test files that cover more than one module, and what they test."""


def test_the_package_has_at_most_14_folders_and_no_loose_module() -> None:
    folders = [path.parent.name for path in PACKAGE.glob("*/__init__.py")]
    assert 9 <= len(folders) <= 14, folders
    assert {path.name for path in PACKAGE.glob("*.py")} == {"__init__.py", "__main__.py"}


def test_test_files_are_named_after_their_module() -> None:
    tests = REPOSITORY / "tests"
    others = set()
    for init in PACKAGE.glob("**/__init__.py"):
        folder = init.parent.relative_to(PACKAGE)
        if folder.name:
            for path in (tests / folder).glob("test_*.py"):
                if not (PACKAGE / folder / path.name.removeprefix("test_")).is_file():
                    others.add(path.relative_to(tests).as_posix())
    assert others == set(SEVERAL_MODULES)


@pytest.mark.parametrize("folder", ["benchmarks", "docs/examples", "experiments", "tests"])
def test_every_import_of_the_package_resolves(folder: str) -> None:
    """Also those inside functions, and in scripts that a test keeps in a string."""
    pattern = re.compile(r"^\s*from (sharpgpt[\w.]*) import ([\w, ]+)", re.MULTILINE)
    found = 0
    for path in (REPOSITORY / folder).rglob("*.py"):
        for module, names in pattern.findall(path.read_text(encoding="utf-8")):
            for name in re.sub(r" as \w+", "", names).replace(" ", "").split(","):
                if name:
                    found += 1
                    where = importlib.import_module(module)
                    if not hasattr(where, name):
                        importlib.import_module(f"{module}.{name}")
    assert found


def test_documents_name_files_that_exist() -> None:
    """Such as the ten guesses of CONTRIBUTING.md."""
    named = re.compile(r"`((?:sharpgpt|tests|benchmarks|docs|configs|experiments)/[\w./-]+\.\w+)`")
    for path in [*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md")]:
        for name in named.findall(path.read_text(encoding="utf-8")):
            if "NAME" not in name:
                assert (REPOSITORY / name).exists(), f"{path.name} names {name}"
