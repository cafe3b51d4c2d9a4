"""The public API: `from sharpgpt import ...`."""

import importlib
import subprocess
import sys

import pytest

import sharpgpt
from tests.conftest import REPOSITORY

API = {
    "Penalty": "sharpgpt.sharpness.penalties",
    "SharpnessTrainer": "sharpgpt.model.trainer",
    "TrainingConfig": "sharpgpt.config.settings",
    "compare": "sharpgpt.evaluation.compare",
    "evaluate": "sharpgpt.evaluation.evaluate",
    "linear_sharpness_loss": "sharpgpt.sharpness.fused",
    "load_model": "sharpgpt.evaluation.saved_model",
    "power": "sharpgpt.evaluation.power",
    "study": "sharpgpt.studies.study",
    "train": "sharpgpt.training.train",
    "use_sharpness_loss": "sharpgpt.model.huggingface",
}
"""Public name: the module that defines it."""


def test_the_api_is_this_list() -> None:
    assert sharpgpt.__all__ == sorted(API)
    assert set(API) <= set(dir(sharpgpt))


@pytest.mark.parametrize("name", API)
def test_a_name_resolves_to_its_definition(name: str) -> None:
    found = getattr(sharpgpt, name)
    assert callable(found)
    assert found.__module__ == API[name]
    assert found is getattr(importlib.import_module(API[name]), name)


def test_no_submodule_shadows_a_name() -> None:
    """Importing a submodule sets an attribute of its name on the package."""
    submodules = {path.stem for path in (REPOSITORY / "sharpgpt").iterdir()}
    assert not submodules & set(API)


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(sharpgpt, "no_such_name")


@pytest.mark.parametrize(
    "statement",
    [
        "import sharpgpt",
        "from sharpgpt import TrainingConfig",
        "import sharpgpt.sharpness.penalties",
    ],
)
def test_an_import_needs_neither_torch_nor_transformers(statement: str) -> None:
    code = (
        f"import sys\n{statement}\nsys.exit(bool({{'torch', 'transformers'}} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True)


def test_the_trainer_is_imported_only_when_it_is_used() -> None:
    code = "import sys, sharpgpt; sharpgpt.use_sharpness_loss; print('transformers' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == "False"
