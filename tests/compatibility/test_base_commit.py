"""Runs, checkpoints and shards written by commit 9a17ad7 work as they did there (README.md).

Metrics are equal bit for bit on the processor, thread count and PyTorch that the reference names,
and within TOLERANCE elsewhere: the rule of the golden trace.
"""

import json
import runpy
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from config import TrainingConfig
from tests.compatibility.make_fixtures import (
    CONTINUED,
    EVALUATE,
    FIXTURES,
    PREPARED,
    RUNS,
    SAMPLE,
    SAMPLED,
    documents,
    estimates,
    machine,
    metrics,
)
from train import train

TOLERANCE = 2e-4
REFERENCE = FIXTURES / "reference"
RESULTS: dict[str, Any] = json.loads((REFERENCE / "results.json").read_text(encoding="utf-8"))


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: a copy of the fixtures."""
    shutil.copytree(FIXTURES, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def sharpgpt(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[str], str]:
    """`python -m sharpgpt COMMAND` in this process and this folder; returns its standard output."""

    def run(command: str) -> str:
        monkeypatch.setattr(sys, "argv", ["sharpgpt", *shlex.split(command)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            runpy.run_module("sharpgpt", run_name="__main__")
        out, err = capsys.readouterr()
        assert not ended.value.code, out + err
        return out

    return run


def is_same_machine(run_folder: Path) -> bool:
    return machine(run_folder) == RESULTS["machine"]


def assert_close(ours: Any, expected: Any, context: object) -> None:
    """Counts of a histogram may move between buckets; their total may not."""
    if isinstance(expected, list):
        assert (len(ours), sum(ours)) == (len(expected), sum(expected)), context
    else:
        assert abs(ours - expected) <= TOLERANCE * abs(expected), context


@pytest.mark.parametrize("name", CONTINUED)
def test_a_run_continues_with_the_metrics_of_that_commit(
    sharpgpt: Callable[[str], str], work: Path, name: str
) -> None:
    """Resumed from the newest checkpoint, forked from an older one, resumed after a crash; and
    started on each form of shards."""
    sharpgpt(f"{CONTINUED[name]} --run_name {name}")
    lines = (REFERENCE / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    expected = [json.loads(line) for line in lines]
    ours = metrics(work / "runs" / name)
    assert [event["step"] for event in ours] == [event["step"] for event in expected]
    for event, before in zip(ours, expected, strict=True):
        assert before.keys() <= event.keys()
        event = {key: event[key] for key in before}
        if is_same_machine(work / "runs" / name):
            assert event == before
        for key, value in before.items():
            assert_close(event[key], value, (key, event, before))


def test_train_resumes_when_called_from_python(work: Path) -> None:
    """Through the public names, from RUN/best, with settings read from the run's config.yaml."""
    settings = TrainingConfig.from_yaml("runs/muon/config.yaml").to_dict()
    changed = settings | {"resume": "runs/muon/best", "run_name": "again"}
    result = train(TrainingConfig.from_dict(changed))
    assert result.step == 12
    last = json.loads((REFERENCE / "muon.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    assert_close(result.metrics["val/ce_loss"], last["val/ce_loss"], result.metrics)


@pytest.mark.parametrize("name", RUNS)
def test_the_configuration_loads_to_equal_settings(name: str, tmp_path: Path) -> None:
    config = TrainingConfig.from_yaml(FIXTURES / "runs" / name / "config.yaml")
    assert (config.run_name, config.n_embd, config.learning_rate) == (name, 12, 0.02)
    config.to_yaml(tmp_path / "config.yaml")
    assert TrainingConfig.from_yaml(tmp_path / "config.yaml") == config


def test_samples_are_the_same_text(sharpgpt: Callable[[str], str], work: Path) -> None:
    """From a run folder and from a checkpoint in it."""
    for model in SAMPLED:
        text = sharpgpt(f"{SAMPLE} {model}")
        assert text.startswith("the ")
        assert len(text) == len("the ") + 40 + 1
        if RESULTS["machine"]["torch"] == torch.__version__:
            assert text == RESULTS["samples"][model]


def test_an_evaluation_on_the_shards_gives_the_same_statistics(
    sharpgpt: Callable[[str], str], work: Path
) -> None:
    sharpgpt(EVALUATE)
    ours = estimates(work / "evaluation" / "evaluation.json")
    assert RESULTS["evaluation"].keys() <= ours.keys()
    for name, value in RESULTS["evaluation"].items():
        assert_close(ours[name], value, (name, ours))


def test_the_report_of_a_run_is_written_anew(sharpgpt: Callable[[str], str], work: Path) -> None:
    for name in RUNS:
        sharpgpt(f"report runs/{name}")
        page = (work / "runs" / name / "report.html").read_text(encoding="utf-8")
        assert f"{name}</h1>" in page
        assert "</html>" in page
    sharpgpt("report runs/adamw runs/muon --output runs.html")
    assert "muon" in (work / "runs.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("form", PREPARED)
def test_inspect_finds_the_hashes_right_until_a_byte_changes(
    sharpgpt: Callable[[str], str], work: Path, form: str
) -> None:
    assert "SHA-256" in sharpgpt(f"inspect shards/{form}")
    shard = min((work / "shards" / form).glob("*train*.bin"))
    content = bytearray(shard.read_bytes())
    content[-4] ^= 1
    shard.write_bytes(content)
    with pytest.raises(AssertionError, match=f"{shard.name}.*SHA-256"):
        sharpgpt(f"inspect shards/{form}")


@pytest.mark.parametrize("form", PREPARED)
def test_prepared_data_is_known_as_finished_and_made_again_to_the_byte(
    sharpgpt: Callable[[str], str], work: Path, form: str
) -> None:
    folder = work / "shards" / form
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    sharpgpt(f"{PREPARED[form]} --output shards/{form}")
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    sharpgpt(f"{PREPARED[form]} --output again")
    assert {path.name for path in (work / "again").iterdir()} >= before.keys()
    for name in before:
        assert (work / "again" / name).read_bytes() == (folder / name).read_bytes(), name


def test_a_checkpoint_is_a_model_for_transformers(work: Path) -> None:
    """Its cross-entropy there is the val/ce_loss that the run logged at that step."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    checkpoint = work / "runs/adamw/checkpoints/step_00000008"
    model = AutoModelForCausalLM.from_pretrained(checkpoint).eval()
    text = (work / "text.txt").read_text(encoding="utf-8")
    validation = text[int(0.9 * len(text)) :]
    ids = AutoTokenizer.from_pretrained(checkpoint)(validation, return_tensors="pt")["input_ids"]
    ids_BT = ids[0].unfold(0, 16, 15)  # blocks that overlap by one token
    with torch.no_grad():
        logits_BTV = model(input_ids=ids_BT).logits
    rows_NV, targets_N = logits_BTV[:, :-1].flatten(0, 1), ids_BT[:, 1:].flatten()
    loss = torch.nn.functional.cross_entropy(rows_NV, targets_N).item()
    (logged,) = (
        event["val/ce_loss"]
        for event in metrics(work / "runs/adamw")
        if event["step"] == 8 and "val/ce_loss" in event
    )
    assert_close(loss, logged, (loss, logged))


def test_the_documents_are_the_paragraphs_of_the_text() -> None:
    text = (FIXTURES / "documents.jsonl").read_text(encoding="utf-8")
    assert documents(FIXTURES / "text.txt") == text
