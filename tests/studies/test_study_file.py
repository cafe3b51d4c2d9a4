"""Study files: what they declare, and that every mistake is told."""

from pathlib import Path

import pytest

from sharpgpt.config import ConfigError
from sharpgpt.studies.study_file import Study

FILE = """
question: Does 0.1 do anything? Is "it": real
settings: {max_steps: 5, n_layer: 2, run_name_: 1}
arms:
  baseline: {penalty_weight: 0}
  neg_entropy 0.1: {penalty_type: neg_entropy, penalty_weight: 1e-1}
grid:
  penalty_type: [non_max_sum, top_k_mass]
  penalty_weight: [0.1, .3]
seeds: [1, 2]
rule: {margin: 0.01, max_blocks: 8}
""".replace(", run_name_: 1", "").replace('"it": real', "it real")


def read(tmp_path: Path, text: str, **options: bool) -> Study:
    (tmp_path / "study.yaml").write_text(text, encoding="utf-8")
    return Study.read(tmp_path / "study.yaml", **options)


def problems(tmp_path: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    return str(caught.value)


def test_a_study_has_its_arms_and_the_combinations_of_its_grid(tmp_path: Path) -> None:
    study = read(tmp_path, FILE)
    assert study.question == "Does 0.1 do anything? Is it real"
    assert study.baseline == "baseline"
    assert study.others == [
        "neg_entropy 0.1", "non_max_sum 0.1", "non_max_sum 0.3", "top_k_mass 0.1", "top_k_mass 0.3",
    ]  # fmt: skip
    assert study.seeds == (1, 2)
    assert study.rule == {"margin": 0.01, "max_blocks": 8}
    config = study.config("top_k_mass 0.3", 2, run_name="a")
    assert (config.penalty_type, config.penalty_weight, config.seed) == ("top_k_mass", 0.3, 2)
    assert (config.max_steps, config.n_layer, config.run_name) == (5, 2, "a")


def test_a_base_lies_beside_the_study_file_and_arms_win(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("n_layer: 1\nseed: 3\nmax_steps: 7\n", encoding="utf-8")
    text = FILE.replace("settings:", "base: base.yaml\nsettings:")
    assert "seed: the study gives it" in problems(tmp_path, text)
    (tmp_path / "base.yaml").write_text("n_layer: 1\ntop_k: 7\n", encoding="utf-8")
    config = read(tmp_path, text).config("baseline", 1)
    assert (config.n_layer, config.top_k, config.max_steps) == (2, 7, 5)


def test_the_only_arm_without_a_penalty_is_the_baseline(tmp_path: Path) -> None:
    assert read(tmp_path, FILE.replace("  baseline:", "  plain:")).baseline == "plain"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("question:", "qestion:", "'qestion': no such part of a study; did you mean question?"),
        ("seeds: [1, 2]", "seeds: [1, 1]", "seeds: given [1, 1], allowed is each once"),
        ("seeds: [1, 2]", "", "seeds: missing"),
        ("max_steps: 5", "max_step: 5", "did you mean max_steps?"),
        ("penalty_weight: 1e-1", "penalty_weight: x", "arm 'neg_entropy 0.1': penalty_weight: "),
        ("margin: 0.01", "margin: -1", "rule: margin: given -1"),
        ("rule: {", "rule: {num_text: 1, ", "rule: num_text: no such setting"),
        ("penalty_weight: [0.1", "penalty_weight: [0", "allowed is an arm"),
        ("rule:", "baseline: basline\nrule:", "allowed is an arm: there is 'baseline', "),
        ("rule:", "baseline: non_max_sum 0.1\nrule:", "has a penalty; allowed is an arm with pen"),
        ("max_steps: 5", "output_dir: x", "output_dir: the study gives it to each run"),
        ("[non_max_sum", "[neg_entropy", "its arm 'neg_entropy 0.1' is given twice"),
        ("{penalty_weight: 0}", "[1]", "arms: 'baseline': allowed are its settings"),
        ("{penalty_weight: 0}", "{penalty_weight: 0}\n  b: {penalty_weight: 0.0}", "the same set"),
        ("type: neg_entropy", "type: 'my:penalty'", "would be imported and run"),
        ("settings: {", "settings: [1]\nsetting: {", "settings: allowed are lines"),
        ("rule:", "power: {pilot: x.json, detect: 1}\nrule:", "power: pilot: given 'x.json'"),
        ("rule:", "slurm: {time: 0}\nrule:", "slurm: time: given 0"),
        ("rule:", "base: nowhere.yaml\nrule:", "base: given 'nowhere.yaml'"),
    ],
)  # fmt: skip
def test_mistakes(tmp_path: Path, old: str, new: str, message: str) -> None:
    if message == "allowed is an arm":  # several without a penalty, none named
        found = problems(tmp_path, FILE.replace(old, new).replace("  baseline:", "  plain:"))
        assert "baseline: missing; name the arm" in found
        return
    assert old in FILE
    assert message in problems(tmp_path, FILE.replace(old, new))


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    found = problems(tmp_path, "arms: {a: {top_k: 0}, b: {lerning_rate: 1}}\nseeds: 1\n")
    for message in ("question: missing", "seeds: given 1", "top_k: given 0", "lerning_rate"):
        assert message in found


def test_a_penalty_of_the_user_is_imported_where_that_is_allowed(tmp_path: Path) -> None:
    text = FILE.replace("type: neg_entropy", "type: 'my:penalty'")
    study = read(tmp_path, text, allow_import=True)
    assert study.config("neg_entropy 0.1", 1).penalty_type == "my:penalty"
