"""`sharpgpt power` as a command."""

import json
from pathlib import Path

import pytest

from sharpgpt.commands.main import main
from tests.evaluation.test_pilot import pilot_content


@pytest.fixture
def pilot(tmp_path: Path) -> Path:
    (tmp_path / "comparison.json").write_text(json.dumps(pilot_content()))
    return tmp_path


def test_a_comparison_tells_seeds_and_tokens(
    pilot: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the file and from its folder, the same."""
    assert main(["power", "--pilot", str(pilot), "--detect", "0.003"]) == 0
    shown = capsys.readouterr().out
    assert main(["power", "--pilot", str(pilot / "comparison.json"), "--detect=0.003"]) == 0
    assert capsys.readouterr().out == shown
    assert "Pilot: 2 arms, 64,000 tokens of validation text" in shown
    assert "a true difference of 0.004 nats (0.003 beyond the margin of 0.001)" in shown
    assert "an error rate of 5% over 2 arms" in shown
    assert "known from 4 seeds alone; at the ends of its 95% interval" in shown
    table = [line.split() for line in shown.splitlines() if line.rstrip().endswith(("k", "M"))]
    powers = [[int(cell.rstrip("%")) for cell in row[1:7]] for row in table if "%" in row[1]]
    assert powers == [sorted(row) for row in powers], "a longer text helps"
    assert max(powers)[-1] > 99


def test_more_power_or_arms_need_more_seeds(
    pilot: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    needed = []
    for words in ([], ["--power", "0.95"], ["--arms", "12"], ["--margin", "0.002"]):
        assert main(["power", "--pilot", str(pilot), "--detect", "0.003", *words]) == 0
        shown = capsys.readouterr().out
        line = next(line for line in shown.splitlines() if "seeds on a text as long" in line)
        needed.append(int(line.split()[0]))
    assert needed[1] > needed[0]
    assert needed[2] > needed[0]
    assert needed[3] == needed[0], "what is detected is beyond the margin"
    assert main(["power", "--pilot", str(pilot), "--detect", "0.0001"]) == 0
    assert "over 500 seeds" in capsys.readouterr().out


def test_what_is_no_pilot_is_refused(pilot: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, base = "outputs/sharp", "outputs/plain"
    for words, code, message in (
        (["--pilot", run], 2, "baseline: missing"),
        (["--pilot", str(pilot), run], 2, "give it alone, or runs and their baseline"),
        (["--pilot", str(pilot), "--baseline", base], 2, "give it alone"),
        (["--pilot", str(pilot / "other.json")], 1, "other.json"),
        (["--pilot", str(pilot), "--power", "1"], 2, "power: given 1"),
    ):
        assert main(["power", *words, "--detect", "0.001"]) == code
        shown = capsys.readouterr()
        assert message in shown.err
        assert "Traceback" not in shown.err
    assert main(["power", "--pilot", str(pilot)]) == 2
    assert "detect: missing" in capsys.readouterr().err
