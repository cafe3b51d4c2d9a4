import contextlib
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sharpgpt.commands.sample import SampleOptions, parse, run
from sharpgpt.config import ConfigError, TrainingConfig
from sharpgpt.core.errors import UserError
from sharpgpt.evaluation.saved_model import load_model
from sharpgpt.runs.manifest import MANIFEST
from sharpgpt.runs.resolve import resolve_model
from sharpgpt.training.train import train
from tests.conftest import make_runs_quick


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    settings = {
        "tokenizer": "char", "n_layer": 1, "n_head": 1, "n_embd": 16, "max_seq_length": 16,
        "max_steps": 2, "use_wandb": False, "device": "cpu", "num_workers": 0, "warmup_steps": 1,
        "num_generate_samples": 0, "output_dir": str(folder), "run_name": "tiny",
        "eval_max_blocks": 2,
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHARPGPT_OFFLINE", "1")
        patch.setenv("SHARPGPT_CACHE", str(folder / "cache"))
        make_runs_quick(patch)
        return train(TrainingConfig.from_dict(settings)).run_folder


def copied(run_folder: Path, tmp_path: Path) -> Path:
    """The model of a run as a foreign folder, which may be changed."""
    folder = tmp_path / "copy"
    shutil.copytree(resolve_model(run_folder), folder)
    (folder / "checkpoint.json").unlink()
    (folder / MANIFEST).unlink(missing_ok=True)
    return folder


def flags(*words: Any) -> SampleOptions:
    return parse([str(word) for word in words], "sample")


def sampled(*words: Any) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert run(flags(*words)) == 0
    return out.getvalue()


def test_a_sample_has_its_length_and_follows_its_seed(run_folder: Path) -> None:
    """Past the model's window of 16 as well."""
    how = (run_folder, "--prompt", "ROMEO:", "--max_new_tokens", 50)
    text = sampled(*how, "--seed", 3)
    assert text.startswith("ROMEO:")
    assert len(text) == len("ROMEO:") + 50 + 1
    assert sampled(*how, "--seed", 3) == text
    assert sampled(*how, "--seed", 4) != text
    both = sampled(*how, "--seed", 3, "--num_samples", 2)
    assert both.startswith(f"--- sample 1 of 2\n{text}--- sample 2 of 2\nROMEO:")
    assert both.endswith(sampled(*how, "--seed", 4))


def test_temperature_0_and_top_k_1_take_the_most_probable(run_folder: Path) -> None:
    greedy = sampled(run_folder, "--temperature", 0)
    assert sampled(run_folder, "--temperature", 0, "--seed", 9) == greedy
    assert sampled(run_folder, "--top_k", 1, "--seed", 5) == greedy


def test_all_wrong_flags_are_named() -> None:
    with pytest.raises(ConfigError) as refused:
        flags("x", "--temperature", "-1", "--top_p", 0, "--num_samples", 0, "--prompt", "")
    names = [problem.split(":")[0] for problem in refused.value.problems]
    assert names == ["temperature", "top_p", "num_samples", "prompt"]
    assert flags("x").temperature == 1
    for value in ("nan", "inf", "1e400", "1e-42", "5e-324", "1e300", "warm", ""):
        with pytest.raises(ConfigError, match="allowed is a number, 0 or"):
            flags("x", "--temperature", value)


def test_a_character_without_a_token_is_named(run_folder: Path) -> None:
    with pytest.raises(UserError, match=r"--prompt: .* no token for 'ж' \(U\+0436\)"):
        sampled(run_folder, "--prompt", "ж")


def test_the_default_prompt_of_a_model_without_a_newline(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Character models of a text in one line refused `sharpgpt sample` without --prompt."""
    folder = copied(run_folder, tmp_path)
    tokenizer = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["\u00b6"] = vocabulary.pop("\n")
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), "utf-8")
    assert run(flags(folder, "--max_new_tokens", 5)) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("\u00b6")
    assert "no newline, so texts begin with" in shown.err


def test_a_prompt_longer_than_the_window_is_cut_with_a_note(
    run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    greedy = ("--temperature", 0, "--max_new_tokens", 5)
    assert run(flags(run_folder, "--prompt", "q" * 30 + "the king", *greedy)) == 0
    shown = capsys.readouterr()
    assert "it has 38 tokens and the model reads at most 16" in shown.err
    assert "its last 8 only" in shown.err
    assert shown.out.startswith("q" * 30 + "the king")
    assert run(flags(run_folder, "--prompt", "the king", *greedy)) == 0
    assert capsys.readouterr().out == shown.out[30:]


def test_a_sample_of_white_space_is_named(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It looked like nothing at all."""
    folder = copied(run_folder, tmp_path)
    saved = load_model(folder, torch.device("cpu"))
    for name, parameter in saved.causal_lm.named_parameters():
        if name == "transformer.wte.weight":
            parameter.data.zero_()[saved.tokenizer.convert_tokens_to_ids("\n")] = 100.0
        if name == "transformer.ln_f.bias":
            parameter.data.fill_(1.0)
    saved.causal_lm.save_pretrained(folder)
    assert run(flags(folder, "--max_new_tokens", 3)) == 0
    shown = capsys.readouterr()
    assert shown.out == "\n" * 5
    assert "sample 1 is white space only: ↵↵↵" in shown.err


def test_no_advice_of_transformers_reaches_the_user(
    run_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Generation flags that do not apply to greedy decoding, a long prompt, a missing pad token."""
    folder = copied(run_folder, tmp_path)
    settings = {"temperature": 0.5, "top_k": 3, "do_sample": True, "max_length": 4}
    (folder / "generation_config.json").write_text(json.dumps(settings), "utf-8")
    flags_ = ("--temperature", 0, "--prompt", "a" * 15, "--max_new_tokens", 9)
    assert run(flags(folder, *flags_)) == 0
    assert capfd.readouterr().err == ""


def test_weights_that_lack_a_tensor_are_refused(run_folder: Path, tmp_path: Path) -> None:
    """transformers leaves them random, with a warning."""
    folder = copied(run_folder, tmp_path)
    tensors = load_file(folder / "model.safetensors")
    del tensors["transformer.h.0.mlp.c_fc.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"lack 1 of the model's tensors .*h\.0\.mlp\.c_fc"):
        load_model(folder)


def test_folders_that_hold_no_model(run_folder: Path, tmp_path: Path) -> None:
    assert resolve_model(run_folder) == resolve_model(resolve_model(run_folder))
    with pytest.raises(UserError, match="no such folder"):
        resolve_model(tmp_path / "none")
    with pytest.raises(UserError, match="holds no model"):
        resolve_model(tmp_path)
    damaged = tmp_path / "damaged"
    shutil.copytree(resolve_model(run_folder), damaged)
    (damaged / "model.safetensors").write_bytes(b"123")
    with pytest.raises(UserError, match=r"model\.safetensors"):
        load_model(damaged, torch.device("cpu"))
    (damaged / "checkpoint.json").unlink()
    with pytest.raises(UserError, match="cannot be read as a HuggingFace causal LM"):
        load_model(damaged, torch.device("cpu"))
    config = json.loads((damaged / "config.json").read_text("utf-8")) | {"n_layer": 10**9}
    (damaged / "config.json").write_text(json.dumps(config), "utf-8")
    with pytest.raises(UserError, match="given 1000000000 layers, allowed are at most"):
        load_model(damaged, torch.device("cpu"))
