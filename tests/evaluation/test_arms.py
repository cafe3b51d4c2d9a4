"""Which runs are taken together, what is refused, and the notes for the reader."""

from pathlib import Path
from typing import Any

import pytest

from sharpgpt.config import TrainingConfig
from sharpgpt.core.errors import UserError
from sharpgpt.evaluation.arms import (
    ComparedArm,
    ComparedRun,
    arms_of_runs,
    check_baselines,
    pair_seeds,
    pair_up,
    settings_that_differ,
)
from sharpgpt.evaluation.saved_model import TrainingRecord


def run(
    name: str,
    seed: int = 1,
    weight: float = 0.0,
    *,
    step: int = 100,
    blocks_per_step: int = 32,
    text: str = "a" * 64,
    **settings: Any,
) -> ComparedRun:
    config = TrainingConfig(penalty_weight=weight, seed=seed, **settings)
    return ComparedRun(
        Path(name), TrainingRecord(config.to_dict(), step, blocks_per_step, text_sha256=text)
    )


def paired(baselines: list[ComparedRun], *runs: ComparedRun) -> list[Any]:
    arms = arms_of_runs(runs)
    pair_up(baselines, arms)
    return arms


def partners(arm: ComparedArm) -> list[str]:
    return [str(run.baseline.folder) for run in arm.runs if run.baseline is not None]


def test_runs_that_differ_in_the_seed_alone_are_one_arm() -> None:
    [arm] = paired(
        [run("b1", 1), run("b2", 2)],
        run("p2", 2, 0.1, batch_size=4, gradient_accumulation_steps=8, output_dir="elsewhere"),
        run("p1", 1, 0.1, batch_size=8, gradient_accumulation_steps=4, dataset="a path"),
    )
    assert arm.name == "non_max_sum 0.1"
    assert [str(one.folder) for one in arm.runs] == ["p1", "p2"]
    assert (partners(arm), arm.notes) == (["b1", "b2"], [])


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"step": 50}, "steps 50"),
        ({"blocks_per_step": 8}, "blocks a step 8"),
        ({"text": "b" * 64}, f"training text {'b' * 12}"),
        ({"learning_rate": 0.5}, "learning_rate 0.5"),
    ],
)
def test_other_recipes_are_other_arms_with_a_note(changes: dict[str, Any], name: str) -> None:
    first, second = paired(
        [run("b1", 1), run("b2", 2)], run("p1", 1, 0.1), run("p2", 2, 0.1, **changes)
    )
    assert name in second.name
    assert not first.notes
    [note] = second.notes
    assert "differs from the baseline not only in the penalty" in note
    assert name.rsplit(" ", 1)[0] in note


def test_every_baseline_is_looked_at() -> None:
    [arm] = paired([run("b1", 1), run("b2", 2, max_steps=5)], run("p1", 1, 0.1), run("p2", 2, 0.1))
    [note] = arm.notes
    assert note.endswith("not about the penalty alone: max_steps 5 and None")


def test_what_shares_a_seed_is_no_second_piece_of_evidence() -> None:
    with pytest.raises(UserError, match="p and q are runs of the same settings with the same seed"):
        arms_of_runs([run("p", 3, 0.1), run("q", 3, 0.1)])
    with pytest.raises(UserError, match="b and c are baselines with the same seed, 1"):
        check_baselines([run("b"), run("c", step=50)])
    check_baselines([run("b", 1), run("c", 2), ComparedRun(Path("d"), None)])
    with pytest.raises(UserError, match=r"was trained with penalty_weight 0\.1"):
        check_baselines([run("b", 1, 0.1)])


def test_a_run_whose_seed_is_not_known_is_nobodys_partner_by_seed() -> None:
    foreign = ComparedRun(Path("foreign"), None)
    [arm] = paired([foreign, run("b0", 0)], run("p0", 0, 0.1))
    assert partners(arm) == ["b0"]
    [arm] = paired([foreign], run("p0", 0, 0.1), run("p5", 5, 0.1))
    assert partners(arm) == ["foreign"]
    assert "left out for want of a baseline for each: p5" in arm.notes[0]
    assert "it is not known how the models were trained" in arm.notes[1]
    [arm] = paired([run("b0", 0)], ComparedRun(Path("baseline"), None))
    assert partners(arm) == ["b0"]
    assert arm.name == "baseline (baseline)", "the name of the baseline is taken"


def test_runs_are_paired_by_seed_and_else_in_order() -> None:
    assert pair_seeds([1, 2, 3], [3, 1, 2]) == [(0, 1), (1, 2), (2, 0)]
    assert pair_seeds([1, 2, 3], [2, 9]) == [(1, 0)]
    assert pair_seeds([7, 5], [2, 1, 4]) == [(1, 1), (0, 0)]
    assert pair_seeds([1], [1, 1]) == [(0, 0)]


def test_notes_are_those_of_the_arm() -> None:
    """Although one name begins with the other."""
    first, second = paired([run("b")], run("p", 1, 0.1), run("q", 1, 0.15, learning_rate=1.0))
    assert second.name.startswith(first.name)
    assert (len(first.notes), len(second.notes)) == (0, 1)


@pytest.mark.parametrize(
    ("settings", "step", "expected"),
    [
        ({}, 100, True),
        ({"penalty_schedule": "linear"}, 100, False),
        ({"penalty_warmup_steps": 200}, 100, False),
        ({"penalty_warmup_steps": 100}, 100, True),
        ({"entropy_target": 1.5}, 100, False),
    ],
)
def test_whether_the_training_ended_with_its_weight(
    settings: dict[str, Any], step: int, expected: bool
) -> None:
    assert run("p", 1, 0.1, step=step, **settings).has_full_weight is expected
    assert not ComparedRun(Path("foreign"), None).has_full_weight


def test_a_weight_that_followed_an_entropy_has_the_name_of_its_target_and_a_note() -> None:
    """It is no baseline, and its first weight is not called its weight."""
    fixed, followed = paired([run("b")], run("p", 1, 0.1), run("q", 1, 0.1, entropy_target=1.5))
    assert (fixed.name, fixed.notes) == ("non_max_sum 0.1", [])
    assert followed.name == "non_max_sum to entropy 1.5"
    [note] = followed.notes
    assert "its penalty weight varied in training" in note
    with pytest.raises(UserError, match="was trained with penalty_weight"):
        check_baselines([run("q", 1, 0.1, entropy_target=1.5)])


def test_settings_that_differ_stand_side_by_side() -> None:
    baseline = run("b")
    arms = paired([baseline], run("p", 1, 0.1), run("q", 1, 0.1, step=50))
    rows = {row["name"]: row["values"] for row in settings_that_differ(baseline, arms)}
    assert rows == {"penalty_weight": ["0.0", "0.1", "0.1"], "steps": ["100", "100", "50"]}
