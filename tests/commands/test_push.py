"""Publishing a checkpoint, against a server on the loopback that stands in for the hub.

The real hub is never asked. Files go through the hub's "regular" way, inside the commit; its other
way, by separate storage, needs the hub's own storage servers.
"""

import base64
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from markdown_it import MarkdownIt

from sharpgpt.commands.main import main
from sharpgpt.commands.push import Publication, parse
from sharpgpt.config import ConfigError, TrainingConfig
from sharpgpt.core.errors import UserError
from sharpgpt.report.model_card import model_card
from sharpgpt.report.model_facts import ModelFacts, read_facts
from sharpgpt.runs.resolve import resolve_model
from sharpgpt.training.train import train
from tests.conftest import make_runs_quick
from tests.faults.broken_checkpoints import sealer
from tests.faults.broken_folders import Files
from tests.system_calls import SystemCalls

PUBLISHED = [
    "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
    "tokenizer_config.json",
]  # fmt: skip
HOSTILE = "</td><script>alert(1)</script>\n# head\n![x](http://evil.example/a) `b` | c *d* @me $e$"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    settings = {
        "tokenizer": "char", "n_layer": 1, "n_head": 1, "n_embd": 16, "max_seq_length": 16,
        "max_steps": 4, "use_wandb": False, "device": "cpu", "num_workers": 0, "warmup_steps": 1,
        "num_generate_samples": 0, "output_dir": str(folder), "run_name": "tiny",
        "eval_max_blocks": 2, "penalty_type": "neg_entropy", "penalty_weight": 0.1,
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHARPGPT_OFFLINE", "1")
        patch.setenv("SHARPGPT_CACHE", str(folder / "cache"))
        make_runs_quick(patch)
        return resolve_model(train(TrainingConfig.from_dict(settings)).run_folder)


def test_the_files_are_on_the_disk_before_their_folder_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    publication = Publication("me/model", {"config.json": tmp_path / "config.json"}, [], "# card")
    (tmp_path / "models").mkdir()
    calls = SystemCalls(tmp_path / "models", monkeypatch)
    publication.write(tmp_path / "models" / "tiny")
    assert calls.unflushed == []
    [place] = [i for i, event in enumerate(calls.events) if event.endswith(" -> tiny")]
    assert calls.events[place + 1] == "flush ."
    assert {path.name for path in (tmp_path / "models" / "tiny").iterdir()} == {
        "config.json", "README.md",
    }  # fmt: skip


class Hub(ThreadingHTTPServer):
    """What was asked and committed; what it refuses."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server_address[1]}"
        self.asked: list[str] = []
        self.created: dict[str, Any] = {}
        self.committed: dict[str, bytes] = {}
        self.tokens: set[str | None] = set()
        self.existing_is_private: bool | None = None
        """None: the repository is not there yet."""
        self.refusal: tuple[int, str] | None = None


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub = self.server
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        hub.asked.append(f"{self.command} {self.path}")
        if self.path.startswith(("/api/repos", "/api/models")):
            hub.tokens.add(self.headers.get("Authorization"))
        if hub.refusal:
            status, message = hub.refusal
            self._json({"error": message}, status)
        elif self.path == "/api/repos/create":
            if hub.existing_is_private is None:
                hub.created = json.loads(body)
            url = {"url": f"{hub.endpoint}/me/tiny"}
            self._json(url, 200 if hub.existing_is_private is None else 409)
        elif self.path == "/api/validate-yaml":
            assert json.loads(body)["repoType"] == "model"
            self._json({"errors": [], "warnings": []})
        elif self.path == "/api/models/me/tiny":
            made_private = hub.created.get("visibility") == "private" or hub.created.get("private")
            private = bool(
                made_private if hub.existing_is_private is None else hub.existing_is_private
            )
            self._json({"id": "me/tiny", "private": private})
        elif self.path == "/api/models/me/tiny/preupload/main":
            files = json.loads(body)["files"]
            self._json(
                {
                    "files": [
                        {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                        for f in files
                    ]
                }
            )
        elif self.path.startswith("/api/models/me/tiny/commit/main"):
            for line in body.decode().splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    content = base64.b64decode(entry["value"]["content"])
                    hub.committed[entry["value"]["path"]] = content
            url = f"{hub.endpoint}/me/tiny/commit/{'0' * 40}"
            self._json({"commitUrl": url, "commitOid": "0" * 40, "success": True})
        else:
            self._json({"error": f"not known here: {self.path}"}, 404)

    def _json(self, value: object, status: int = 200) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """The hub that this process asks, and a token for it."""
    from huggingface_hub import constants

    with Hub() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no_token"))
        monkeypatch.setenv("SHARPGPT_OFFLINE", "")
        monkeypatch.setenv("HF_TOKEN", "hf_of_this_test")
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def refused(capsys: pytest.CaptureFixture[str], *words: Any) -> str:
    """The message of a command that fails, without a traceback."""
    assert main(["push", *map(str, words)]) in (1, 2)
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert "Traceback" not in error
    return error


def test_a_checkpoint_is_published(
    checkpoint: Path, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every file as it is, the card, one commit; nothing of the training state."""
    assert main(["push", str(checkpoint.parent.parent), "me/tiny"]) == 0
    said = capsys.readouterr().out
    assert f"Published: {hub.endpoint}/me/tiny" in said
    assert "Not published: checkpoint.json, training_state.json, training_state.safetensors" in said
    assert sorted(hub.committed) == sorted([*PUBLISHED, "README.md"])
    for name in PUBLISHED:
        assert hub.committed[name] == (checkpoint / name).read_bytes(), name
    assert hub.committed["README.md"].startswith(b"---\nlibrary_name: transformers\n")
    assert len([line for line in hub.asked if "/commit/" in line]) == 1
    assert hub.tokens == {"Bearer hf_of_this_test"}
    assert "README.md" not in [path.name for path in checkpoint.iterdir()]


@pytest.mark.parametrize("existing", [None, True])
def test_a_private_repository(checkpoint: Path, hub: Hub, existing: bool | None) -> None:
    hub.existing_is_private = existing
    assert main(["push", str(checkpoint), "me/tiny", "--private"]) == 0
    if existing is None:
        assert hub.created.get("private") or hub.created.get("visibility") == "private"
    assert len(hub.committed) == 6


def test_private_never_uploads_to_a_public_repository(
    checkpoint: Path, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.existing_is_private = False
    assert "exists already and is public" in refused(capsys, checkpoint, "me/tiny", "--private")
    assert hub.committed == {}


@pytest.mark.parametrize(
    ("status", "said"),
    [(401, "set HF_TOKEN to a valid token"), (403, "no right to write"), (503, "try again later")],
)
def test_a_hub_that_refuses(
    checkpoint: Path,
    hub: Hub,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    said: str,
) -> None:
    hub.refusal = (status, "the reason\nof the hub")
    error = refused(capsys, checkpoint, "me/tiny")
    assert f"refused with status {status}" in error
    assert said in error
    assert "hf_of_this_test" not in error


def test_no_token_and_no_network(
    checkpoint: Path,
    hub: Hub,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "cannot be reached" in refused(capsys, checkpoint, "me/tiny")
    monkeypatch.delenv("HF_TOKEN")
    assert "run hf auth login, or set HF_TOKEN" in refused(capsys, checkpoint, "me/tiny")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in refused(capsys, checkpoint, "me/tiny")
    monkeypatch.setenv("SHARPGPT_OFFLINE", "1")
    assert "SHARPGPT_OFFLINE is set" in refused(capsys, checkpoint, "me/tiny")
    assert hub.asked == []


def test_push_to_hub_of_transformers_takes_a_checkpoint(checkpoint: Path, hub: Hub) -> None:
    """In a process of its own: part of the hub's address is fixed when its client is imported."""
    script = (
        "import sys; from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        "for kind in (AutoModelForCausalLM, AutoTokenizer):\n"
        "    kind.from_pretrained(sys.argv[1]).push_to_hub('me/tiny')"
    )
    environment = {**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HUB_OFFLINE": "0"}
    subprocess.run(
        [sys.executable, "-c", script, str(checkpoint)], env=environment, check=True, timeout=60
    )
    assert set(PUBLISHED) <= set(hub.committed)
    assert hub.committed["tokenizer.json"] == (checkpoint / "tokenizer.json").read_bytes()


def test_dry_run_writes_what_would_be_published(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The folder is a model that loads, with a card; an existing one is not touched."""
    from transformers import AutoModelForCausalLM

    folder = tmp_path / "published"
    assert main(["push", str(checkpoint), "me/tiny", "--dry_run", str(folder)]) == 0
    assert sorted(path.name for path in folder.iterdir()) == sorted([*PUBLISHED, "README.md"])
    loaded, own = (
        AutoModelForCausalLM.from_pretrained(path).state_dict() for path in (folder, checkpoint)
    )
    assert all(torch.equal(loaded[name], own[name]) for name in own)
    capsys.readouterr()
    error = refused(capsys, checkpoint, "me/tiny", "--dry_run", folder)
    assert "a folder that is empty or does not exist" in error


def test_damaged_and_foreign_folders(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = tmp_path / "step_00000004"
    shutil.copytree(checkpoint, damaged)
    weights = bytearray((damaged / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (damaged / "model.safetensors").write_bytes(weights)
    how = ("me/tiny", "--dry_run", tmp_path / "out")
    assert "another SHA-256" in refused(capsys, damaged, *how)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "config.json").write_text("{}")
    assert "a HuggingFace model and not a checkpoint" in refused(capsys, foreign, *how)
    assert not (tmp_path / "out").exists()
    shutil.copytree(checkpoint, tmp_path / "strange")
    seal = sealer(Files.of(checkpoint))
    for content in ("[]", "[" * 5000, "7", ""):
        (tmp_path / "strange/config.json").write_text(content)
        (tmp_path / "strange/tokenizer.json").write_text(content)
        seal(tmp_path / "strange")
        main([str(word) for word in ("push", tmp_path / "strange", *how)])
        assert "Traceback" not in capsys.readouterr().err
        shutil.rmtree(tmp_path / "out", ignore_errors=True)


def test_all_wrong_flags_are_named() -> None:
    with pytest.raises(ConfigError) as refused:
        parse(["x", "a b", "--evaluation", "none.json", "--comparison", "none.json"], "push")
    names = [problem.split(":")[0] for problem in refused.value.problems]
    assert names == ["repo_id", "evaluation", "comparison"]
    assert parse(["x", "org/name"], "push").repo_id == "org/name"


def interval(estimate: float) -> dict[str, float]:
    return {"estimate": estimate, "low": estimate - 0.1, "high": estimate + 0.1}


def evaluation(checkpoint: Path, **changes: Any) -> dict[str, Any]:
    figures = {"ce": interval(1.5), "perplexity": interval(4.48), "accuracy": interval(0.55)}
    return {"name": "tiny", "path": str(checkpoint), "step": 4, "figures": figures} | changes


DATA = {"name": "some plays", "num_rows": 12345, "is_stand_in": True}


def published_card(checkpoint: Path, tmp_path: Path, *flags: Any) -> str:
    folder = tmp_path / "published"
    words = ["push", checkpoint, "me/tiny", "--dry_run", folder, *flags]
    assert main([str(word) for word in words]) == 0
    return (folder / "README.md").read_text(encoding="utf-8")


def test_the_card_tells_loss_data_recipe_and_validation(checkpoint: Path, tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    text = published_card(checkpoint, tmp_path)
    head = ModelCard(text).data.to_dict()
    assert head == {
        "library_name": "transformers", "pipeline_tag": "text-generation",
        "tags": ["sharpgpt", "gpt2", "neg_entropy"],
    }  # fmt: skip
    for words in (
        "the penalty `neg_entropy` (H(p), the entropy) and w = 0.1, which sharpens",
        "**Stand-in data.**",
        "for 4 steps",
        "At step 4, over 2 of the ",
        'pipeline("text-generation", model="me/tiny")',
        "pretrained=me/tiny,max_length=15,prefix_token_id=0 ",
        "| `learning_rate` | 0.0006 |",
        "The model has 16 positions",
    ):
        assert words in text, words
    # Nothing tells where things are on this machine.
    assert str(tmp_path.parent) not in text
    assert str(checkpoint.parent.parent.parent) not in text


def test_the_card_shows_the_evaluation(checkpoint: Path, tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    path = tmp_path / "evaluation.json"
    others = evaluation(tmp_path, name="other", figures={"ce": interval(9.0)})
    own = evaluation(
        checkpoint,
        settings={"penalty_weight": 0.1, "betas": [0.9, 0.95]},
        temperature={"best": 1.02, "ce": 1.4, "ce_unchanged": 1.5},
    )
    path.write_text(json.dumps({"data": DATA, "evaluations": [others, own]}))
    text = published_card(checkpoint, tmp_path, "--evaluation", path)
    assert "| cross-entropy, nats | 1.5000 | 1.4000 to 1.6000 |" in text
    assert "some plays, 12,345 predictions" in text
    assert "**This text is a stand-in**" in text
    assert "Its own best temperature is 1.020" in text
    results = ModelCard(text).data.eval_results
    assert results is not None
    found = {result.metric_type: result.metric_value for result in results}
    assert found == {"cross_entropy": 1.5, "perplexity": 4.48, "accuracy": 0.55}
    assert {result.dataset_name for result in results} == {"some plays"}


def test_the_card_shows_the_verdict(checkpoint: Path, tmp_path: Path) -> None:
    arm = {
        "name": "neg_entropy 0.1", "verdict": "worse", "num_seeds": 3, "margin": 0.001,
        "error_rate": 0.05, "sentence": "Worse than sharpening afterwards: 0.02 nats.",
        "controls": {
            "temperature": {"call": "worse", "estimate": 0.0213, "low": 0.018, "high": 0.024}
        },
        "runs": [evaluation(checkpoint, path="/elsewhere", name="tiny, step 4")],
    }  # fmt: skip
    path = tmp_path / "comparison.json"
    path.write_text(json.dumps({"data": DATA, "baseline": {"runs": []}, "models": [arm]}))
    text = published_card(checkpoint, tmp_path, "--comparison", path)
    assert "**worse**, compared with" in text
    assert "Worse than sharpening afterwards: 0.02 nats." in text
    assert "| temperature | +0.0213 | +0.0180 to +0.0240 | worse |" in text
    assert "3 seeds, a margin of 0.001 nats, at most 5% wrong verdicts" in text
    assert "| perplexity | 4.48 |" in text


@pytest.mark.parametrize(
    "content",
    [
        "no JSON", "[]", "[" * 5000, "{}", '{"evaluations": 3, "models": [1], "baseline": []}',
        '{"evaluations": [{"name": "other", "step": 4, "path": 7}]}',
        '{"evaluations": [{"name": "tiny", "step": 5}]}',
        '{"evaluations": [{"name": "tiny", "step": 4, "settings": {"penalty_weight": 0.2}}]}',
    ],
    ids=range(8),
)  # fmt: skip
@pytest.mark.parametrize("flag", ["evaluation", "comparison"])
def test_files_of_figures_that_are_not_about_this_model(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: str, content: str
) -> None:
    """Figures of another model or another step never come onto the card."""
    path = tmp_path / "figures.json"
    path.write_text(content)
    out = tmp_path / "out"
    error = refused(capsys, checkpoint, "me/tiny", f"--{flag}", path, "--dry_run", out)
    assert f"--{flag}: {path}" in error
    assert not out.exists()


def test_what_comes_from_files_is_text_and_no_markup(checkpoint: Path) -> None:
    """Names, notes and sentences of a stranger become neither HTML, nor links, nor headings."""
    facts = read_facts(checkpoint)
    hostile = ModelFacts(
        **vars(facts)
        | {
            "data_name": HOSTILE,
            "model_type": HOSTILE,
            "versions": {HOSTILE: HOSTILE},
            "settings": {
                **facts.settings, "penalty_type": HOSTILE, "penalty_schedule": HOSTILE,
                "model_name": HOSTILE,
            },
        }
    )  # fmt: skip
    arm = {
        "verdict": HOSTILE, "sentence": HOSTILE,
        "controls": {HOSTILE: {"call": HOSTILE, "estimate": 1}},
    }  # fmt: skip
    markdown = MarkdownIt("commonmark").enable("table")
    card = {
        who: model_card(
            one, repo_id="me/tiny", evaluation=evaluation(checkpoint),
            data={"name": name}, arm=given,
        )
        for who, one, name, given in (
            ("plain", facts, "text", {"verdict": "worse", "controls": {"x": {"estimate": 1}}}),
            ("hostile", hostile, HOSTILE, arm),
        )
    }  # fmt: skip
    tags = {}
    for who, text in card.items():
        body = text.split("\n---\n", 1)[1]
        html = markdown.render(body)
        tags[who] = {tag: html.count(tag) for tag in ("<h1", "<h2", "<tr", "<td", "<table", "<em")}
        assert "<script" not in html
        assert "<img" not in html
        assert "<a " not in html
    assert tags["hostile"] == tags["plain"]
    assert "http://evil" not in card["hostile"].split("\n---\n", 1)[1]


def test_a_checkpoint_without_its_run_folder(checkpoint: Path, tmp_path: Path) -> None:
    """Moved elsewhere it says what it knows itself."""
    alone = tmp_path / "step_00000004"
    shutil.copytree(checkpoint, alone)
    facts = read_facts(alone)
    assert (facts.data_name, facts.step, facts.is_stand_in) == ("tinyshakespeare", 4, False)
    assert facts.validation == {}
    assert "Validation while training" not in model_card(facts, repo_id="me/tiny")
    with pytest.raises(UserError, match="cannot be read as a checkpoint"):
        read_facts(tmp_path)
