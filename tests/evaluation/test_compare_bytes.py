"""Models of anyone with tokenizers of their own: the same one, and different ones."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from sharpgpt.core.errors import UserError
from sharpgpt.data.huggingface_tokenizer import HuggingFaceTokenizer
from sharpgpt.data.sources.split import single_text_cut
from sharpgpt.evaluation.byte_comparison import byte_spans
from sharpgpt.evaluation.compare import compare
from sharpgpt.report.comparison import write_comparison

WORDS = (
    "the",
    "cat",
    "sat",
    "on",
    "a",
    "mat",
    "and",
    "dog",
    "red",
    "house",
    "where",
    "naïve",
    "birds",
)


def some_text(num_words: int, seed: int) -> str:
    order = torch.randint(len(WORDS), (num_words,), generator=torch.Generator().manual_seed(seed))
    words = [WORDS[one] + (".\n" if place % 9 == 8 else "") for place, one in enumerate(order)]
    return " ".join(words).replace("\n ", "\n")


def trained_tokenizer(vocab_size: int, **special: Any) -> PreTrainedTokenizerFast:
    """Byte pairs of a few lines."""
    inner = tokenizers.Tokenizer(tokenizers.models.BPE())
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<end>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator([some_text(300, 0)], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>", **special)


def saved(folder: Path, model: Any, tokenizer: PreTrainedTokenizerFast) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def gpt2(vocab_size: int, seed: int = 0) -> GPT2LMHeadModel:
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=vocab_size, n_positions=64, n_embd=16, n_layer=1, n_head=1,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    return GPT2LMHeadModel(config)


def llama(vocab_size: int) -> LlamaForCausalLM:
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=vocab_size, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=1, num_key_value_heads=1, max_position_embeddings=64,
        bos_token_id=None, eos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    return LlamaForCausalLM(config)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(some_text(12_000, 1), encoding="utf-8")
    return path


@pytest.mark.usefixtures("no_picture_files")
def test_models_with_different_tokenizers_are_compared_in_bits_a_byte(
    tmp_path: Path, text: Path
) -> None:
    """A model without weights is uniform over its V tokens: log2(V) bits for each."""
    uniform = gpt2(300)
    with torch.no_grad():
        for parameter in uniform.parameters():
            parameter.zero_()
    base = saved(tmp_path / "base", uniform, trained_tokenizer(300))
    other = saved(tmp_path / "other", llama(280), trained_tokenizer(280))
    result = compare(other, baseline=base, dataset=text, output=tmp_path, device="cpu")
    [run], [arm] = result.content["baseline"]["runs"], result.arms
    assert arm["verdict"] is None
    assert "The tokenizers differ" in arm["sentence"]
    content = text.read_text("utf-8")
    spans = byte_spans("text", content[single_text_cut(len(content), 0.1) :])
    tokenizer = HuggingFaceTokenizer(trained_tokenizer(300))
    num_tokens = num_bytes = 0
    for span, lead in zip(spans.spans, spans.leads, strict=True):
        num_tokens += sum(tokenizer.encode_with_ends(span)[1] > lead)
        num_bytes += len(span.encode()) - len(span[:lead].encode())
    bits = run["figures"]["bits_per_byte"]
    assert bits["estimate"] == pytest.approx(math.log2(300) * num_tokens / num_bytes, rel=1e-6)
    found = arm["bits_per_byte"]
    mine = arm["runs"][0]["figures"]["bits_per_byte"]["estimate"]
    assert found["estimate"] == pytest.approx(mine - bits["estimate"], abs=1e-3)
    assert found["low"] < found["estimate"] < found["high"]
    page = write_comparison(json.loads((tmp_path / "comparison.json").read_text()), tmp_path)
    assert "Bits a byte" in page.read_text("utf-8")


def test_a_descendant_with_the_same_tokenizer_is_compared_in_nats_at_equal_entropy(
    tmp_path: Path, text: Path
) -> None:
    """The descendant is the base with other logits, and has a chat template and a token more."""
    base = gpt2(300)
    with torch.no_grad():
        base.transformer.wte.weight.mul_(20)
    saved(tmp_path / "base", base, trained_tokenizer(300))
    with torch.no_grad():
        base.transformer.ln_f.weight.mul_(1.5)
        base.transformer.ln_f.bias.mul_(1.5)
    base.resize_token_embeddings(301)
    with torch.no_grad():  # the new token is as improbable as can be in both directions
        base.transformer.wte.weight[300].zero_()
    template = "{% for m in messages %}<user>{{ m.content }}{% endfor %}"
    tokenizer = trained_tokenizer(300, chat_template=template)
    saved(tmp_path / "descendant", base, tokenizer)
    result = compare(
        tmp_path / "descendant",
        baseline=tmp_path / "base",
        dataset=text,
        max_seq_length=32,
        num_texts=0,
        device="cpu",
    )
    [arm] = result.arms
    assert set(arm["controls"]) == {"temperature", "entropy map"}
    [temperature] = arm["controls"]["temperature"]["parameter"]
    assert temperature == pytest.approx(1 / 1.5, rel=0.05)
    places = {row["class"] for row in arm["token_classes"]}
    assert {"start of a word", "inside a word"} <= places


def test_text_is_encoded_as_it_stands() -> None:
    """No template, nothing before or after it; the name of a special token is text."""
    tokenizer = trained_tokenizer(300)
    ours = HuggingFaceTokenizer(tokenizer)
    ids, ends = ours.encode_with_ends("the <end> naïve")
    assert tokenizer.eos_token_id not in ids.tolist()
    assert ours.decode(ids) == "the <end> naïve"
    assert ends[-1] == len("the <end> naïve")
    assert ours.encode_prompt("a<end>")[-1] == tokenizer.eos_token_id
    template = trained_tokenizer(300, chat_template="{{ messages }}")
    assert HuggingFaceTokenizer(template).fingerprint == ours.fingerprint
    assert HuggingFaceTokenizer(trained_tokenizer(290)).fingerprint != ours.fingerprint


def test_spans_cover_the_text_and_are_cut_before_white_space() -> None:
    content = some_text(3000, 2)
    spans = byte_spans("text", content)
    assert content.startswith("".join(spans.spans))
    assert all(span[:1].isspace() for span in spans.spans[1:])
    assert spans.num_bytes.sum() == sum(
        len(span.encode()) - len(span[:lead].encode())
        for span, lead in zip(spans.spans, spans.leads, strict=True)
    )
    assert len(byte_spans("text", content, max_spans=5).spans) == 5
    with pytest.raises(UserError, match="allowed are at least 4; give more text"):
        byte_spans("text", content[:900])
