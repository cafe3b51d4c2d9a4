"""The rules between settings, and the positions that are penalised."""

from typing import Any

import pytest

from sharpgpt.config import ConfigError, TrainingConfig, penalised_positions
from sharpgpt.config.rules import settings_without_effect


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"n_embd": 100},
            "n_embd: given 100 with n_head 12, allowed is a multiple",
        ),
        ({"max_seq_length": 2048}, "allowed for gpt2 is at most 1024"),
        ({"top_k": 50258}, "at most the vocabulary size, 50257"),
        (
            {"batch_warmup_steps": 9, "batch_warmup_start": 6},
            "batch_warmup_start: given 6 with gradient_accumulation_steps 4, allowed is a divisor "
            "of it, such as 2",
        ),
        ({"penalty_positions": "0:N-1"}, "penalty_positions"),
        ({"run_name": "../elsewhere"}, "plain folder name"),
        ({"resume": "auto"}, "set run_name too"),
        ({"device": "gpu"}, "allowed is one of auto, cpu, mps, cuda"),
    ],
)
def test_rules_between_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        TrainingConfig.from_dict(settings)
    assert message in str(caught.value)
    with pytest.raises(ConfigError):
        TrainingConfig(**settings)


@pytest.mark.parametrize(
    "name",
    ["con", "CON", "Nul", "aux.txt", "PRN.a.b", "COM1.txt", "com9", "LPT1", "lpt¹.x", "x.", "x..",
     "é" * 200, "a" * 201, ".x", "-x", "a/b", "a\\b", "a b", "a ", "a:b", "a\x00"],
)  # fmt: skip
def test_a_run_name_is_a_folder_that_every_system_can_open(name: str) -> None:
    """Windows cannot open con, NUL, COM1.txt or `x.`; 200 letters of two bytes are no name."""
    with pytest.raises(ConfigError, match="allowed is a plain folder name"):
        TrainingConfig(run_name=name)


@pytest.mark.parametrize(
    "name", ["console", "com", "com10", "nul_1", "x.con", "a.b+c=d", "é" * 120]
)
def test_names_like_those_are_allowed(name: str) -> None:
    assert TrainingConfig(run_name=name).run_name == name


def test_settings_that_nothing_reads_are_named() -> None:
    assert settings_without_effect(TrainingConfig()) == []
    idle = TrainingConfig(muon_momentum=0.9, lr_decay_steps=5, batch_warmup_start=2)
    assert settings_without_effect(idle) == [
        "batch_warmup_start has no effect without batch_warmup_steps",
        "lr_decay_steps 5 has no effect without lr_schedule wsd",
        "muon_momentum 0.9 has no effect without optimizer muon",
    ]
    idle.optimizer, idle.lr_schedule, idle.batch_warmup_steps = "muon", "wsd", 9
    assert settings_without_effect(idle) == []


def test_settings_may_disagree_while_they_are_being_assigned() -> None:
    config = TrainingConfig()
    config.n_embd = 100
    with pytest.raises(ConfigError):
        config.check()
    config.n_head = 10
    config.check()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0:N-2", (0, 62)),
        ("N/2:N-2", (32, 62)),
        ("5:5", (5, 5)),
        (" 0 : N/4 ", (0, 16)),
    ],
)
def test_penalised_positions(text: str, expected: tuple[int, int]) -> None:
    assert penalised_positions(text, 64) == expected


@pytest.mark.parametrize("text", ["", "5", "N:0", "0:N", "a:b", "3:2", "0:N/0", "1-2:3", "-1:5"])
def test_positions_outside_the_block(text: str) -> None:
    with pytest.raises(ValueError, match="given"):
        penalised_positions(text, 64)
