"""A declaration is written once, and a study that is another is refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from sharpgpt.core.errors import UserError
from sharpgpt.studies.declaration import DECLARATION, declare, read_declaration, sha256_of
from sharpgpt.studies.study_file import PilotOptions, Study

STUDY = Study(
    question="Is it?",
    arms={"baseline": {"penalty_weight": 0.0}, "a": {"penalty_weight": 0.1}},
    baseline="baseline",
    seeds=(1, 2),
    rule={"margin": 0.001},
)


def test_a_declaration_is_kept_as_it_was_first_written(tmp_path: Path) -> None:
    first = declare(STUDY, tmp_path, dtype="bfloat16")
    assert first["sha256"] == sha256_of(STUDY.declared())
    before = (tmp_path / DECLARATION).read_bytes()
    assert declare(STUDY, tmp_path, dtype="float32") == first
    assert first["dtype"] == "bfloat16"
    assert (tmp_path / DECLARATION).read_bytes() == before


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (replace(STUDY, seeds=(1, 2, 3)), "its seeds differs"),
        (replace(STUDY, rule={}), "its rule differs"),
        (replace(STUDY, arms={**STUDY.arms, "a": {"penalty_weight": 0.2}}), "its arm 'a' differs"),
        (replace(STUDY, arms={**STUDY.arms, "b": {}}), "its arm 'b' differs"),
    ],
)
def test_another_study_is_refused(tmp_path: Path, changed: Study, message: str) -> None:
    declare(STUDY, tmp_path, dtype=None)
    with pytest.raises(UserError, match="a declaration is not changed after the first run") as one:
        declare(changed, tmp_path, dtype=None)
    assert message in str(one.value)


def test_the_order_of_names_does_not_matter_to_the_hash() -> None:
    arms = {name: STUDY.arms[name] for name in reversed(STUDY.arms)}
    assert sha256_of(replace(STUDY, arms=arms).declared()) == sha256_of(STUDY.declared())


def test_the_declaration_says_the_power_that_a_pilot_gives(tmp_path: Path) -> None:
    control = {
        "note": "", "differences": [0.001, 0.003, 0.002],
        "seed_error": 0.0006, "text_error": 0.0004, "rest_error": 0.0001,
    }  # fmt: skip
    pilot = {
        "models": [{"name": "a", "controls": {"temperature": control}}],
        "data": {"num_blocks": 200, "block_length_tokens": 64},
        "margin": 0.001, "error_rate": 0.05,
    }  # fmt: skip
    file = tmp_path / "pilot.json"
    file.write_text(json.dumps(pilot))

    def found(num_seeds: int, detect: float) -> dict[str, float]:
        asked = PilotOptions(pilot=str(file), detect=detect)
        study = replace(STUDY, seeds=tuple(range(num_seeds)), power=asked)
        power = declare(study, tmp_path / f"{num_seeds} {detect}", dtype=None)["power"]
        assert 0 <= power["low"] < power["power"] < power["high"] <= 1
        return power

    assert found(5, 0.002)["power"] > found(3, 0.002)["power"] > found(3, 0.001)["power"]
    assert declare(STUDY, tmp_path, dtype=None)["power"] is None


def test_a_changed_file_is_no_declaration(tmp_path: Path) -> None:
    declare(STUDY, tmp_path, dtype=None)
    content = json.loads((tmp_path / DECLARATION).read_text())
    content["declared"]["seeds"] = [1]
    (tmp_path / DECLARATION).write_text(json.dumps(content))
    with pytest.raises(UserError, match="its sha256 is not that of what it declares"):
        read_declaration(tmp_path)
