"""Numbers read the same everywhere, and a count agrees with its noun."""

import ast
import math
import re
from pathlib import Path

import pytest

from sharpgpt.core.numbers import (
    counted,
    decimals_for,
    fixed,
    number,
    plain,
    short,
    signed,
    typeset,
)

ROOT = Path(__file__).parents[2]

NOUNS = (
    "seed step file run model token block row document shard folder checkpoint text sample line "
    "setting rank piece prediction configuration worker pass byte position parameter column name "
    "word layer GPU batch letter point value error problem log warning character"
)
PLURAL = re.compile(
    rf"^ (?:(?!hold)[a-z-]+ )?(?:{'|'.join(n + '(?:s|es)' for n in NOUNS.split())})\b"
)

AT_LEAST_TWO = {
    "prompts.py": {"tokens"},  # longer than what the model reads
    "verdict.py": {"seeds"},  # one seed has its own words
    "view.py": {"tokens"},  # --max_tokens is at least 2
    "evaluator.py": {"tokens"},  # a block has at least 2
    "readers.py": {"columns"},  # of one name
    "load.py": {"tokens"},  # a block has at least 2
    "inspect.py": {"tokens"},  # "all training tokens"
    "agreement.py": {"ranks"},  # more than are named
    "build.py": {"layers"},  # more than are allowed
}


def _counts_before_plurals(path: Path) -> list[str]:
    """The strings of a module in which a variable count stands before a plural."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.JoinedStr):
            continue
        for value, after in zip(node.values, node.values[1:], strict=False):
            if not (isinstance(value, ast.FormattedValue) and isinstance(after, ast.Constant)):
                continue
            match = PLURAL.match(str(after.value))
            expression = ast.unparse(value.value)
            is_fraction = value.format_spec is not None and "f" in ast.unparse(value.format_spec)
            if not match or expression.isupper() or expression == "path" or is_fraction:
                continue
            if match[0].split()[-1] not in AT_LEAST_TWO.get(path.name, ()):
                found.append(f"{path.name}:{node.lineno} {{{expression}}}{match[0]}")
    return found


def test_a_count_and_its_noun_are_written_by_one_function() -> None:
    modules = [*(ROOT / "sharpgpt").rglob("*.py"), *ROOT.glob("*.py")]
    assert [one for path in modules for one in _counts_before_plurals(path)] == []


def test_pages_and_cards_do_so_too() -> None:
    nouns = "|".join(NOUNS.split())
    pattern = re.compile(
        r"(?:length|num_\w+|thousands|\bstep\b|count) (?:- 1 )?\}\} (?:[a-z]+ )?"
        rf"(?:{nouns})s\b"
    )
    for path in (ROOT / "sharpgpt" / "report").glob("*.jinja"):
        assert pattern.findall(path.read_text(encoding="utf-8")) == [], path.name


@pytest.mark.parametrize(
    ("count", "noun", "plural", "text"),
    [
        (0, "step", "", "0 steps"), (1, "seed", "", "1 seed"), (1000, "step", "", "1,000 steps"),
        (1, "process", "processes", "1 process"), (2, "process", "processes", "2 processes"),
    ],
)  # fmt: skip
def test_counted(count: int, noun: str, plural: str, text: str) -> None:
    assert counted(count, noun, plural) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0, "0"),
        (0.0, "0"),
        (10.8234, "10.82"),
        (3.0, "3.000"),
        (0.38712, "0.3871"),
        (0.0006, "0.0006"),
        (0.00012345, "0.0001234"),
        (2.5e-05, "2.5e−05"),
        (9.99961, "10.00"),
        (999.96, "1,000"),
        (3104.2, "3,104"),
        (124439808, "124,439,808"),
        (1e30, "1e+30"),
        (-3.2, "−3.200"),
        (math.nan, "NaN"),
        (math.inf, "∞"),
        (-math.inf, "−∞"),
    ],
)
def test_numbers_have_sensible_digits(value, text) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (500, "500"), (1500, "1.5k"), (20000, "20k"), (3e6, "3M"), (2.5e9, "2.5G")],
)
def test_axis_numbers_are_short(value, text) -> None:
    assert short(value) == text


@pytest.mark.parametrize(
    ("value", "decimals", "text"),
    [
        (2.54899, 4, "2.5490"), (12.0, 2, "12.00"), (50257.123, 2, "50,257.12"),
        (-0.00004, 4, "0.0000"), (-0.0317, 4, "−0.0317"), (1e30, 4, "1e+30"), (None, 4, "–"),
        (math.nan, 2, "NaN"), (2.5e-5, None, "2.5e−05"), (18423.8, 0, "18,424"),
    ],
)  # fmt: skip
def test_a_quantity_has_as_many_decimals_everywhere(value, decimals, text) -> None:
    assert fixed(value, decimals) == text


def test_differences_of_one_column_have_the_same_decimals() -> None:
    """Three digits each gave +0.00393, −0.0317 and +0.0140 in one row."""
    values = (0.0123, -0.00042, 0.00393, 0.0, -0.00001, 0.2)
    texts = ["+0.0123", "−0.0004", "+0.0039", "0.0000", "0.0000", "+0.2000"]
    assert list(map(signed, values)) == texts
    assert [decimals_for(margin) for margin in (0.001, 0.01, 1e-5, 0.0, 2.0)] == [4, 4, 6, 4, 4]
    assert signed(3e-5, decimals_for(1e-5)) == "+0.000030"


def test_one_minus_on_pages_and_one_in_terminals() -> None:
    words = "top_k_mass -0.1 differs by -0.0016 (-0.0042 to +0.0010), run-3, 2026-11-29, --seed"
    shown = "top_k_mass −0.1 differs by −0.0016 (−0.0042 to +0.0010), run-3, 2026-11-29, --seed"
    assert typeset(words) == shown
    assert plain(shown) == words
    assert short(-1500) == "−1.5k"
