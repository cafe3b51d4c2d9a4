"""What the tests of training share."""

import pytest


@pytest.fixture
def quick_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plots, and measuring the machine, are most of the time of a tiny run."""
    monkeypatch.setattr("sharpgpt.run_result.write_report", lambda _: None)
    monkeypatch.setattr("sharpgpt.run.peak_flops", lambda _: (1e12, "none"))
