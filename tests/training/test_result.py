"""The last lines of a run say what it did."""

import json
from collections.abc import Callable

import pytest

from sharpgpt.config import TrainingConfig
from sharpgpt.training.train import train


@pytest.mark.usefixtures("quick_runs")
def test_a_run_that_is_resumed_past_its_end_trains_nothing_and_says_so(
    tiny_config: Callable[..., TrainingConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    """It said "Finished 3 steps" where max_steps was 2, as it said where it had trained."""
    quick = {"eval_interval": 0, "num_generate_samples": 0, "resume": "auto"}
    quick |= {"allow_config_change": True, "warmup_steps": 1}
    more = "; a larger max_steps or num_epochs continues it"
    said: list[str] = []
    for max_steps in (1, 3, 2):
        result = train(tiny_config(max_steps=max_steps, **quick))
        lines = capsys.readouterr().out.splitlines()
        said += [line for line in lines if line.startswith(("Finished", "Nothing"))]
    assert said == [
        "Finished 1 step",
        "Finished 3 steps, 2 of them now",
        f"Nothing was left to train: the checkpoint is of step 3, and the run ends at step 2{more}",
    ]
    assert result.step == 3


@pytest.mark.usefixtures("quick_runs")
def test_train_metrics_are_over_what_the_registry_says(
    tiny_config: Callable[..., TrainingConfig],
) -> None:
    """All of train/* was called a mean over rows; gradient norm, rates and counts are not."""
    quick = {"max_steps": 4, "eval_interval": 0, "num_generate_samples": 0, "warmup_steps": 4}
    lines = {}
    for interval in (1, 2):
        folder = train(
            tiny_config(run_name=f"every{interval}", log_interval=interval, **quick)
        ).run_folder
        events = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
        lines[interval] = {event["step"]: event for event in events if "train/loss" in event}
    each, both = lines[1], lines[2][4]
    for name in ("train/ce_loss", "train/penalty", "train/entropy", "train/accuracy"):
        assert both[name] == pytest.approx((each[3][name] + each[4][name]) / 2, rel=1e-9), name
    for name in ("train/grad_norm", "train/learning_rate", "train/penalty_weight"):
        assert both[name] == each[4][name], name
    assert each[3]["train/learning_rate"] != each[4]["train/learning_rate"]
