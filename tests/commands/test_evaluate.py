"""`sharpgpt evaluate` as a command, on models whose every statistic is known."""

import json
import math
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sharpgpt.commands.main import main
from sharpgpt.data.tokenizer import CharTokenizer
from sharpgpt.evaluation.model_evaluation import EvaluationText
from sharpgpt.evaluation.saved_model import SavedModel
from sharpgpt.evaluation.validation_text import for_model
from tests.bigram_models import BLOCK, CHARACTERS, save_model, save_text, table, wte_of


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save_model(folder / "truth", wte_of())
    save_model(folder / "hot", wte_of(), scale=0.5)
    save_text(folder / "text.txt", table(wte_of()), 20_000)
    return folder


def evaluated(folder: Path, *words: Any) -> dict[str, Any]:
    output = folder / "out"
    given = ["--data", str(folder / "text.txt"), "--max_seq_length", str(BLOCK)]
    assert main(["evaluate", *map(str, words), *given, "--output", str(output)]) == 0
    assert (output / "evaluation.html").is_file()
    content: dict[str, Any] = json.loads((output / "evaluation.json").read_text())
    return content


def test_statistics_are_those_of_the_table(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Streamed through a checkpoint on disk, against the dense formula in float64."""
    content = evaluated(made, made / "truth", "--num_texts", 0)
    [one] = content["evaluations"]
    text = (made / "text.txt").read_text()
    val = CharTokenizer(CHARACTERS).encode(text[int(0.9 * len(text)) :])
    num_blocks = (len(val) - 1) // (BLOCK - 1)
    ids = torch.from_numpy(val[: num_blocks * (BLOCK - 1) + 1].astype("int64"))
    log_p_NV = table(wte_of()).double()[ids[:-1]].log_softmax(-1)
    target_N = ids[1:]
    ce_N = -log_p_NV.gather(1, target_N[:, None]).flatten()
    rank_N = (log_p_NV > -ce_N[:, None]).sum(-1) + 1
    dense = {
        "ce": ce_N.mean(),
        "entropy": -(log_p_NV.exp() * log_p_NV).sum(-1).mean(),
        "max_prob": log_p_NV.exp().amax(-1).mean(),
        "accuracy": (rank_N == 1).double().mean(),
        "reciprocal_rank": (1 / rank_N.double()).mean(),
        "perplexity": ce_N.mean().exp(),
        "bits_per_byte": ce_N.mean() / math.log(2),
    }
    for name, value in dense.items():
        interval = one["figures"][name]
        assert interval["estimate"] == pytest.approx(float(value), rel=1e-6), name
        assert interval["low"] < interval["estimate"] < interval["high"]
    assert content["data"]["num_rows"] == len(target_N)
    shown = capsys.readouterr().out
    assert f"{float(dense['ce']):.4f}" in shown
    assert str(made / "out" / "evaluation.html") in shown


def test_a_known_temperature_is_found(made: Path) -> None:
    """Logits halved are best at T = 0.5 times that of the truth, up to what the text says."""
    content = evaluated(made, made / "truth", made / "hot", "--num_texts", 0)
    truth, hot = (one["temperature"] for one in content["evaluations"])
    assert truth["best"] == pytest.approx(1, abs=0.03)
    assert hot["best"] == pytest.approx(0.5 * truth["best"], rel=1e-4)
    assert hot["ce"] == pytest.approx(truth["ce"], abs=1e-5)
    assert hot["ce_unchanged"] > truth["ce_unchanged"] + 0.05
    before, after = (content["evaluations"][1]["calibration"][name]["smooth_ece"]
                     for name in ("unchanged", "best_temperature"))  # fmt: skip
    assert after < 0.5 * before


def test_texts_are_generated_and_judged(made: Path) -> None:
    content = evaluated(made, made / "truth", "--num_texts", 4, "--num_tokens", 60)
    generation = content["evaluations"][0]["generation"]
    ways = {way["decoding"]: way for way in generation["ways"]}
    assert ways["greedy"]["self_bleu"] is None
    assert ways["temperature 0.3"]["perplexity"] < ways["temperature 1.2"]["perplexity"]
    assert generation["text"]["perplexity"] > 1
    assert len(generation["samples"][2]["text"]) == 60


def test_names_that_mean_one_model_and_wrong_flags(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = str(made / "truth")
    text = ["--data", str(made / "text.txt"), "--num_texts", "0"]
    (made / "linked").mkdir()
    (made / "linked/figures").symlink_to(made)
    for words, code, message in (
        ([truth, truth + "/"], 1, "the same model as"),
        ([truth, "--num_texts", "1", "--max_blocks", "2"], 2, "max_blocks: given 2"),
        ([truth], 1, "does not say what it was trained on"),
        ([truth, *text, "--max_seq_length", "40"], 1, "at most its 32 positions"),
        ([truth, *text, "--top_k", "17"], 1, "1 to the vocabulary size, 16"),
        ([str(made / "nowhere"), *text], 1, "no such folder"),
        ([truth, "--data", str(made / "nothing.txt")], 1, "neither a known name nor"),
        ([truth, "--output", str(made / "linked")], 2, "linked/figures is a link"),
        ([truth, *text, "--device", "cuda:7"], 2, "device: given 'cuda:7'"),
        ([truth, *text, "--max_seq_length", "17", "--max_blocks", "4", "--prompt", "Z"], 0, ""),
    ):
        output = ["--output", str(made / "wrong")]
        assert main(["evaluate", *output, *words]) == code, words
        shown = capsys.readouterr()
        assert message in shown.err
        assert "Traceback" not in shown.err


def test_a_model_of_other_characters_is_refused(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = save_model(tmp_path / "other", wte_of())
    CharTokenizer(CHARACTERS[::-1]).to_huggingface(32).save_pretrained(other)
    words = [str(made / "truth"), str(other), "--data", str(made / "text.txt")]
    words += ["--num_texts", "0", "--output", str(tmp_path / "out")]
    assert main(["evaluate", *words]) == 1
    assert "its tokenizer is another" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_logits_that_are_not_finite_are_an_error(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = save_model(tmp_path / "broken", wte_of() * math.nan)
    words = [str(broken), "--data", str(made / "text.txt"), "--output", str(tmp_path / "out")]
    assert main(["evaluate", *words]) == 1
    assert "NaN or infinite" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"
        ),
    ],
)
def test_running_out_of_memory_is_one_line(
    made: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
) -> None:
    """A batch_size that a user gave ended in a traceback."""

    def allocate(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("sharpgpt.evaluation.evaluate.evaluate_model", allocate)
    words = ["evaluate", str(made / "truth"), "--data", str(made / "text.txt"), "--batch_size=4"]
    assert main([*words, "--output", str(made / "none")]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("error: out of memory (")
    assert "give a smaller batch_size" in printed
    assert printed.count("\n") == 1


def test_a_name_that_is_no_text(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On Linux a name is bytes. What is no UTF-8 must not cost the evaluation at its end."""
    strange = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    words = ["--data", str(made / "text.txt"), "--max_seq_length", str(BLOCK), "--num_texts", "0"]
    words = ["evaluate", str(made / "truth"), *words, "--output", strange]
    monkeypatch.setattr(sys, "argv", ["sharpgpt", *words])
    assert main(words) == 0
    content = json.loads((Path(strange) / "evaluation.json").read_text("utf-8"))
    assert content["environment"]["command"][-1].endswith("caf?")


def test_each_model_reads_across_documents_or_not_as_it_was_trained() -> None:
    text = EvaluationText(
        "t", torch.zeros(4, 4), None, np.zeros(4), end_of_text_id=3, boundary_id=3
    )
    saved = SavedModel(Path("m"), torch.nn.Identity(), None, 8, None, None, None)
    assert for_model(saved, text).boundary_id is None
    for value, boundary in (("respect", 3), ("ignore", None)):
        trained = replace(saved, settings={"document_boundaries": value})
        assert for_model(trained, text).boundary_id == boundary


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, which Linux has")
def test_statistics_that_cannot_be_printed_are_an_error(
    made: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ["--data", str(made / "text.txt"), "--max_seq_length", str(BLOCK), "--num_texts", "0"]
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        code = main(["evaluate", str(made / "truth"), *flags, "--output", str(made / "unprinted")])
        monkeypatch.undo()
    assert code == 1
    assert "No space left on device" in capsys.readouterr().err
    for name in ("evaluation.json", "evaluation.html"):  # the page was written after printing
        assert (made / "unprinted" / name).exists()
