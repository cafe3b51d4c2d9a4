"""Every setting says what its change means to a run that is resumed."""

from dataclasses import fields
from typing import get_args, get_type_hints

from sharpgpt.config import TrainingConfig
from sharpgpt.config.kinds import Kind
from sharpgpt.config.resume_rules import FACTS, KINDS, changes


def test_every_setting_is_labelled_with_one_kind() -> None:
    hints = get_type_hints(TrainingConfig, include_extras=True)
    for field in fields(TrainingConfig):  # type: ignore[arg-type]
        labels = [label for label in get_args(hints[field.name]) if isinstance(label, Kind)]
        assert labels == [KINDS[field.name]], field.name
    assert len(KINDS) == len(fields(TrainingConfig))  # type: ignore[arg-type]
    assert not set(FACTS) & set(KINDS)


def test_changes_are_told_apart_by_what_they_change() -> None:
    before = TrainingConfig().to_dict() | {"text": "abc", "blocks_per_step": 32}
    now = before | {
        "n_embd": 64, "learning_rate": 1.0, "text": "abd", "compile": True, "on_spike": "rollback",
        "log_interval": 3, "num_workers": 7, "generate_prompt": "x" * 200,
    }  # fmt: skip
    found = changes(before, now)
    assert found.fatal == ["n_embd null -> 64"]
    assert found.refused == ["learning_rate 0.0006 -> 1.0", "text 'abc' -> 'abd'"]
    assert found.named[:3] == [
        "on_spike 'log' -> 'rollback'", "compile false -> true", "log_interval 10 -> 3",
    ]  # fmt: skip
    assert len(found.named) == 4
    assert len(found.named[3]) < 120
    assert changes({}, now) == changes(now, now) == changes(before, before)


def test_a_step_may_be_divided_otherwise() -> None:
    before = {"batch_size": 8, "gradient_accumulation_steps": 1, "blocks_per_step": 8}
    now = {"batch_size": 4, "gradient_accumulation_steps": 2, "blocks_per_step": 8}
    assert not changes(before, now).refused
    assert changes(before, now | {"blocks_per_step": 4}).refused == ["blocks_per_step 8 -> 4"]
