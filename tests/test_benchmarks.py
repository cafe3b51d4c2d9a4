"""The benchmarks that are made for other machines run here too, on tiny problems."""

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch

from tests.conftest import REPOSITORY


@pytest.fixture(autouse=True)
def _benchmarks_are_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")


@pytest.fixture
def gpu() -> ModuleType:
    return importlib.import_module("bench_gpu")


# torch's compiler imports its own deprecated parts (PyTorch 2.13).
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.usefixtures("quick_runs")
def test_a_trial_of_the_gpu_benchmark_measures_everything_and_writes_nothing(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu, "save_result", lambda *_: pytest.fail("a trial is no result"))
    assert gpu.main(["--device", "cpu", "--small"]) == 0
    printed = capsys.readouterr().out
    results = json.loads(printed[printed.index("{\n") :])
    assert results.keys() == {"targets", *gpu.SECTIONS}
    assert not any("error" in section for section in results.values())
    losses, steps = results["loss"]["cases"], results["step"]["cases"]
    assert len(losses) == 11
    assert [name for name, row in losses.items() if "median_ms" not in row] == ["Liger-Kernel"]
    assert len(steps) == 4
    assert all(row["tokens_per_s"] > 0 and row["mfu"] > 0 for row in steps.values())
    assert results["recipe"]["val/ce_loss"] < 4.5
    met = [target["met"] for target in results["targets"].values()]
    assert [value is None for value in met] == [False, False, True, False]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_it_says_so_in_one_line(
    gpu: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gpu.main([]) == gpu.main(["--check"]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.count("\n") == 2
    assert "this machine has no CUDA GPU" in error


def test_a_section_that_fails_is_recorded_and_the_others_go_on(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_: object) -> None:
        raise RuntimeError("no such\nkernel")

    monkeypatch.setitem(gpu.SECTIONS, "loss", broken)
    assert gpu.main(["--device", "cpu", "--small", "--sections", "loss", "chunks"]) == 1
    out, error = capsys.readouterr()
    results = json.loads(out[out.index("{\n") :])
    assert results["loss"]["error"] == "RuntimeError: no such kernel"
    assert "cases" in results["chunks"]
    assert "Traceback" in error


def test_targets_are_met_or_missed_by_their_figures(gpu: ModuleType) -> None:
    def figures(penalty: float, plain: float, liger: float, mfu: float) -> list[object]:
        losses = {f"ours, {name}": {"median_ms": penalty} for name in gpu.PENALTIES}
        losses |= {
            "ours, weight 0": {"median_ms": plain}, "three products": {"median_ms": 10.0},
            "Liger-Kernel": {"median_ms": liger},
        }  # fmt: skip
        steps = {f"compiled, {name}": {"mfu": mfu} for name in ("weight 0", "neg_entropy")}
        return [
            (row["figure"], row["met"])
            for row in gpu.targets({"loss": {"cases": losses}, "step": {"cases": steps}}).values()
        ]

    assert figures(12.6, 12, 12, 0.4) == [(1.05, True), (1.2, True), (1, True), (0.4, True)]
    assert figures(14, 13.5, 13, 0.39) == [
        (1.037, True), (1.35, False), (1.0385, False), (0.39, False),
    ]  # fmt: skip
    assert {row["met"] for row in gpu.targets({}).values()} == {None}
    assert gpu.result_name("NVIDIA H100 80GB HBM3") == "gpu-nvidia-h100-80gb-hbm3"


def test_exponents_are_those_of_the_power_law(tmp_path: Path) -> None:
    growing = importlib.import_module("growth")
    sizes = [64, 128, 512, 1024]
    points = {x: {"median_s": 3e-7 * x**2, "peak_mb": 50.0 * (x > 64) + 50} for x in sizes}
    found = growing.growth("width", dict(reversed(points.items())))
    assert found["exponents"]["time"] == {"of all sizes": 2, "of the two largest": 2}
    assert 0 < found["exponents"]["memory"]["of all sizes"] < 0.3
    assert found["exponents"]["memory"]["of the two largest"] == 0
    assert [point["size"] for point in found["points"]] == sizes
    assert growing.exponent([10], [3]) is None
    without_memory = growing.growth("tokens", {10: {"median_s": 1.0}})
    assert without_memory["exponents"].keys() == {"time"}
    growing.plot({"step/width": found, "evaluate": without_memory}, tmp_path / "plot.svg")
    picture = (tmp_path / "plot.svg").read_text("utf-8")
    assert picture.count('<g id="axes_') == 2
