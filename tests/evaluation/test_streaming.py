"""A pass over a split: equal to the dense computation, whatever the chunks, with fixed memory."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sharpgpt.config import TrainingConfig
from sharpgpt.core.errors import UserError
from sharpgpt.data.blocks import validation_blocks
from sharpgpt.data.tokens import ArrayTokens
from sharpgpt.evaluation.controls import PenaltyMap
from sharpgpt.evaluation.groups import MOST_GROUPS, bits_per_byte, make_groups
from sharpgpt.evaluation.metrics import evaluate
from sharpgpt.evaluation.rows import FIGURES, UNCHANGED, Sharpening, Temperature, row_figures
from sharpgpt.evaluation.streaming import collect, evaluate_groups, model_logits, row_batches
from sharpgpt.model.build import create_gpt2_model
from sharpgpt.model.lm import SharpnessLM
from sharpgpt.runtime.device import choose_device
from tests.evaluation.tables import table_figures, table_logits

DEVICE = choose_device(TrainingConfig(device="cpu"))
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


@pytest.mark.parametrize("build", [gpt2, llama])
def test_streaming_is_the_dense_computation(build: Any) -> None:
    model, blocks_BT = build().train(), text(23)
    groups = make_groups(23, most_groups=6)
    figures = evaluate_groups(
        model_logits(model, DEVICE, chunk_bytes=131 * 4 * 7),  # chunks of seven rows
        blocks_BT,
        groups,
        SHARPENINGS,
        top_k=4,
        batch_size=5,
    )
    assert model.training, "the mode is left as it was"
    logits_BTV = model.eval()(input_ids=blocks_BT).logits[:, :-1].detach()
    dense = row_figures(
        logits_BTV.flatten(0, 1).double(), blocks_BT[:, 1:].flatten(), SHARPENINGS, top_k=4
    )
    group_of_row_N = torch.arange(23).repeat_interleave(8) * 6 // 23
    assert figures.num_rows.tolist() == torch.bincount(group_of_row_N).tolist()
    for group in range(6):
        rows_N = group_of_row_N == group
        for number, sharpening in enumerate(SHARPENINGS):
            for name in FIGURES:
                truth = dense.figures[number, FIGURES.index(name), rows_N].mean().item()
                streamed = figures.sums(name, sharpening)[group] / figures.num_rows[group]
                scale = 100 if name == "logit_variance" else 1  # logits squared
                assert streamed == pytest.approx(truth, rel=1e-6, abs=1e-6 * scale, nan_ok=True)
        truths_F = dense.ranks[:, rows_N].mean(-1).numpy()
        np.testing.assert_allclose(figures.ranks[:, group] / figures.num_rows[group], truths_F,
                                   rtol=1e-6)  # fmt: skip
    odd = figures.mean("ce", half="report") * figures.num_rows[1::2].sum()
    assert odd == pytest.approx(figures.sums("ce")[1::2].sum())
    for half in ("all", "tuning", "report"):
        histogram = figures.histogram(SHARPENINGS[1], half)
        mean = histogram.confidence.sum() / histogram.count.sum()
        assert mean == pytest.approx(figures.mean("max_prob", SHARPENINGS[1], half))
        assert histogram.hits.sum() == figures.sums("accuracy")[groups.mask(half)].sum()


def test_the_figures_do_not_depend_on_chunks_and_batches() -> None:
    model, blocks_BT, groups = gpt2(), text(13), make_groups(13)
    first, *others = [
        evaluate_groups(
            model_logits(model, DEVICE, chunk_bytes=chunk),
            blocks_BT, groups, SHARPENINGS, top_k=2, batch_size=size,
        )
        for chunk, size in ((1, 1), (131 * 4 * 3, 4), (2**26, 50))
    ]  # fmt: skip
    for other in others:
        np.testing.assert_allclose(other.figures, first.figures, rtol=1e-5)
        np.testing.assert_allclose(other.ranks, first.ranks, rtol=1e-5)
        assert other.checksum == first.checksum


def test_a_sharpness_lm_has_the_figures_of_its_own_validation() -> None:
    """The same rows, and the same mask of documents, as `evaluate` sees in training."""
    model = SharpnessLM(gpt2(), penalty="neg_entropy", top_k=3, boundary_id=7)
    blocks_BT = text(6)
    blocks_BT[:, 4] = 7
    val = evaluate(model, [blocks_BT], penalty_weight=0.0, device=DEVICE)
    groups = make_groups(6)
    for source in (
        model_logits(model, DEVICE),
        model_logits(model.causal_lm, DEVICE, boundary_id=7),
    ):
        figures = evaluate_groups(source, blocks_BT, groups, top_k=3, batch_size=4)
        for name, of_training in (
            ("ce", "ce_loss"),
            ("entropy", "entropy"),
            ("max_prob", "avg_max_prob"),
            ("top_k_mass", "top_k_mass"),
            ("accuracy", "accuracy"),
        ):
            assert figures.mean(name) == pytest.approx(val[f"val/{of_training}"], rel=1e-5)
    without = evaluate_groups(
        model_logits(model.causal_lm, DEVICE), blocks_BT, groups, top_k=3, batch_size=4
    )
    assert without.mean("ce") != pytest.approx(figures.mean("ce"), rel=1e-4)


def test_validation_blocks_are_read_piece_by_piece() -> None:
    tokens = text(1, 200)[0]
    blocks = validation_blocks(ArrayTokens(tokens.numpy().astype(np.uint16)), 9)
    table_VV = torch.randn(131, 131)
    lazy = evaluate_groups(
        table_logits(table_VV), blocks, make_groups(len(blocks)), top_k=3, batch_size=4
    )
    whole = table_figures(table_VV, blocks[: len(blocks)])
    np.testing.assert_allclose(lazy.figures, whole.figures)
    assert lazy.checksum == whole.checksum


def test_memory_does_not_grow_with_the_split() -> None:
    """No more logits at once than a chunk, and what is kept is of one size for any split."""
    held = []

    class Endless:
        def __init__(self, num_blocks: int) -> None:
            self.shape = (num_blocks, 9)

        def __getitem__(self, index: slice) -> Tensor:
            count = min(index.stop, self.shape[0]) - index.start
            return text(count)

    model = gpt2()

    def watched(input_ids_BT: Tensor) -> Iterator[Tensor]:
        for logits_CV in model_logits(model, DEVICE, chunk_bytes=131 * 4 * 10)(input_ids_BT):
            held.append(logits_CV.nbytes)
            yield logits_CV

    kept = []
    for num_blocks in (300, 3000):
        figures = evaluate_groups(
            watched, Endless(num_blocks), make_groups(num_blocks), top_k=3, batch_size=100
        )
        kept.append(
            figures.figures.nbytes + figures.ranks.nbytes + figures.num_rows.nbytes
            + sum(3 * one.count.nbytes for one in figures.histograms.values())
        )  # fmt: skip
        assert figures.num_rows.sum() == 8 * num_blocks
        assert figures.groups.num_groups == MOST_GROUPS
    assert kept[0] == kept[1]
    assert max(held) <= 131 * 4 * 10


def test_groups_are_runs_of_blocks_that_alternate_between_the_halves() -> None:
    groups = make_groups(11, most_groups=5)
    assert groups.num_groups == 4
    assert groups.of_blocks(np.arange(11)).tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3]
    assert groups.mask("tuning").tolist() == [True, False, True, False]
    assert groups.mask("report").tolist() == [False, True, False, True]
    with pytest.raises(UserError, match="given 3 blocks of text, allowed is at least 4"):
        make_groups(3)


def test_figures_of_different_text_are_not_joined() -> None:
    table_VV = torch.randn(131, 131, generator=torch.Generator().manual_seed(1))
    blocks_BT = text(8)
    first = table_figures(table_VV, blocks_BT)
    more = table_figures(table_VV, blocks_BT, [UNCHANGED, Temperature(2.0)])
    joined = first.joined([more])
    assert joined.sharpenings == (UNCHANGED, Temperature(2.0))
    assert joined.mean("ce", Temperature(2.0)) == more.mean("ce", Temperature(2.0))
    with pytest.raises(KeyError, match="no figure 'ce' at"):
        first.mean("ce", Temperature(2.0))
    with pytest.raises(ValueError, match="different text"):
        first.joined([table_figures(table_VV, blocks_BT.flip(0))])


def test_a_source_that_loses_rows_is_refused() -> None:
    blocks_BT = text(4)
    batches = row_batches(lambda _: [torch.zeros(5, 131)], blocks_BT, top_k=1, batch_size=4)
    with pytest.raises(ValueError, match="gave 5 rows for 32 predictions"):
        next(batches)
    some = row_batches(table_logits(torch.zeros(131, 131)), blocks_BT, top_k=1, batch_size=2)
    next(some)
    with pytest.raises(ValueError, match="given block 2 after 0 blocks"):
        collect(some, make_groups(4), top_k=1)


def test_bits_per_byte() -> None:
    assert bits_per_byte(np.log(2) * 3, num_tokens=10, num_bytes=15) == pytest.approx(2)
