"""The metrics of generated texts, against tables of which every metric is known."""

import functools
import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sharpgpt.data.tokenizer import CharTokenizer
from sharpgpt.evaluation import generated_text as module
from sharpgpt.evaluation.generated_text import (
    Decoding,
    TextPlan,
    Texts,
    generation_calibration,
    generation_metrics,
)
from sharpgpt.evaluation.saved_model import SavedModel
from sharpgpt.model.build import create_gpt2_model
from sharpgpt.runtime.device import Device

CPU = Device(torch.device("cpu"), torch.float32)
CHARACTERS = "\nabcdefghijklmno"
WINDOW = 16
TOKENIZER = CharTokenizer(CHARACTERS).to_huggingface(WINDOW)


def empty_model(end_id: int | None = None) -> Any:
    """Every weight is 0: every prediction is the uniform distribution."""
    model = create_gpt2_model(
        n_layer=1, n_head=1, n_embd=8, vocab_size=len(CHARACTERS), max_seq_length=WINDOW,
        end_of_text_id=end_id,
    )  # fmt: skip
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    return model


def bigram_model(seed: int = 0, scale: float = 1.0) -> tuple[nn.Module, Tensor]:
    """A model whose prediction depends on the last token alone, and its log-probabilities."""
    model = empty_model()
    generator = torch.Generator().manual_seed(seed)
    wte_VD = 0.5 * torch.randn(len(CHARACTERS), 8, generator=generator)
    with torch.no_grad():
        model.transformer.wte.weight.copy_(wte_VD)
        model.transformer.ln_f.weight.fill_(scale)
    logits_VV = torch.nn.functional.layer_norm(wte_VD, [8]) * scale @ wte_VD.T
    return model, logits_VV.double().log_softmax(-1)


DECODINGS = (Decoding(0), Decoding(0.5), Decoding(1.0), Decoding(1.0, 0.9))


def saved(model: nn.Module, tokenizer: Any = TOKENIZER) -> SavedModel:
    return SavedModel(Path("itself"), model, tokenizer, WINDOW, None, None, None)


def metrics(
    model: nn.Module,
    *,
    judge: nn.Module | None = None,
    validation: Tensor | None = None,
    **changes: Any,
) -> dict[str, Any]:
    how = {"prompt_ids": [0], "num_texts": 3, "num_tokens": 50, "seed": 1, "decodings": DECODINGS}
    return generation_metrics(
        saved(model),
        TextPlan(**(how | changes)),
        judge=saved(judge or model),
        validation_ids=torch.arange(0) if validation is None else validation,
        device=CPU,
    )


def texts(model: nn.Module, tokenizer: Any = TOKENIZER, **plan: Any) -> Texts:
    how = {"prompt_ids": [0], "num_texts": 3, "num_tokens": 50, "seed": 1}
    return Texts(saved(model, tokenizer), TextPlan(**(how | plan)), WINDOW, CPU)


def texts_of(model: nn.Module, way: Decoding, count: int, num_tokens: int = 50) -> Tensor:
    return texts(model, num_texts=count, num_tokens=num_tokens).written(way)


def test_the_perplexity_of_a_uniform_judge_is_the_vocabulary() -> None:
    model, _ = bigram_model()
    found = metrics(model, judge=empty_model(), validation=torch.arange(150) % 16)
    for row in [*found["ways"], found["text"]]:
        assert row["perplexity"] == pytest.approx(len(CHARACTERS), rel=1e-5)


@pytest.mark.parametrize("num_tokens", [8, 15, 16, 50])
def test_the_perplexity_is_that_of_the_table(num_tokens: int) -> None:
    """Of texts that fit the window and of texts three times as long; the prompt does not count."""
    model, _ = bigram_model(0)
    judge, log_p_VV = bigram_model(1, scale=2)
    validation = torch.randint(16, (3 * num_tokens,), generator=torch.Generator().manual_seed(5))
    found = metrics(model, judge=judge, num_tokens=num_tokens, validation=validation)

    def expected(ids_SL: Tensor) -> float:
        before_SL = torch.cat([torch.zeros(len(ids_SL), 1, dtype=torch.long), ids_SL[:, :-1]], 1)
        return math.exp(-log_p_VV[before_SL, ids_SL].mean())

    for row, way in zip(found["ways"], DECODINGS, strict=True):
        ids_SL = texts_of(model, way, 3, num_tokens)
        assert row["decoding"] == way.name
        assert row["perplexity"] == pytest.approx(expected(ids_SL), rel=1e-5), way
    text_SL = validation.view(3, num_tokens)
    assert found["text"]["perplexity"] == pytest.approx(expected(text_SL), rel=1e-5)


