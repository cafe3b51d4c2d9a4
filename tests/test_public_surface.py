"""What users import: the four modules at the root, and what README and docs show."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from config import TrainingConfig
from tests.conftest import REPOSITORY, committed_configurations

EXPORTS = {
    "train": ["train"],
    "config": ["ConfigError", "TrainingConfig"],
    "model": [
        "PENALTIES",
        "SharpnessLM",
        "SharpnessOutput",
        "create_gpt2_model",
        "linear_sharpness_loss",
        "sharpness_loss",
    ],
    "data": [
        "CharTokenizer",
        "Gpt2Tokenizer",
        "TextData",
        "Tokenizer",
        "TrainingBlocks",
        "ValidationBlocks",
        "load_data",
        "load_text",
        "load_tokenizer",
        "prefetched",
        "validation_blocks",
    ],
}

SHOWN_BEFORE = {
    "sharpgpt.evaluation.comparison": ["Baseline", "PenalisedRun", "judge"],
    "sharpgpt.evaluation.controls": ["PenaltyMap"],
    "sharpgpt.evaluation.model_evaluation": ["ModelPasses", "evaluate_model"],
    "sharpgpt.integrations": ["SharpnessTrainer", "use_sharpness_loss"],
    "sharpgpt.prepare.documents": ["Batch", "Piece", "State"],
    "sharpgpt.sharpness": ["Penalty", "linear_sharpness_loss"],
}
"""What README and docs of version 0.1.0 import: it keeps working, wherever the code moves."""

HEAVY = ("torch", "transformers", "wandb", "matplotlib", "datasets")

DOCS = [REPOSITORY / "README.md", *(REPOSITORY / "docs").rglob("*.md")]
EXAMPLES = sorted((REPOSITORY / "docs" / "examples").glob("*.py"))
IMPORT = re.compile(
    r"^ *from ((?:sharpgpt|train|config|model|data)\b[\w.]*) import ([\w, ]+)$", re.M
)


@pytest.mark.parametrize("module", EXPORTS)
def test_a_root_module_exports_its_names(module: str) -> None:
    found = importlib.import_module(module)
    assert Path(str(found.__file__)) == REPOSITORY / f"{module}.py"
    assert sorted(found.__all__) == EXPORTS[module]
    for name in EXPORTS[module]:
        assert getattr(found, name) is not None, name


def test_the_package_of_the_data_exports_what_data_py_does() -> None:
    """`from sharpgpt.data import *` gave nothing."""
    names: dict[str, object] = {}
    exec("from sharpgpt.data import *", names)
    assert sorted(names.keys() - {"__builtins__"}) == EXPORTS["data"]
    assert all(
        names[name] is getattr(importlib.import_module("data"), name) for name in EXPORTS["data"]
    )


@pytest.mark.parametrize("module", SHOWN_BEFORE)
def test_imports_that_the_docs_once_showed_still_work(module: str) -> None:
    found = importlib.import_module(module)
    for name in SHOWN_BEFORE[module]:
        assert getattr(found, name) is not None, name


def test_every_import_in_readme_and_docs_works() -> None:
    shown = {
        (module, name.strip())
        for path in [*DOCS, *EXAMPLES]
        for module, names in IMPORT.findall(path.read_text(encoding="utf-8"))
        for name in names.split(",")
    }
    assert {("train", "train"), ("sharpgpt.sharpness", "Penalty")} <= shown
    for module, name in sorted(shown):
        assert hasattr(importlib.import_module(module), name), f"from {module} import {name}"


@pytest.mark.parametrize(
    "path",
    [REPOSITORY / "config.yaml", *committed_configurations()],
    ids=lambda path: path.stem,
)
def test_a_committed_configuration_loads(path: Path) -> None:
    config = TrainingConfig.from_yaml(path)
    assert TrainingConfig.from_dict(config.to_dict()) == config


def test_importing_train_and_config_imports_nothing_heavy() -> None:
    code = f"import sys, train, config; print(sorted(set({HEAVY}) & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
