"""Ranks that were given different things do not train together."""

import copy
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sharpgpt.config import TrainingConfig
from sharpgpt.runtime.device import choose_device
from sharpgpt.runtime.distributed import Processes
from sharpgpt.training import agreement
from sharpgpt.training.agreement import (
    MAY_DIFFER,
    Fact,
    checkpoint_fact,
    find_differences,
    found_facts,
    given_facts,
)
from sharpgpt.training.build import build_model, load_training_data
from sharpgpt.training.setup import Setup
from sharpgpt.training.train import train
from tests.forked_python import run_forked

REPOSITORY = Path(__file__).resolve().parents[2]
MakeConfig = Callable[..., TrainingConfig]
pytestmark = pytest.mark.usefixtures("quick_runs")

CHANGED: dict[str, Any] = {
    "seed": 43, "learning_rate": 1e-3, "penalty_weight": 0.5, "penalty_type": "neg_entropy",
    "batch_size": 3, "dropout": 0.1, "weight_decay": 0.0, "on_nonfinite": "skip", "max_steps": 7,
    "save_interval": 5, "gradient_accumulation_steps": 8, "max_seq_length": 64, "optimizer": "muon",
    "eval_interval": 3, "log_interval": 3, "generate_interval": 3, "num_generate_samples": 1,
    "warmup_steps": 9, "betas": (0.9, 0.99), "compile": True, "penalty_positions": "0:N/2",
    "text_column": "body", "val_fraction": 0.2, "num_epochs": 1, "allow_config_change": True,
    "generate_prompt": "a", "max_grad_norm": 0.5, "keep_checkpoints": 5, "tokenizer": "char",
}  # fmt: skip


def facts_of(config: TrainingConfig) -> dict[str, Fact]:
    return given_facts(config, choose_device(config))


@pytest.mark.parametrize("name", CHANGED)
def test_another_setting_on_one_rank_is_named_with_its_values_and_ranks(name: str) -> None:
    """Nine of eleven such settings trained a wrong model to the end, the others hung."""
    one, other = TrainingConfig(device="cpu"), TrainingConfig(device="cpu", **{name: CHANGED[name]})
    if name in ("betas", "text_column"):
        expected = str(CHANGED[name][1]) if name == "betas" else "'body'"
    else:
        expected = str(other.to_dict()[name]).replace("True", "true")
    found = find_differences([facts_of(one), facts_of(other), facts_of(one)])
    assert len(found) == 1
    assert found[0].startswith(f"{name} differs between ranks: ")
    assert " on ranks 0 and 2, " in found[0]
    assert found[0].endswith(" on rank 1; start all with the same")
    assert expected in found[0].split(" on ranks 0 and 2, ")[1]


def test_places_may_differ(tmp_path: Path) -> None:
    names = {"dataset": "a.txt", "cache_dir": "c", "output_dir": "o", "checkpoint_dir": "k"}
    other = TrainingConfig(device="cpu", run_name="r", resume="auto", num_workers=0, **names)
    assert find_differences([facts_of(TrainingConfig(device="cpu")), facts_of(other)]) == []
    assert set(TrainingConfig().to_dict()) >= MAY_DIFFER


def test_other_code_and_versions_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = TrainingConfig(device="cpu")
    here = facts_of(config)
    monkeypatch.setattr(
        agreement, "package_versions", lambda: {"torch": "2.12.0", "transformers": "5.0.0"}
    )
    (tmp_path / "changed.py").write_text("x = 1\n")
    monkeypatch.setattr(agreement.sharpgpt, "__file__", str(tmp_path / "__init__.py"))
    found = find_differences([here, facts_of(config)])
    assert [each.partition(" differs")[0] for each in found] == [
        "code of sharpgpt", "version of torch", "version of transformers", "version of numpy",
    ]  # fmt: skip
    assert "2.12.0 on rank 1" in found[1]
    assert "none on rank 1" in found[3]


def test_what_names_and_paths_stand_for_is_compared(
    tiny_config: MakeConfig, tmp_path: Path
) -> None:
    """The same text elsewhere is the same, another one is not."""

    def setup(name: str, content: str) -> Setup:
        (tmp_path / name).write_text(content, encoding="utf-8")
        config = tiny_config(n_layer=1, dataset=str(tmp_path / name))
        data = load_training_data(config)
        model = build_model(config, data)
        return Setup(config, choose_device(config), Processes(), data=data, causal_lm=model)

    text = "To be, or not to be: that is it.\n" * 400
    one = setup("one.txt", text)
    facts = found_facts(one)
    assert find_differences([facts, found_facts(setup("same.txt", text))]) == []
    found = find_differences([facts, found_facts(setup("other.txt", text.replace("i", "y")))])
    assert f"{str(tmp_path / 'other.txt')!r} (SHA-256 " in found[0]
    assert [each.partition(" differs")[0] for each in found] == ["dataset", "tokenizer"]
    other = copy.copy(one.causal_lm)
    other.config = copy.copy(one.causal_lm.config)
    other.config.layer_norm_epsilon = 1e-6
    changed = Setup(one.config, one.device, one.processes, data=one.data, causal_lm=other)
    found = find_differences([facts, found_facts(changed)])
    assert [each.partition(" differs")[0] for each in found] == ["model_name"]


def test_another_checkpoint_on_one_rank_is_named(tiny_config: MakeConfig, tmp_path: Path) -> None:
    assert checkpoint_fact(None) == Fact("", "none")
    path = train(tiny_config(n_layer=1, max_steps=1)).checkpoint
    assert path is not None
    found = find_differences(
        [{"resume": checkpoint_fact(each)} for each in (path, path, tmp_path / "absent", None)]
    )
    assert f"{path} (SHA-256 " in found[0]
    assert f"{tmp_path / 'absent'} (cannot be read: No such file" in found[0]
    assert "none on rank 3; start" in found[0]


def test_the_ranks_of_a_real_launch_end_with_one_message(
    tmp_path: Path, command_environment: dict[str, str]
) -> None:
    (tmp_path / "text.txt").write_text("To be, or not to be: that is it.\n" * 400, "utf-8")
    code = (
        "import os, sys; from train import train_command\n"
        "more = ['--seed', '7', '--max_steps', '9'] if os.environ['RANK'] == '1' else []\n"
        "code = train_command(sys.argv[1:] + more); os.write(1, f'exit code {code}\\n'.encode())\n"
        "sys.exit(code)\n"
    )
    (tmp_path / "ranks.py").write_text(code, encoding="utf-8")
    done = run_forked(
        [
            "-W", "ignore", "-m", "torch.distributed.run", "--standalone",
            "--nproc_per_node=2", "ranks.py", "--dataset", "text.txt", "--tokenizer", "char",
            "--n_layer", "1", "--n_head", "2", "--n_embd", "16", "--max_seq_length", "16",
            "--max_steps", "3", "--no_wandb", "--device", "cpu", "--output_dir", ".",
        ],
        env=command_environment | {"PYTHONPATH": str(REPOSITORY)},
        cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout  # torchrun's own
    assert done.stdout.count("exit code 2\n") == 2, done.stdout
    assert done.stdout.count("2 problems:\n") == 1
    assert "max_steps differs between ranks: 3 on rank 0, 9 on rank 1; start" in done.stdout
    assert "seed differs between ranks: 42 on rank 0, 7 on rank 1; start" in done.stdout
    assert "ended at once" not in done.stdout
    assert not list(tmp_path.glob("*/config.yaml"))