def test_a_model_that_is_the_truth_writes_text_as_uncertain_as_real_text() -> None:
    """The entropy rate of its chain is known; a sharper model's text is surer than real text."""
    model, log_p_VV = bigram_model(0)
    sharper, _ = bigram_model(0, scale=3.0)
    p_VV, num_texts, num_tokens = log_p_VV.exp(), 30, 60
    state_V, rate = torch.eye(16, dtype=torch.float64)[0], 0.0
    for _ in range(num_tokens):
        rate += float(state_V @ -(p_VV * log_p_VV).sum(-1)) / num_tokens
        state_V = state_V @ p_VV
    generator = torch.Generator().manual_seed(1)
    real = [torch.zeros(num_texts, dtype=torch.int64)]
    for _ in range(num_tokens):
        real.append(torch.multinomial(p_VV[real[-1]], 1, generator=generator).flatten())
    real_SL = torch.stack(real[1:], dim=1)

    def calibration(of: nn.Module) -> dict[str, Any]:
        writer = texts(of, num_texts=num_texts, num_tokens=num_tokens)
        own_SL, entropy_SL = writer.nll_and_entropy(writer.written(Decoding(1.0)))
        return generation_calibration(entropy_SL, own_SL, writer.nll_and_entropy(real_SL)[0])

    found = calibration(model)
    assert found["entropy_rate"]["low"] < rate < found["entropy_rate"]["high"]
    assert found["difference"]["low"] < 0 < found["difference"]["high"]
    assert found["log_loss_of_own_text"] == pytest.approx(rate, abs=0.1)
    assert calibration(sharper)["difference"]["high"] < 0


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.4])
def test_texts_are_drawn_from_the_distribution_at_their_temperature(temperature: float) -> None:
    """The surprise of each token less its expectation after the token before: sums of such
    differences are normal, however slowly the chain mixes."""
    model, log_p_VV = bigram_model()
    ids_SL = texts_of(model, Decoding(temperature), 30, 300)
    before_SL = torch.cat([torch.zeros(30, 1, dtype=torch.long), ids_SL[:, :-1]], 1)

    def standard_errors_away(temperature: float) -> float:
        p_VV = (log_p_VV / temperature).softmax(-1)
        mean_V = (p_VV * log_p_VV).sum(-1)
        variance_V = (p_VV * log_p_VV**2).sum(-1) - mean_V**2
        difference = (log_p_VV[before_SL, ids_SL] - mean_V[before_SL]).sum()
        return float(difference / variance_V[before_SL].sum().sqrt())

    assert abs(standard_errors_away(temperature)) < 3
    assert abs(standard_errors_away(temperature * 1.15)) > 4


def test_top_p_leaves_out_the_rest() -> None:
    """No token outside the smallest set that holds the mass."""
    model, log_p_VV = bigram_model()
    ids_SL = texts_of(model, Decoding(1.0, 0.6), 5)
    sorted_VV, order_VV = log_p_VV.exp().sort(-1, descending=True)
    for text in ids_SL.tolist():
        for before, token in itertools.pairwise([0, *text]):
            rank = order_VV[before].tolist().index(token)
            assert sorted_VV[before][:rank].sum() < 0.6 + 1e-6


def test_the_entropy_along_the_position_is_that_of_the_table() -> None:
    """Also where temperature 1 is none of the ways to decode."""
    model, log_p_VV = bigram_model()
    ids_SL = texts_of(model, Decoding(1.0), 3)
    before_SL = torch.cat([torch.zeros(3, 1, dtype=torch.long), ids_SL[:, :-1]], 1)
    entropy_L = -(log_p_VV.exp() * log_p_VV).sum(-1)[before_SL].mean(0)
    rows = metrics(model)["entropy_by_position"]
    assert rows == metrics(model, decodings=(Decoding(0.5),))["entropy_by_position"]
    assert [rows[0]["from"], rows[-1]["below"]] == [1, 51]
    for row, after in itertools.pairwise(rows):
        assert row["below"] == after["from"]
    for row in rows:
        expected = entropy_L[row["from"] - 1 : row["below"] - 1].mean()
        assert row["entropy"] == pytest.approx(float(expected), rel=1e-5)


