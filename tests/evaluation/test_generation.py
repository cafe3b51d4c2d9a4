"""Generated text: lengths, seeds, windows, and nothing disturbed."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sharpgpt.data.tokenizer import CharTokenizer, Gpt2Tokenizer
from sharpgpt.evaluation.generation import generate_texts
from sharpgpt.model.build import create_gpt2_model
from sharpgpt.runtime.signals import Interrupted

CHARACTERS = CharTokenizer(list("\n abcdefgh"))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return create_gpt2_model(
        n_layer=1, n_head=2, n_embd=16, vocab_size=10, max_seq_length=8, end_of_text_id=None
    )


def texts(model: nn.Module, **changes: Any) -> list[str]:
    settings = {
        "prompt": "ab", "num_samples": 3, "max_length": 30, "window": 8, "temperature": 1.0,
        "top_p": 1.0, "seed": 1,
    }  # fmt: skip
    return generate_texts(model, CHARACTERS, **(settings | changes))


@pytest.mark.parametrize("max_length", [2, 5, 8, 9, 30])
def test_lengths_beyond_the_window(model: nn.Module, max_length: int) -> None:
    made = texts(model, max_length=max_length)
    assert [len(text) for text in made] == [max_length] * 3
    assert all(text.startswith("ab") for text in made)


def test_the_seed_decides_and_the_global_state_stays(model: nn.Module) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    model.train()
    assert texts(model) == texts(model)
    assert texts(model) != texts(model, seed=2)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training


def test_the_model_is_whole_while_text_is_drawn_and_however_that_ends(
    model: Any, tmp_path: Path
) -> None:
    """A thread may be writing a checkpoint of it at this moment, or a signal breaks this off."""
    model.train()
    before, calls = copy.deepcopy(model.generation_config), list[Any]()
    random = torch.get_rng_state()

    def interrupt(module: nn.Module, given: Any) -> None:
        calls.append(model.generation_config.to_dict())
        model.save_pretrained(tmp_path / "meanwhile")
        if len(calls) == 3:
            raise Interrupted

    handle = model.transformer.register_forward_pre_hook(interrupt)
    with pytest.raises(Interrupted):
        texts(model)
    handle.remove()
    model.save_pretrained(tmp_path / "after")
    assert calls == [before.to_dict()] * 3
    assert model.generation_config.to_dict() == before.to_dict()
    assert all(module.training for module in model.modules())
    assert torch.equal(torch.get_rng_state(), random)
    meanwhile, after = (
        tmp_path / name / "generation_config.json" for name in ("meanwhile", "after")
    )
    assert meanwhile.read_bytes() == after.read_bytes()


def test_temperature_zero_is_greedy(model: nn.Module) -> None:
    made = texts(model, temperature=0)
    assert len(set(made)) == 1
    with torch.no_grad():
        ids = torch.tensor([CHARACTERS.encode("ab").tolist()])
        expected = model.eval()(ids).logits[0, -1].argmax().item()
    assert made[0][2] == CHARACTERS.decode([expected])


def test_a_tiny_top_p_is_greedy_too(model: nn.Module) -> None:
    assert set(texts(model, top_p=1e-6)) == set(texts(model, temperature=0))


def test_a_text_ends_at_the_end_of_text_token() -> None:
    tokenizer = Gpt2Tokenizer()
    model: Any = create_gpt2_model(n_layer=1, n_head=2, n_embd=16, max_seq_length=16)
    prompt = tokenizer.encode("Hello").tolist()
    with torch.no_grad():  # every hidden state is 1, and only the end's embedding points that way
        model.transformer.ln_f.weight.zero_()
        model.transformer.ln_f.bias.fill_(1)
        model.lm_head.weight[50256].fill_(1)
    made = generate_texts(
        model, tokenizer, prompt="Hello", num_samples=2, max_length=40, window=16,
        temperature=0, top_p=1.0, seed=0,
    )  # fmt: skip
    assert made == [tokenizer.decode(prompt)] * 2
