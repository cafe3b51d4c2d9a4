"""Passes of a model: hidden states kept on disk change nothing, memory does not grow, buckets."""

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from sharpgpt.evaluation.hidden_states import HiddenStates
from sharpgpt.evaluation.model_evaluation import (
    EvaluationText,
    ModelPasses,
    evaluate_model,
    final_layer,
)
from sharpgpt.evaluation.results import finite
from sharpgpt.evaluation.row_statistics import UNCHANGED
from sharpgpt.evaluation.temperature import GRID, fine_curve, temperature_curve
from sharpgpt.evaluation.validation_text import frequency_ranks
from sharpgpt.runtime.device import Device
from tests.evaluation.tables import bigram_text, table_statistics

CPU = Device(torch.device("cpu"), torch.float32)
VOCAB = 12


class TableModel(nn.Module):
    """A causal LM in HuggingFace's form whose logits are a table's row for the last token."""

    def __init__(self, table_VV: torch.Tensor) -> None:
        super().__init__()
        self.base_model = Body(len(table_VV))
        self.head = nn.Linear(*table_VV.shape, bias=False)
        self.head.weight.data = table_VV.T.contiguous()

    def get_output_embeddings(self) -> nn.Linear:
        return self.head


class Body(nn.Module):
    """One-hot hidden states; counts how often it was run."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.vocab_size, self.num_calls = vocab_size, 0
        self.ln_f = nn.LayerNorm(4)

    def forward(self, input_ids: torch.Tensor, use_cache: bool = False) -> tuple[torch.Tensor]:
        assert not use_cache
        self.num_calls += 1
        return (nn.functional.one_hot(input_ids, self.vocab_size).float(),)


@pytest.fixture(scope="module")
def true_table() -> torch.Tensor:
    return 2 * torch.randn(VOCAB, VOCAB, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def text(true_table: torch.Tensor) -> EvaluationText:
    blocks_BT = bigram_text(true_table, 60, 17, torch.Generator().manual_seed(2))
    counts = np.bincount(blocks_BT.flatten().numpy(), minlength=VOCAB)
    return EvaluationText(
        "a chain", blocks_BT, np.arange(VOCAB), frequency_ranks(counts), vocabulary="v"
    )


@pytest.fixture
def passes(true_table: torch.Tensor, text: EvaluationText) -> Iterator[ModelPasses]:
    made = ModelPasses(TableModel(true_table), CPU, text, top_k=3, batch_size=7)
    yield made
    made.close()


def test_the_body_is_run_once_and_the_statistics_are_those_of_the_table(
    true_table: torch.Tensor, text: EvaluationText, passes: ModelPasses
) -> None:
    evaluation = evaluate_model(passes)
    body = passes.causal_lm.base_model
    assert isinstance(body, Body)
    assert body.num_calls == math.ceil(60 / 7)
    blocks_BT = text.blocks
    assert isinstance(blocks_BT, torch.Tensor)
    truth = table_statistics(true_table, blocks_BT, GRID)
    for name in ("ce", "entropy", "max_prob", "accuracy", "reciprocal_rank"):
        assert evaluation.statistics.mean(name) == pytest.approx(truth.mean(name), rel=1e-6)
    assert evaluation.num_bytes is not None
    group_of_block = passes.groups.of_blocks(np.arange(60))
    for group in range(passes.groups.num_groups):  # token k is k bytes long
        mine = blocks_BT[torch.from_numpy(group_of_block == group)]
        assert evaluation.num_bytes[group] == int(mine[:, 1:].sum())
    found = evaluation.to_dict()
    bits = truth.mean("ce") * text.num_rows / (math.log(2) * int(blocks_BT[:, 1:].sum()))
    assert found["figures"]["bits_per_byte"]["estimate"] == pytest.approx(bits, rel=1e-6)


def test_bits_per_byte_vary_with_the_bytes_of_the_text(
    true_table: torch.Tensor, text: EvaluationText, passes: ModelPasses
) -> None:
    """With as many bytes a token as each group has nats, nothing is left to vary."""
    evaluation = evaluate_model(passes)
    constant = replace(evaluation, num_bytes=3 * evaluation.statistics.sums("ce"))
    interval = constant.to_dict()["figures"]["bits_per_byte"]
    assert interval["low"] == pytest.approx(interval["high"])
    assert interval["estimate"] == pytest.approx(1 / (3 * math.log(2)))
    assert "bits_per_byte" not in replace(evaluation, num_bytes=None).to_dict()["figures"]


def test_without_room_for_hidden_states_the_result_is_the_same(
    true_table: torch.Tensor, text: EvaluationText, passes: ModelPasses
) -> None:
    without = ModelPasses(
        TableModel(true_table), CPU, text, top_k=3, batch_size=7, cache_bytes=1000
    )
    first, second = evaluate_model(passes), evaluate_model(without)
    assert first.to_dict() == second.to_dict()
    body = without.causal_lm.base_model
    assert isinstance(body, Body)
    assert body.num_calls > 2 * math.ceil(60 / 7)


def test_hidden_states_are_read_when_all_are_there_and_in_order() -> None:
    states = HiddenStates(1 << 20)
    rows_ND = torch.arange(12.0).view(6, 2)
    states.write(0, rows_ND[:4], 6)
    assert states.read(0, 4) is None
    states.write(0, rows_ND[:4], 6)  # a pass that began anew
    states.write(4, rows_ND[4:], 6)
    kept = states.read(3, 2)
    assert kept is not None
    assert torch.equal(kept, rows_ND[3:5])
    states.close()
    states.close()


def test_with_a_baseline_the_buckets_have_its_statistics(
    true_table: torch.Tensor, text: EvaluationText, passes: ModelPasses
) -> None:
    other = ModelPasses(TableModel(0.5 * true_table), CPU, text, top_k=3, batch_size=7)
    found = evaluate_model(other, passes).buckets
    other.close()
    assert set(found) == {"position", "frequency", "baseline_entropy"}
    for buckets in found.values():
        total = sum(row["num_rows"] or 0 for row in buckets)
        assert total == text.num_rows
        ce = sum((row["num_rows"] or 0) * (row["baseline_ce"] or 0) for row in buckets) / total
        blocks_BT = text.blocks
        assert isinstance(blocks_BT, torch.Tensor)
        assert ce == pytest.approx(table_statistics(true_table, blocks_BT).mean("ce"), rel=1e-6)


def test_the_curve_between_the_grids_temperatures(true_table: torch.Tensor) -> None:
    """Four steps between two of the grid: within 1e-4 nats of what a pass at them gives."""
    blocks_BT = bigram_text(true_table, 40, 17, torch.Generator().manual_seed(3))
    coarse = temperature_curve(table_statistics(true_table, blocks_BT, GRID), "report")
    fine = fine_curve(coarse)
    assert len(fine) == 4 * (len(GRID) - 1) + 1
    between = type(GRID[0])
    chosen = [point for point in fine if 0.4 < point["temperature"] < 2.5][::3]
    at = [between(1 / point["temperature"]) for point in chosen]
    truth = table_statistics(true_table, blocks_BT, at)
    for point, sharpening in zip(chosen, at, strict=True):
        assert point["ce"] == pytest.approx(truth.mean("ce", sharpening, "report"), abs=1e-4)
        assert point["entropy"] == pytest.approx(
            truth.mean("entropy", sharpening, "report"), abs=3e-4
        )


def test_the_final_layer_and_json_without_what_is_not_finite(true_table: torch.Tensor) -> None:
    model = TableModel(true_table)
    model.base_model.ln_f.weight.data.fill_(-2.0)
    assert final_layer(model)["layer_norm_weight_rms"] == pytest.approx(2)
    assert finite({"a": [math.nan, 1.0, {"b": math.inf}]}) == {"a": [None, 1.0, {"b": None}]}


def test_the_best_temperature_is_there_with_its_calibration(passes: ModelPasses) -> None:
    evaluation = evaluate_model(passes)
    found = evaluation.to_dict()
    assert found["temperature"]["best"] == pytest.approx(1, abs=0.1)
    assert found["temperature"]["ce"] <= found["temperature"]["ce_unchanged"] + 0.01
    assert found["calibration"]["best_temperature"]["bins"]
    assert evaluation.statistics.mean("ce", UNCHANGED, "report") == pytest.approx(
        found["temperature"]["ce_unchanged"]
    )


def test_without_a_best_temperature_nothing_is_said_of_one(passes: ModelPasses) -> None:
    """The end of the search was written as the best, 64, beside a note that there is none."""
    evaluation = evaluate_model(passes)
    note = "there is no best temperature between 0.00781 and 64"
    found = replace(evaluation, best=replace(evaluation.best, converged=False, note=note)).to_dict()
    assert [found["temperature"][name] for name in ("best", "ce", "entropy")] == [None] * 3
    assert found["temperature"]["note"] == note
    assert found["temperature"]["ce_unchanged"] > 0
    assert found["calibration"]["best_temperature"] is None
    assert found["calibration"]["unchanged"]["bins"]