def test_a_judge_that_looks_back_sees_half_a_window_at_least(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Within the window the perplexity is that of one dense pass; beyond it, of one pass for each
    token over the context that the windows give it. Chunks change nothing."""
    model: Any = create_gpt2_model(
        n_layer=1, n_head=2, n_embd=16, vocab_size=16, max_seq_length=WINDOW, end_of_text_id=None
    ).eval()
    with torch.no_grad():
        model.transformer.wpe.weight.mul_(50)
        model.transformer.wte.weight.mul_(50)
    ids_SL = torch.randint(16, (3, 40), generator=torch.Generator().manual_seed(0))
    judged = texts(model, prompt_ids=[0, 3], num_tokens=40)
    text_SL = torch.cat([torch.tensor([[0, 3]]).repeat(3, 1), ids_SL], 1)
    starts = [0] * 16 + [min(42, 24 + (place - 16) // 8 * 8) - WINDOW for place in range(16, 42)]
    total = 0.0
    for place in range(2, 42):
        with torch.no_grad():
            logits_SV = model(text_SL[:, starts[place] : place]).logits[:, -1]
        target_S = text_SL[:, place]
        total += float(torch.nn.functional.cross_entropy(logits_SV, target_S, reduction="sum"))
    assert min(place - start for place, start in enumerate(starts[16:], 16)) >= WINDOW // 2
    nll = judged.mean_nll(model, ids_SL)
    assert nll == pytest.approx(total / 120, rel=1e-5)

    small = functools.partial(module.head_logits, chunk_bytes=3 * 4 * 16)
    monkeypatch.setattr(module, "head_logits", small)
    monkeypatch.setattr(module, "TEXTS_AT_ONCE", 2)
    assert judged.mean_nll(model, ids_SL) == pytest.approx(nll, rel=1e-6)


def test_greedy_is_one_text_without_the_metrics_of_a_set() -> None:
    model, log_p_VV = bigram_model()
    found = metrics(model)
    greedy, *others = found["ways"]
    assert greedy["decoding"] == "greedy"
    set_metrics = ("distinct_1", "distinct_2", "distinct_3", "self_bleu", "zipf")
    assert [greedy[name] for name in set_metrics] == [None] * 5
    assert greedy["seq_rep_4"] > 0.5
    assert all(row[name] is not None for row in others for name in set_metrics)
    samples = [sample for sample in found["samples"] if sample["decoding"] == "greedy"]
    text, token = [], 0
    for _ in range(50):
        token = int(log_p_VV[token].argmax())
        text.append(CHARACTERS[token])
    assert [sample["text"] for sample in samples] == ["".join(text)]


def test_the_seed_decides_and_nothing_else_is_disturbed() -> None:
    model, _ = bigram_model()
    model.train()
    torch.manual_seed(3)
    before = torch.get_rng_state()
    found = metrics(model)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    assert metrics(model) == found
    assert metrics(model, seed=2) != found
    json.dumps(found, allow_nan=False)
    assert {key: found[key] for key in ("prompt", "num_texts", "num_tokens", "judge", "text")} == {
        "prompt": "\n", "num_texts": 3, "num_tokens": 50, "judge": "itself", "text": None,
    }  # fmt: skip
    assert [len(sample["text"]) for sample in found["samples"]] == [50] * 7


def test_the_end_of_text_is_never_drawn() -> None:
    """All texts keep their length though the model is all but sure that they end."""
    model = empty_model(end_id=7)
    with torch.no_grad():
        model.transformer.ln_f.bias.fill_(1)
        model.transformer.wte.weight[7].fill_(1)
    for way, count in ((Decoding(0), 1), (Decoding(1.0), 4)):
        ids_SL = texts_of(model, way, 4)
        assert ids_SL.shape == (count, 50)
        assert not (ids_SL == 7).any()
    model.generation_config.eos_token_id = [7, 8]
    assert not (texts_of(model, Decoding(1.0), 20) == 8).any()


def test_what_pads_the_vocabulary_is_never_drawn() -> None:
    """As the rows 50257 to 50303 of a GPT-2 with a round number of them."""
    model, _ = bigram_model()
    tokenizer = CharTokenizer(CHARACTERS[:13]).to_huggingface(WINDOW)
    ids_SL = texts(model, tokenizer, num_texts=4, num_tokens=200).written(Decoding(2.0))
    assert sorted(ids_SL.unique().tolist()) == list(range(13))


def test_the_generation_settings_of_a_model_bend_nothing() -> None:
    """A foreign model's folder may ask for a repetition penalty or few candidates by default."""
    model: Any
    model, _ = bigram_model()
    plain = texts_of(model, Decoding(1.0), 3)
    model.generation_config.repetition_penalty = 5.0
    model.generation_config.min_p = 0.9
    assert torch.equal(texts_of(model, Decoding(1.0), 3), plain)
    assert model.generation_config.repetition_penalty == 5.0


def test_a_judge_that_gives_no_number_gives_null() -> None:
    model, _ = bigram_model()
    judge = empty_model()
    with torch.no_grad():
        judge.transformer.ln_f.bias.fill_(math.nan)
    found = metrics(model, judge=judge)
    assert [row["perplexity"] for row in found["ways"]] == [None] * 4
    json.dumps(found, allow_nan=False)


def test_a_model_that_diverged_writes_nothing() -> None:
    model = empty_model()
    with torch.no_grad():
        model.transformer.ln_f.bias.fill_(math.nan)
    found = metrics(model, judge=empty_model(), validation=torch.arange(150) % 16)
    assert (found["ways"], found["samples"], found["entropy_by_position"]) == ([], [], [])
    assert found["text"]["perplexity"] == pytest.approx(16)
    json.dumps(found, allow_nan=False)
