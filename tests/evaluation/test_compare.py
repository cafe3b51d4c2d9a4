"""`compare` as a Python function."""

import json
from pathlib import Path

import pytest
import torch

from sharpgpt.config import ConfigError
from sharpgpt.core.errors import UserError
from sharpgpt.evaluation.compare import compare
from tests.bigram_models import BLOCK, save_model, save_text, table, wte_of


def test_the_result_is_the_content_of_comparison_json(tmp_path: Path) -> None:
    noise = torch.randn(wte_of().shape, generator=torch.Generator().manual_seed(7))
    save_model(tmp_path / "truth", wte_of())
    save_model(tmp_path / "noisy", wte_of() + 0.12 * noise, scale=1.6)
    save_text(tmp_path / "text.txt", table(wte_of()), 20_000)
    result = compare(
        tmp_path / "noisy",
        baseline=[tmp_path / "truth"],
        output=tmp_path,
        dataset=tmp_path / "text.txt",
        max_seq_length=BLOCK,
        num_texts=0,
        margin=0.002,
    )
    assert result.verdicts == {"noisy": "worse"}
    assert result.corrected_verdicts == {"noisy": "worse"}
    corrected = result.arms[0]["corrected"]
    assert (corrected["method"], corrected["num_arms"]) == ("Holm", 1)
    assert corrected["p_value"] == result.arms[0]["p_value"] < 0.05
    assert result.arms[0]["controls"]["temperature"]["p_value"] == corrected["p_value"]
    assert result.arms[0]["margin"] == 0.002
    assert result.path == tmp_path / "comparison.json"
    assert json.loads(result.path.read_text("utf-8")) == result.content


def test_arguments_are_checked_before_any_model_is_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"margin: given 0, allowed is at least 1e-05 nats"):
        compare(tmp_path, baseline=tmp_path, margin=0)
    with pytest.raises(UserError, match="allowed is at least one of each"):
        compare([], baseline=[])
