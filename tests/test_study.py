"""docs/study.md repeats what the study's result file says."""

import json
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY

FOLDER = REPOSITORY / "experiments" / "shakespeare_char"


@pytest.mark.parametrize(("part", "num_arms"), [((), 12), (("--more_seeds",), 2)])
def test_the_page_has_the_table_of_the_results(part: tuple[str, ...], num_arms: int) -> None:
    done = subprocess.run(
        [sys.executable, str(FOLDER / "study.py"), "--table", *part],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    page = (REPOSITORY / "docs" / "study.md").read_text(encoding="utf-8")
    table = done.stdout.strip()
    assert len(table.splitlines()) == 2 * num_arms + 5
    assert table in page


@pytest.mark.parametrize(
    ("part", "num_arms", "seeds"),
    [("comparison", 12, [1, 2, 3]), ("more_seeds", 2, [*range(4, 12)])],
)
def test_every_arm_has_its_seeds_and_no_place_on_a_machine(
    part: str, num_arms: int, seeds: list[int]
) -> None:
    text = (FOLDER / part / "comparison.json").read_text(encoding="utf-8")
    comparison = json.loads(text)
    arms = comparison["models"]
    assert [arm["num_seeds"] for arm in arms] == [len(seeds)] * num_arms
    for arm in (comparison["baseline"], *arms):
        assert [run["seed"] for run in arm["runs"]] == seeds
    assert comparison["data"]["sha256"].startswith("86c4e6aa9db7c042")
    for run in comparison["baseline"]["runs"]:
        assert run["path"].startswith("experiments/shakespeare_char/outputs/")
    assert not any(place in text for place in ("/home/", "/root/", "/tmp/", "/Users/"))
