"""A positive weight sharpens: by number, for each penalty, against weight 0 with the same seed."""

from collections.abc import Callable

import pytest

from sharpgpt.config import TrainingConfig
from sharpgpt.sharpness import PENALTIES
from sharpgpt.training.train import train

MakeConfig = Callable[..., TrainingConfig]
pytestmark = pytest.mark.usefixtures("quick_runs")


PLAIN: list[tuple[float, float]] = []
"""Without a penalty its type changes nothing, so one run serves all."""


def max_prob_and_entropy(config: TrainingConfig) -> tuple[float, float]:
    metrics = train(config).metrics
    return metrics["val/avg_max_prob"], metrics["val/entropy"]


@pytest.mark.parametrize("penalty", sorted(PENALTIES))
def test_a_positive_weight_raises_the_mean_max_probability(
    tiny_config: MakeConfig, penalty: str, record_property: Callable[[str, object], None]
) -> None:
    def run(weight: float) -> tuple[float, float]:
        return max_prob_and_entropy(
            tiny_config(
                run_name=f"w{weight:g}".replace("-", "m"),
                max_steps=200,
                eval_interval=0,
                eval_max_blocks=64,
                num_generate_samples=0,
                penalty_type=penalty,
                penalty_weight=weight,
            )
        )

    if not PLAIN:
        PLAIN.append(run(0.0))
    (plain,), sharp, flat = PLAIN, run(0.3), run(-0.3)
    figures = f"{penalty}: max p {flat[0]:.3f} at -0.3, {plain[0]:.3f} at 0, {sharp[0]:.3f} at 0.3"
    print(figures)
    record_property("figures", figures)
    # Paired by seed; over seeds 0..4 the smallest of these differences was 0.021 (top_k_mass).
    assert sharp[0] > plain[0] + 0.015, figures
    assert flat[0] < plain[0] - 0.015, figures
    assert sharp[1] < plain[1] < flat[1]
