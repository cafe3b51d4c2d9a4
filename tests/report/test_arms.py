"""One arm has one colour, whatever else is on the page."""

import itertools

from sharpgpt.report.arms import MARKERS, PENALTY_COLOURS, arm_of, arms_of
from sharpgpt.report.evaluation import evaluated_models
from sharpgpt.sharpness.penalties import PENALTIES

MODELS = [
    {"name": "none", "penalty": "neg_entropy", "penalty_weight": 0.0},
    {"name": "a", "penalty": "neg_entropy", "penalty_weight": 0.1},
    {"name": "b", "penalty": "neg_entropy", "penalty_weight": -0.3},
    {"name": "c", "penalty": "top_k_mass", "penalty_weight": 0.1},
    {"name": "d", "penalty": "mine.tsallis", "penalty_weight": 0.1},
    {"name": "e", "penalty": None, "penalty_weight": None},
]


def test_colours_depend_on_the_arm_and_not_on_its_place() -> None:
    """They were given out by place: a run was blue on one page and orange on the next."""
    whole = {arm.given_name: (arm.colour, arm.strength) for arm in arms_of(MODELS)}
    for some in itertools.permutations(MODELS, 3):
        for arm in arms_of(some):
            assert (arm.colour, arm.strength) == whole[arm.given_name]
    evaluations = [
        {
            "name": model["name"],
            "settings": {key: model[f"penalty{rest}"] for key, rest in
                         (("penalty_type", ""), ("penalty_weight", "_weight"))},
        }
        for model in reversed(MODELS)
    ]  # fmt: skip
    for arm in evaluated_models({"evaluations": evaluations}):
        assert (arm.colour, arm.strength) == whole[arm.given_name]


def test_what_has_no_penalty_is_in_ink_and_each_penalty_has_a_hue() -> None:
    colours = [arm.colour for arm in arms_of(MODELS)]
    assert colours[:4] == [0, 1, 1, 3]
    assert colours[4] in (5, 6)
    assert set(PENALTY_COLOURS) == set(PENALTIES)
    assert len(set(PENALTY_COLOURS.values())) == len(PENALTIES)
    assert set(MARKERS) >= {0, *PENALTY_COLOURS.values(), *range(1, 7)}


def test_arms_of_one_hue_differ_in_weight_and_dashes() -> None:
    strengths = [
        arm_of("x", "neg_entropy", weight, runs=[], content={}).strength
        for weight in (0.0001, 0.01, 0.03, 0.1, 0.3, 1.0, 10.0)
    ]
    assert strengths == sorted(strengths)
    assert (strengths[0], strengths[-1]) == (0.35, 1.0)
    assert min(b - a for a, b in itertools.pairwise(strengths[1:6])) > 0.1
    assert [arm.dash for arm in arms_of(MODELS[1:3])] == [0, 1]
    assert [arm.name for arm in arms_of([{"name": "top_k_mass -0.1"}])] == ["top_k_mass −0.1"]
