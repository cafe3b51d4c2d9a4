"""The simulations behind docs/verdict.md: how often the rule is wrong, and what the maps can do.

    python benchmarks/bench_verdict.py

About two minutes on one core. Everything but the times is fixed by seeds.
"""

import math
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from record import write_result
from torch import Tensor

from sharpgpt.evaluation.controls import PenaltyMap
from sharpgpt.evaluation.differences import difference_at_equal_entropy, plain_difference
from sharpgpt.evaluation.entropy_map import entropy_map
from sharpgpt.evaluation.groups import GroupStatistics, make_groups
from sharpgpt.evaluation.intervals import t_quantile
from sharpgpt.evaluation.passes import collect, row_batches
from sharpgpt.evaluation.row_statistics import (
    UNCHANGED,
    Sharpening,
    Temperature,
    row_statistics,
)
from sharpgpt.evaluation.temperature import GRID, fit_temperatures
from sharpgpt.evaluation.verdict import compare

NUM_PAIRS = 50
VOCABULARY = 12


def seeds() -> dict[str, dict[str, float]]:
    """Share of 95% intervals that miss a difference of 0, for three intervals over seeds."""
    random = np.random.default_rng(1)
    degrees = np.concatenate([np.arange(1, 20, 0.05), np.arange(20, 200, 2.0)])
    quantiles = [t_quantile(0.95, float(one)) for one in degrees]
    table = {}
    for num_seeds in (2, 3, 5, 10):
        for text in (0, 3, 7, 14):
            shape, rounds = (20_000 // 4, num_seeds, NUM_PAIRS), []
            for _ in range(4):
                values = 3 * random.standard_normal(shape)
                values += random.standard_normal((*shape[:2], 1))
                values += text * random.standard_normal((shape[0], 1, NUM_PAIRS))
                a = values.mean(2).var(1, ddof=1) / num_seeds
                b = values.mean(1).var(1, ddof=1) / NUM_PAIRS
                nu = (a + b) ** 2 / (a**2 / (num_seeds - 1) + b**2 / (NUM_PAIRS - 1))
                alone = t_quantile(0.95, num_seeds - 1) * np.sqrt(a)
                both = np.interp(nu, degrees, quantiles) * np.sqrt(a + b)
                away = np.abs(values.mean((1, 2)))
                widths = (alone, both, np.maximum(alone, both))
                rounds.append([float((away > width).mean()) for width in widths])
            missed = np.mean(rounds, axis=0)
            names = ("seeds alone", "seeds and text", "the wider")
            table[f"{num_seeds} seeds, text part {text}"] = {
                name: round(float(one), 4) for name, one in zip(names, missed, strict=True)
            }
    return table


def memory_of_the_text() -> dict[str, float]:
    """Share of 95% intervals that miss, for 1,000 blocks that resemble their neighbours."""
    random = np.random.default_rng(2)
    single = pairs = 0
    for _ in range(2000):
        noise = random.standard_normal(1040)
        blocks = np.convolve(noise, 0.6 ** np.arange(41), "valid")
        single += abs(blocks.mean()) > 1.96 * blocks.std(ddof=1) / math.sqrt(len(blocks))
        means = blocks.reshape(NUM_PAIRS, -1).mean(1)
        error = means.std(ddof=1) / math.sqrt(NUM_PAIRS)
        pairs += abs(means.mean()) > t_quantile(0.95, NUM_PAIRS - 1) * error
    return {"from single blocks": single / 2000, "from 50 pairs": pairs / 2000}


def twins(random: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Two tables that are equally good, with the same error after other tokens; and text."""
    truth_V = torch.randn(VOCABULARY // 2, generator=random).repeat_interleave(2)
    wrong_V = truth_V + 0.4 * torch.randn(VOCABULARY, generator=random)
    is_even_V1 = (torch.arange(VOCABULARY) % 2 == 0)[:, None]
    text = torch.multinomial(truth_V.softmax(-1), 120 * 9, replacement=True, generator=random)
    first_VV = torch.where(is_even_V1, wrong_V, truth_V)
    return first_VV, torch.where(is_even_V1, truth_V, wrong_V), text.view(120, 9)


def passes(
    logits_VV: Tensor, blocks_BT: Tensor
) -> Callable[[Sequence[Sharpening]], GroupStatistics]:
    """Passes of a table over text."""
    num_blocks = len(blocks_BT)
    return lambda sharpenings: collect(
        row_batches(
            lambda ids_BT: [logits_VV[ids_BT[:, :-1].flatten()]],
            blocks_BT, sharpenings, top_k=3, batch_size=num_blocks,
        ),
        make_groups(num_blocks),
    )  # fmt: skip


def tuning() -> dict[str, float]:
    """Equal models, one sharper by 2.5: false verdicts at the smallest margin and at the usual one,
    and how the standard error compares with a bootstrap that refits the temperature.
    """
    random, draws = torch.Generator().manual_seed(0), np.random.default_rng(0)
    start = [Temperature(beta) for beta in (0.5, 0.7, 1.0, 1.4, 2.0, 3.0, 5.0)]
    fine = [Temperature(float(beta)) for beta in np.linspace(1, 6, 251)]
    betas = np.array([one.beta for one in fine])
    rounds, false, without, usual, ratios = 1200, 0, 0, 0, []
    for number in range(rounds):
        first_VV, second_VV, blocks_BT = twins(random)
        penalised = passes(2.5 * first_VV, blocks_BT)([UNCHANGED])
        evaluate = passes(second_VV, blocks_BT)
        target = penalised.mean("entropy", half="tuning")
        [fit], baseline = fit_temperatures(evaluate, evaluate(start), [target])
        difference = difference_at_equal_entropy(penalised, baseline, fit)
        untuned = plain_difference(
            penalised, baseline, "ce", baseline_at=fit.sharpening, half="report"
        )
        false += compare([difference], margin=1e-5).call != "not distinguishable"
        without += compare([untuned], margin=1e-5).call != "not distinguishable"
        usual += compare([difference]).call != "not distinguishable"
        if number % 60 == 0:
            on_grid = evaluate(fine)
            ce_QG = np.stack([on_grid.sums("ce", one) for one in fine])
            entropy_QG = np.stack([on_grid.sums("entropy", one) for one in fine])
            refitted = []
            for _ in range(1500):
                drawn = draws.integers(NUM_PAIRS, size=NUM_PAIRS)
                tune, report = 2 * drawn, 2 * drawn + 1
                rows_tune, rows_report = (on_grid.num_rows[half].sum() for half in (tune, report))
                goal = penalised.sums("entropy")[tune].sum() / rows_tune
                beta = np.interp(-goal, -entropy_QG[:, tune].sum(1) / rows_tune, betas)
                control = np.interp(beta, betas, ce_QG[:, report].sum(1) / rows_report)
                refitted.append(penalised.sums("ce")[report].sum() / rows_report - control)
            error = np.std(refitted) * math.sqrt(NUM_PAIRS / (NUM_PAIRS - 1))
            ratios.append(difference.standard_error / float(error))
    return {
        "false, margin 1e-5": false / rounds,
        "false, margin 1e-5, without the part of the tuning": without / rounds,
        "false, margin 1e-3": usual / rounds,
        "standard error over that of refitting, median": round(statistics.median(ratios), 3),
        "standard error over that of refitting, farthest": round(
            max(ratios, key=lambda one: abs(one - 1)), 3
        ),
    }


def maps() -> dict[str, dict[str, float]]:
    """CE of a penalty's optimum minus CE of a temperature of the same entropy, on random rows."""
    table = {}
    for vocab_size, scale in ((65, 1.5), (65, 2.0), (65, 3.0), (5000, 3.0)):
        generator = torch.Generator().manual_seed(0)
        noise_NV = torch.randn(300, vocab_size, generator=generator, dtype=torch.float64)
        log_p_NV = (scale * noise_NV).log_softmax(-1)
        row = {}
        for penalty in ("neg_entropy", "non_max_sum", "top_k_mass"):
            for weight in (0.03, 0.1, 0.3):
                log_q_NV = PenaltyMap(penalty, weight).log_probs(log_p_NV)
                low, high = 0.5, 40.0
                for _ in range(50):
                    beta = (low + high) / 2
                    tempered_NV = (beta * log_p_NV).log_softmax(-1)
                    too_sharp = _entropy(tempered_NV) < _entropy(log_q_NV)
                    low, high = (low, beta) if too_sharp else (beta, high)
                gap = -(log_p_NV.exp() * (log_q_NV - tempered_NV)).sum(-1).mean()
                row[f"{penalty}, weight {weight}"] = round(gap.item(), 5)
        table[f"{vocab_size} tokens, logits of deviation {scale}"] = row
    return table


def _entropy(log_p_NV: Tensor) -> float:
    return -(log_p_NV.exp() * log_p_NV).sum(-1).mean().item()


def collapse() -> dict[str, float]:
    """The smallest weight at which a flat row's minimum has collapsed onto one token."""
    table = {}
    for vocab_size in (65, 5000, 50257):
        flat_1V = torch.zeros(1, vocab_size, dtype=torch.float64)
        flat_1V[0, 0] = 1e-6
        log_p_1V = flat_1V.log_softmax(-1)
        low, high = 0.01, 1.0
        for _ in range(25):
            weight = (low + high) / 2
            collapsed = entropy_map(log_p_1V, weight).exp().max() > 0.1
            low, high = (low, weight) if collapsed else (weight, high)
        table[f"{vocab_size} tokens"] = round(high, 3)
    return table


def cost() -> dict[str, float]:
    """Seconds for 256 rows of GPT-2's vocabulary, the lowest of three, beside their logits."""
    hidden_ND, weight_VD = torch.randn(256, 768), 0.1 * torch.randn(50257, 768)
    logits_NV, target_N = hidden_ND @ weight_VD.T, torch.randint(50257, (256,))
    ways: dict[str, Sequence[Sharpening]] = {
        "one temperature": [UNCHANGED],
        f"{len(GRID)} temperatures": GRID,
        "entropy map": [PenaltyMap("neg_entropy", 0.1)],
        "top-k map": [PenaltyMap("top_k_mass", 0.1)],
    }
    cases: dict[str, Callable[[], object]] = {"logits": lambda: hidden_ND @ weight_VD.T}
    for name, sharpenings in ways.items():
        cases[name] = lambda sharpenings=sharpenings: row_statistics(  # type: ignore[misc]
            logits_NV, target_N, sharpenings, top_k=5
        )
    times: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(3):
        for name, case in cases.items():
            started = time.perf_counter()
            case()
            times[name].append(time.perf_counter() - started)
    return {name: round(min(values), 3) for name, values in times.items()}


def main() -> None:
    torch.set_num_threads(1)
    parts = (seeds, memory_of_the_text, tuning, maps, collapse, cost)
    result = {part.__name__: part() for part in parts}
    write_result("verdict", "python benchmarks/bench_verdict.py", result)


if __name__ == "__main__":
    main()
