"""docs/study.md repeats what the study's result file says; that file is small."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.conftest import REPOSITORY

FOLDER = REPOSITORY / "experiments" / "shakespeare_char"
PARTS = ("comparison", "more_seeds")
MAX_RESULT_BYTES = 200_000


@pytest.fixture(scope="module")
def compact() -> ModuleType:
    spec = importlib.util.spec_from_file_location("compact", FOLDER / "compact.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
    [(PARTS[0], 12, [1, 2, 3]), (PARTS[1], 2, [*range(4, 12)])],
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


@pytest.mark.parametrize("part", PARTS)
def test_the_committed_comparison_is_in_its_compact_form(part: str, compact: ModuleType) -> None:
    text = (FOLDER / part / "comparison.json").read_text(encoding="utf-8")
    assert len(text.encode()) < MAX_RESULT_BYTES
    assert compact.to_text(compact.compact(json.loads(text))) == text


def test_the_compact_form_keeps_metrics_and_settings_and_drops_what_is_long(
    compact: ModuleType,
) -> None:
    """Settings that a run shares with the first baseline run are kept once."""

    def run(seed: int, **settings: Any) -> dict[str, Any]:
        return {
            "seed": seed,
            "settings": {"seed": seed, "n_layer": 4, **settings},
            "figures": {"ce": {"estimate": 1.23456789, "low": 1.2, "high": 1.3}},
            "temperature": {"best": 0.987654321, "curve": [{"temperature": 1.0, "ce": 1.5}]},
            "calibration": {"unchanged": {"ece": 0.01, "bins": [1, 2]}},
            "buckets": {"position": [1, 2]},
            "generation": {"ways": [{"zipf": None}], "samples": ["O"], "entropy_by_position": [1]},
        }

    without_texts = run(2, penalty_weight=0.1) | {"generation": None}
    full = {
        "margin": 0.001,
        "baseline": {"name": "baseline", "runs": [run(1), run(2)]},
        "models": [{"verdict": "worse", "runs": [run(1, penalty_weight=0.1), without_texts]}],
    }
    before = json.dumps(full)
    small = json.loads(compact.to_text(compact.compact(full)))
    assert json.dumps(full) == before
    first, second = small["baseline"]["runs"]
    assert first == {
        "seed": 1,
        "settings": {"seed": 1, "n_layer": 4},
        "figures": {"ce": {"estimate": 1.23457, "low": 1.2, "high": 1.3}},
        "temperature": {"best": 0.987654, "curve": [{"temperature": 1.0, "ce": 1.5}]},
        "calibration": {"unchanged": {"ece": 0.01}},
        "generation": {"ways": [{"zipf": None}]},
    }
    assert second["settings"] == {"seed": 2}
    (arm,) = small["models"]
    assert arm["verdict"] == "worse"
    assert [one["settings"] for one in arm["runs"]] == [
        {"penalty_weight": 0.1},
        {"penalty_weight": 0.1, "seed": 2},
    ]
    assert arm["runs"][0]["temperature"] == {"best": 0.987654}
    assert arm["runs"][1]["generation"] is None


def test_the_page_is_made_from_the_committed_results(tmp_path: Path) -> None:
    """In a copy of the folder, so that the checkout stays clean."""
    study = tmp_path / "experiments" / "shakespeare_char"
    for name in ("study.py", "compact.py", "more_seeds/comparison.json"):
        (study / name).parent.mkdir(parents=True, exist_ok=True)
        (study / name).write_bytes((FOLDER / name).read_bytes())
    done = subprocess.run(
        [sys.executable, str(study / "study.py"), "--page", "--more_seeds"],
        capture_output=True, text=True, check=True, cwd=REPOSITORY,
    )  # fmt: skip
    page = study / "more_seeds" / "comparison.html"
    assert done.stdout.strip() == str(page)
    assert "Not distinguishable from sharpening afterwards" in page.read_text(encoding="utf-8")
