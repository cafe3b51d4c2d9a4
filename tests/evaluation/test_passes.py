"""A pass over a split: equal to the dense computation, whatever the chunks, with fixed memory."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sharpgpt.config import TrainingConfig
from sharpgpt.data.blocks import validation_blocks
from sharpgpt.evaluation import passes
from sharpgpt.evaluation.controls import PenaltyMap
from sharpgpt.evaluation.groups import MAX_GROUPS, make_groups
from sharpgpt.evaluation.logits import head_logits
from sharpgpt.evaluation.metrics import evaluate
from sharpgpt.evaluation.passes import ModelPasses, collect, row_batches
from sharpgpt.evaluation.row_statistics import (
    STATISTICS,
    UNCHANGED,
    Sharpening,
    Temperature,
    row_statistics,
)
from sharpgpt.evaluation.validation_text import EvaluationText
from sharpgpt.model.build import create_gpt2_model
from sharpgpt.model.lm import SharpnessLM
from sharpgpt.runtime.device import choose_device
from tests.evaluation.tables import table_logits, table_statistics

DEVICE = choose_device(TrainingConfig(device="cpu", dtype="float32"))
SHARPENINGS: list[Sharpening] = [UNCHANGED, Temperature(1.7), PenaltyMap("neg_entropy", 0.1)]


def gpt2() -> nn.Module:
    model = create_gpt2_model(
        n_layer=1, n_head=2, n_embd=16, vocab_size=131, max_seq_length=9, dropout=0.3,
        end_of_text_id=None,
    )  # fmt: skip
    with torch.no_grad():  # far from uniform
        model.get_parameter("transformer.wte.weight").mul_(8)
    return model


def llama() -> nn.Module:
    from transformers.models.llama.configuration_llama import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=131, hidden_size=16, intermediate_size=24, num_hidden_layers=1,
        num_attention_heads=2, tie_word_embeddings=False,
    )  # fmt: skip
    model: nn.Module = LlamaForCausalLM(config)
    with torch.no_grad():
        model.get_parameter("lm_head.weight").mul_(30)
    return model


def text(num_blocks: int, block_length: int = 9, vocab_size: int = 131) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(vocab_size, (num_blocks, block_length), generator=generator)


def passes_of(
    model: nn.Module, blocks: Any, *, boundary_id: int | None = None, **how: Any
) -> ModelPasses:
    ranks = np.zeros(131)
    given = EvaluationText("text", blocks, None, ranks, boundary_id=boundary_id)
    return ModelPasses(model, DEVICE, given, cache_bytes=0, **how)


@pytest.mark.parametrize("build", [gpt2, llama])
def test_streaming_is_the_dense_computation(build: Any) -> None:
    model, blocks_BT = build().train(), text(23)
    chunks_of_seven_rows = 131 * 4 * 7
    made = passes_of(model, blocks_BT, top_k=4, batch_size=5, chunk_bytes=chunks_of_seven_rows)
    made.groups = make_groups(23, max_groups=6)
    statistics = made(SHARPENINGS, [SHARPENINGS[1]])
    assert model.training, "the mode is left as it was"
    logits_BTV = model.eval()(input_ids=blocks_BT).logits[:, :-1].detach()
    dense = row_statistics(
        logits_BTV.flatten(0, 1).double(), blocks_BT[:, 1:].flatten(), SHARPENINGS, top_k=4
    )
    group_of_row_N = torch.arange(23).repeat_interleave(8) * 6 // 23
    assert statistics.num_rows.tolist() == torch.bincount(group_of_row_N).tolist()
    for group in range(6):
        rows_N = group_of_row_N == group
        for number, sharpening in enumerate(SHARPENINGS):
            for name in STATISTICS:
                truth = dense[number, STATISTICS.index(name), rows_N].mean().item()
                streamed = statistics.sums(name, sharpening)[group] / statistics.num_rows[group]
                scale = 100 if name == "logit_variance" else 1  # logits squared
                assert streamed == pytest.approx(truth, rel=1e-6, abs=1e-6 * scale, nan_ok=True)
    odd = statistics.mean("ce", half="report") * statistics.num_rows[1::2].sum()
    assert odd == pytest.approx(statistics.sums("ce")[1::2].sum())
    histogram = statistics.histograms[SHARPENINGS[1]]
    mean = histogram.confidence.sum() / histogram.count.sum()
    assert mean == pytest.approx(statistics.mean("max_prob", SHARPENINGS[1], "report"))
    report = made.groups.mask("report")
    assert histogram.hits.sum() == statistics.sums("accuracy")[report].sum()


def test_the_statistics_do_not_depend_on_chunks_and_batches() -> None:
    model, blocks_BT = gpt2(), text(13)
    first, *others = [
        passes_of(model, blocks_BT, top_k=2, batch_size=size, chunk_bytes=chunk)(SHARPENINGS)
        for chunk, size in ((1, 1), (131 * 4 * 3, 4), (2**26, 50))
    ]
    for other in others:
        np.testing.assert_allclose(other.totals, first.totals, rtol=1e-5)
        assert other.checksum == first.checksum


def test_the_statistics_are_those_of_the_validation_in_training() -> None:
    """The same rows, and the same mask of documents, as `evaluate` sees in training."""
    model = SharpnessLM(gpt2(), penalty="neg_entropy", top_k=3, boundary_id=7)
    blocks_BT = text(6)
    blocks_BT[:, 4] = 7
    val = evaluate(model, [blocks_BT], penalty_weight=0.0, device=DEVICE)
    causal_lm = model.causal_lm
    with_mask, without = (
        passes_of(causal_lm, blocks_BT, boundary_id=boundary_id, top_k=3, batch_size=4)([UNCHANGED])
        for boundary_id in (7, None)
    )
    for name, of_training in (
        ("ce", "ce_loss"),
        ("entropy", "entropy"),
        ("max_prob", "avg_max_prob"),
        ("top_k_mass", "top_k_mass"),
        ("accuracy", "accuracy"),
    ):
        assert with_mask.mean(name) == pytest.approx(val[f"val/{of_training}"], rel=1e-5)
    assert without.mean("ce") != pytest.approx(with_mask.mean("ce"), rel=1e-4)


def test_validation_blocks_are_read_piece_by_piece() -> None:
    tokens = text(1, 200)[0]
    blocks = validation_blocks(tokens.numpy().astype(np.uint16), 9)
    table_VV = torch.randn(131, 131)
    batches = row_batches(table_logits(table_VV), blocks, top_k=3, batch_size=4)
    lazy = collect(batches, make_groups(len(blocks)))
    whole = table_statistics(table_VV, blocks[: len(blocks)])
    np.testing.assert_allclose(lazy.totals, whole.totals)
    assert lazy.checksum == whole.checksum


def test_memory_does_not_grow_with_the_split(monkeypatch: pytest.MonkeyPatch) -> None:
    """No more logits at once than a chunk, and what is kept is of one size for any split."""
    held = []

    class Endless:
        def __init__(self, num_blocks: int) -> None:
            self.shape = (num_blocks, 9)

        def __getitem__(self, index: slice) -> Tensor:
            count = min(index.stop, self.shape[0]) - index.start
            return text(count)

    def watched(causal_lm: nn.Module, hidden_ND: Tensor, *, chunk_bytes: int) -> Iterator[Tensor]:
        for logits_CV in head_logits(causal_lm, hidden_ND, chunk_bytes=chunk_bytes):
            held.append(logits_CV.nbytes)
            yield logits_CV

    monkeypatch.setattr(passes, "head_logits", watched)
    kept = []
    for num_blocks in (300, 3000):
        statistics = passes_of(
            gpt2(), Endless(num_blocks), top_k=3, batch_size=100, chunk_bytes=131 * 4 * 10
        )([UNCHANGED], [UNCHANGED])
        kept.append(
            statistics.totals.nbytes + statistics.num_rows.nbytes
            + sum(3 * one.count.nbytes for one in statistics.histograms.values())
        )  # fmt: skip
        assert statistics.num_rows.sum() == 8 * num_blocks
        assert statistics.groups.num_groups == MAX_GROUPS
    assert kept[0] == kept[1]
    assert held
    assert max(held) <= 131 * 4 * 10


def test_a_source_that_loses_rows_is_refused() -> None:
    blocks_BT = text(4)
    batches = row_batches(lambda _: [torch.zeros(5, 131)], blocks_BT, top_k=1, batch_size=4)
    with pytest.raises(ValueError, match="gave 5 rows for 32 predictions"):
        next(batches)
    some = row_batches(table_logits(torch.zeros(131, 131)), blocks_BT, top_k=1, batch_size=2)
    next(some)
    with pytest.raises(ValueError, match="given block 2 after 0 blocks"):
        collect(some, make_groups(4))
