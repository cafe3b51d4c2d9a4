"""`evaluate` as a Python function."""

import json
from pathlib import Path

import pytest
import torch

from sharpgpt.config import ConfigError
from sharpgpt.core.errors import UserError
from sharpgpt.evaluation import evaluator
from sharpgpt.evaluation.evaluate import evaluate
from sharpgpt.evaluation.saved_model import SavedModel, load_model
from sharpgpt.runtime.console import Console, console_logging
from tests.bigram_models import BLOCK, save_model, save_text, table, wte_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save_model(folder / "truth", wte_of())
    save_text(folder / "text.txt", table(wte_of()), 3_000)
    return folder


def test_the_result_is_the_content_of_evaluation_json(folder: Path, tmp_path: Path) -> None:
    options = {"dataset": folder / "text.txt", "max_seq_length": BLOCK, "num_texts": 0}
    result = evaluate(folder / "truth", output=tmp_path / "new", **options)
    assert result.path == tmp_path / "new" / "evaluation.json"
    assert json.loads(result.path.read_text("utf-8")) == result.content
    assert "figures" not in repr(result)
    [model] = result.models
    assert model["name"] == "truth"
    assert model["figures"]["bits_per_byte"]["estimate"] > 0
    unwritten = evaluate([str(folder / "truth")], device="cpu", **options)
    assert unwritten.path is None
    assert unwritten.models == result.models


def test_all_problems_of_the_arguments_are_in_one_error(folder: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        evaluate(folder / "truth", max_blocks=2, num_texts=1, seeds=3, device="gpu", output="")
    for problem in (
        "max_blocks: given 2, allowed is a whole number, at least 4",
        "num_texts: given 1, allowed is a whole number, 0 for none, else 2 to 1000000",
        "seeds: no such setting",
        "device: given 'gpu'",
        "output: given ''",
    ):
        assert problem in str(caught.value)


def test_no_model_and_one_model_twice(folder: Path) -> None:
    with pytest.raises(UserError, match="models: given none"):
        evaluate([])
    with pytest.raises(UserError, match="the same model as"):
        evaluate([folder / "truth", str(folder / "truth") + "/"])


def test_a_terminal_shows_a_bar_while_the_first_model_is_loaded(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Console, "is_terminal", True)
    shown: list[bool] = []
    with console_logging() as console:

        def load(path: Path, device: torch.device) -> SavedModel:
            shown.append(console.has_bar)
            return load_model(path, device)

        monkeypatch.setattr(evaluator, "load_model", load)
        data = folder / "text.txt"
        evaluate(folder / "truth", dataset=data, max_seq_length=BLOCK, num_texts=0)
    assert shown == [True]
    assert "Evaluating" not in capsys.readouterr().out
