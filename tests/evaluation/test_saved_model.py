"""Models from folders of other people."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from sharpgpt.core.errors import UserError
from sharpgpt.evaluation.saved_model import load_model
from sharpgpt.model.build import create_gpt2_model
from tests.model.causal_lms import VOCABULARY, llama


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kernels that transformers asks the hub for, as if `kernels` were installed."""
    import transformers
    from transformers import modeling_utils
    from transformers.integrations import hub_kernels

    names: list[str] = []

    def fetch(name: str, **_: Any) -> Any:
        names.append(name)
        raise OSError("no network")

    for module in (modeling_utils, hub_kernels):
        monkeypatch.setattr(module, "is_kernels_available", lambda: True)
    monkeypatch.setattr(hub_kernels, "get_kernel", fetch)
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", lambda *_, **__: None)
    return names


def folder_with(folder: Path, **changes: Any) -> Path:
    llama().save_pretrained(folder)
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps(config), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    "attention",
    [
        {"attn_implementation": "someone/kernel"},
        {"_attn_implementation": "kernels-community/flash-attn2"},
        {"attn_implementation": "flash_attention_2"},
        {"attn_implementation": {"": "kernels-community/flash-attn2"}},
    ],
)
def test_no_kernel_that_a_config_names_is_fetched(
    attention: dict[str, Any], fetched: list[str], tmp_path: Path
) -> None:
    """With the package installed transformers downloads such a kernel and runs it."""
    from transformers import AutoModelForCausalLM

    folder = folder_with(tmp_path, **attention)
    with pytest.raises(Exception, match=r"no network|FlashAttention2"):
        AutoModelForCausalLM.from_pretrained(folder)  # the names are taken seriously
    fetched.clear()
    loaded: Any = load_model(folder).causal_lm
    ids_BT = torch.arange(8)[None]
    torch.testing.assert_close(loaded(input_ids=ids_BT).logits, llama().eval()(ids_BT).logits)
    create_gpt2_model(str(folder), vocab_size=VOCABULARY, max_seq_length=16, end_of_text_id=None)
    assert fetched == []


def test_a_quantised_model_is_refused_and_its_architecture_is_not(
    fetched: list[str], tmp_path: Path
) -> None:
    folder = folder_with(tmp_path, quantization_config={"quant_method": "mxfp4"})
    with pytest.raises(UserError, match="quantised"):
        load_model(folder)
    model: Any = create_gpt2_model(
        str(folder), vocab_size=VOCABULARY, max_seq_length=16, end_of_text_id=None
    )
    assert not hasattr(model.config, "quantization_config")
    assert fetched == []
