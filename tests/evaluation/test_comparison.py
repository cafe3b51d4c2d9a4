"""The example of docs/verdict.md, as it is written there."""

import re
from pathlib import Path

import pytest
import torch

from sharpgpt.evaluation.saved_model import load_model
from sharpgpt.evaluation.validation_text import open_validation_text
from sharpgpt.runtime.device import Device
from tests.bigram_models import BLOCK, save_model, save_text, table, wte_of
from tests.conftest import REPOSITORY


def test_the_example_of_the_docs_gives_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = load_model(save_model(tmp_path / "plain", wte_of()))
    sharp = load_model(save_model(tmp_path / "sharp", wte_of(), scale=1.3))
    path = save_text(tmp_path / "text.txt", table(wte_of()), 3000)
    page = (REPOSITORY / "docs" / "verdict.md").read_text("utf-8")
    [example] = [
        code for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "judge(" in code
    ]
    given = {
        "plain_model": plain.causal_lm,
        "sharp_model": sharp.causal_lm,
        "device": Device(torch.device("cpu"), torch.float32),
        "text": open_validation_text(plain, data=str(path), block_length=BLOCK),
    }
    exec(example, given)
    given["plain"].close()
    given["sharp"].close()
    assert "sharpening afterwards" in capsys.readouterr().out
