"""Models with random weights: HuggingFace's GPT-2, and other architectures by folder."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from sharpgpt.core.errors import UserError
from sharpgpt.model.build import create_gpt2_model
from sharpgpt.model.lm import SharpnessLM
from sharpgpt.model.softcap import softcap_of


def small(**changes: Any) -> Any:
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 32, "vocab_size": 127, "max_seq_length": 16}
    return create_gpt2_model(**(sizes | {"end_of_text_id": None} | changes))


def tokens(vocab_size: int = 127, length: int = 16) -> torch.Tensor:
    return torch.randint(vocab_size, (3, length), generator=torch.Generator().manual_seed(5))


def test_gpt2_small_is_gpt2_small() -> None:
    with torch.device("meta"):
        model: Any = create_gpt2_model("gpt2")
    assert sum(p.numel() for p in model.parameters()) == 124_439_808
    assert model.lm_head.weight is model.transformer.wte.weight
    assert model.config.activation_function == "gelu_new"


@pytest.mark.parametrize(
    ("name", "millions"), [("gpt2-medium", 355), ("gpt2-large", 774), ("gpt2-xl", 1558)]
)
def test_the_larger_ones_are_known_without_a_network(name: str, millions: int) -> None:
    with torch.device("meta"):
        model = create_gpt2_model(name)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6) == millions


def test_the_one_operation_gelu_is_huggingfaces(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model, input_ids_BT = small().eval(), tokens()
    model.save_pretrained(tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert "NewGELU" in type(theirs.transformer.h[0].mlp.act).__name__
    assert "NewGELU" not in type(model.transformer.h[0].mlp.act).__name__
    with torch.no_grad():
        ours, expected = model(input_ids_BT).logits, theirs(input_ids_BT).logits
    torch.testing.assert_close(ours, expected, atol=2e-6, rtol=0)


def test_same_seed_same_weights_and_the_global_state_is_left_alone() -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first, again, other = small(seed=1), small(seed=1), small(seed=2)
    assert torch.equal(torch.get_rng_state(), before)
    weights = [m.transformer.h[0].attn.c_attn.weight for m in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_dropout_reaches_the_model(dropout: float) -> None:
    model, input_ids_BT = small(dropout=dropout).train(), tokens()
    with torch.no_grad():
        same = torch.equal(model(input_ids_BT).logits, model(input_ids_BT).logits)
    assert same == (dropout == 0.0)


def llama_folder(folder: Path, **changes: Any) -> Path:
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "vocab_size": 300,
    }
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config | changes), encoding="utf-8")
    return folder


def test_another_architecture_by_folder(tmp_path: Path) -> None:
    model: Any = create_gpt2_model(
        str(llama_folder(tmp_path)), vocab_size=127, max_seq_length=16, end_of_text_id=None
    )
    assert type(model).__name__ == "LlamaForCausalLM"
    output = SharpnessLM(model, penalty="non_max_sum", top_k=5)(tokens(), penalty_weight=0.0)
    theirs = model(input_ids=tokens(), labels=tokens()).loss
    assert abs(output.loss.item() - theirs.item()) < 1e-6
    with torch.device("meta"):
        create_gpt2_model(str(llama_folder(tmp_path)), vocab_size=127, max_seq_length=16)


def test_an_architecture_that_changes_its_logits_is_refused(tmp_path: Path) -> None:
    folder = llama_folder(
        tmp_path, model_type="granite", architectures=["GraniteForCausalLM"], logits_scaling=8.0
    )
    with pytest.raises(UserError, match="not a plain linear map"):
        create_gpt2_model(str(folder), vocab_size=127, max_seq_length=16, end_of_text_id=None)
    # A dry run accepted what the run refused.
    with torch.device("meta"), pytest.raises(UserError, match="not a plain linear map"):
        create_gpt2_model(str(folder), vocab_size=127, max_seq_length=16, end_of_text_id=None)


@pytest.mark.parametrize(("given", "cap"), [(None, 30.0), (15.0, 15.0)])
def test_an_architecture_with_a_soft_cap_keeps_it_or_takes_another(
    tmp_path: Path, given: float | None, cap: float
) -> None:
    folder = llama_folder(
        tmp_path, model_type="gemma2", architectures=["Gemma2ForCausalLM"], head_dim=8,
        final_logit_softcapping=30.0,
    )  # fmt: skip
    how: dict[str, Any] = {"vocab_size": 127, "max_seq_length": 16, "end_of_text_id": None}
    model: Any = create_gpt2_model(str(folder), logit_softcap=given, **how)
    assert softcap_of(model) == cap
    assert type(model.lm_head) is torch.nn.Linear  # it caps itself, and not twice
    with torch.device("meta"):
        create_gpt2_model(str(folder), logit_softcap=given, **how)


def test_sizes_of_another_architecture_are_applied_throughout(tmp_path: Path) -> None:
    folder = llama_folder(tmp_path, head_dim=8, pad_token_id=0, attention_dropout=0)
    model: Any = create_gpt2_model(
        str(folder), n_layer=3, n_embd=64, vocab_size=127, max_seq_length=16, dropout=0.25,
        end_of_text_id=None,
    )  # fmt: skip
    assert len(model.model.layers) == 3
    assert model.model.layers[0].self_attn.q_proj.weight.shape == (64, 64)
    assert model.config.attention_dropout == 0.25
    assert model.model.embed_tokens.padding_idx is None
    with pytest.raises(UserError, match="cannot be built"):
        create_gpt2_model(str(folder), n_head=3, vocab_size=127, max_seq_length=16)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_name": "no/such-model"}, "model_name: given the name 'no/such-model'"),
        ({"max_seq_length": 2000}, "max_seq_length: given 2000, allowed for gpt2 is at most 1024"),
        ({"n_embd": 33}, "cannot be built"),
        ({"n_layer": 10**9}, "given 1000000000 layers, allowed are at most 10000"),
    ],
)
def test_what_cannot_be_built_is_one_message(
    changes: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without it a name is asked for five times; tests/test_cli.py waits for that.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError) as caught:
        small(**changes)
    assert message in str(caught.value)


def test_a_mistyped_folder_is_no_name_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was asked of the hub, with five tries."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    monkeypatch.setenv("SHARPGPT_OFFLINE", "1")
    for given, reason in {
        "models/mine": "given the path 'models/mine'.*there is a folder models, and it has no mine",
        "./none/mine": "given the path './none/mine'.*there is no such folder",
        "org/name": "given the name 'org/name'.*SHARPGPT_OFFLINE is set",
        "distilgpt2": "given the name 'distilgpt2'.*SHARPGPT_OFFLINE is set",
    }.items():
        with pytest.raises(UserError, match=reason):
            create_gpt2_model(given)
