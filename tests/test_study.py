"""docs/study.md repeats what the study's result file says."""

import json
import subprocess
import sys

from tests.conftest import REPOSITORY

FOLDER = REPOSITORY / "experiments" / "shakespeare_char"


def test_the_page_has_the_table_of_the_results() -> None:
    done = subprocess.run(
        [sys.executable, str(FOLDER / "study.py"), "--table"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    page = (REPOSITORY / "docs" / "study.md").read_text(encoding="utf-8")
    table = done.stdout.strip()
    assert table.count("\n") >= 25
    assert table in page


def test_every_arm_has_its_three_seeds_and_no_place_on_a_machine() -> None:
    text = (FOLDER / "comparison" / "comparison.json").read_text(encoding="utf-8")
    comparison = json.loads(text)
    assert [arm["num_seeds"] for arm in comparison["models"]] == [3] * 12
    assert len(comparison["baseline"]["runs"]) == 3
    assert comparison["data"]["sha256"].startswith("86c4e6aa9db7c042")
    for run in comparison["baseline"]["runs"]:
        assert run["path"].startswith("experiments/shakespeare_char/outputs/")
    assert not any(place in text for place in ("/home/", "/root/", "/tmp/", "/Users/"))
