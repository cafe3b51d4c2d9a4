"""Options: values are checked when they are given and when they are assigned, in clear words."""

import copy
import pickle
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import Annotated, Any, ClassVar, Literal

import pytest
from pydantic import Field

from sharpgpt.config import ConfigError, TrainingConfig
from sharpgpt.config.options import Options, Text, allowed, annotations, descriptions


class Label(Enum):
    A = "a"


class Shape(Options):
    sections: ClassVar = {"name": "Names"}

    name: Text
    """What it is
    called."""

    sides: Annotated[Annotated[int, Field(ge=3)] | None, Label.A] = None
    """Number of sides."""

    color: Annotated[Literal["red", "blue"], Field(description="red: warm. blue: cold.")] = "red"
    """The color."""

    @classmethod
    def broken_rules(cls, values: Mapping[str, Any]) -> Iterable[tuple[Sequence[str], str]]:
        if values["sides"] == 4 and values["color"] == "blue":
            yield ("sides", "color"), "color: given blue with 4 sides"


def test_an_option_is_defined_by_its_annotation_and_docstring() -> None:
    assert descriptions(Shape) == {
        "name": "What it is called.",
        "sides": "Number of sides.",
        "color": "red: warm. blue: cold. The color.",
    }
    assert allowed(annotations(Shape)["sides"]) == "a whole number, at least 3, or null"
    shape = Shape(name="square", sides=4)
    assert shape.to_dict() == {"name": "square", "sides": 4, "color": "red"}
    assert copy.deepcopy(shape) == pickle.loads(pickle.dumps(shape)) == shape


@pytest.mark.parametrize(
    ("values", "problems"),
    [
        ({}, ["name: missing; What it is called."]),
        ({"name": None, "sides": 2}, ["name: missing", "sides: given 2, allowed is a whole"]),
        ({"name": "x", "colour": "red"}, ["colour: no such setting (given 'red'); did you mean"]),
        ({"name": "x", "sides": 4, "color": "blue"}, ["color: given blue with 4 sides"]),
        ({"name": "", "sides": 4, "color": "bleu"}, ["name: given ''", "color: given 'bleu'"]),
    ],
)
def test_every_problem_is_listed(values: dict[str, Any], problems: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        Shape.from_dict(values, problems=["--form: no such flag"])
    assert caught.value.problems[0] == "--form: no such flag"
    found = caught.value.problems[1:]
    assert len(found) == len(problems)
    for problem, start in zip(found, problems, strict=True):
        assert problem.startswith(start)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("penalty_wieght", 0.1, "did you mean penalty_weight?"),
        ("penalty_type", "neg_entropi", "did you mean neg_entropy?"),
        ("penalty_type", "sharp", "allowed is one of non_max_sum, neg_entropy"),
        ("penalty_type", "a b:c", "or an import path module:name"),
        ("batch_size", -4, "given -4, allowed is a whole number, at least 1"),
        ("batch_size", 10**400, "at least 1, at most 1000000000000"),
        ("num_workers", 10**6, "at least 0, at most 1024"),
        ("n_layer", 10**9, "at least 1, at most 10000"),
        ("num_epochs", 1e308, "above 0, at most 1000000000000"),
        ("batch_size", 2.5, "given 2.5, allowed is a whole number"),
        ("batch_size", True, "given true, allowed is a whole number"),
        ("batch_size", None, "given null"),
        ("learning_rate", "fast", "given 'fast', allowed is a number, above 0"),
        ("learning_rate", float("nan"), "given nan"),
        ("betas", [0.9], "a list of 2"),
        ("betas", [0.9, 1.0], "below 1"),
        ("use_wandb", "perhaps", "true or false"),
        ("generate_top_p", 0, "above 0, at most 1"),
    ],
)
def test_a_bad_value_raises_at_once(name: str, value: Any, message: str) -> None:
    config = TrainingConfig()
    before = config.to_dict()
    with pytest.raises(ConfigError, match=name) as caught:
        setattr(config, name, value)
    assert message in str(caught.value)
    assert config.to_dict() == before


def test_all_problems_in_one_message() -> None:
    bad = {"batch_sise": 1, 5: 6, "seed": -1, "top_k": 0, "n_embd": 100, "run_name": "a/b"}
    with pytest.raises(ConfigError) as caught:
        TrainingConfig.from_dict(bad)
    assert len(caught.value.problems) == 6
    assert "6 problems" in str(caught.value)
