import http.server
import json
import logging
import os
import pty
import re
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sharpgpt.config import TrainingConfig
from sharpgpt.runs.tracker import start_trackers
from sharpgpt.runs.trackers import wandb as wandb_run
from sharpgpt.runs.trackers.wandb import WandbRun
from tests.wandb_reading import read_wandb

KEY = "0" * 40
SAMPLE = {"prompt": "To be", "text": "To be or", "settings": {"temperature": 0.7, "top_p": 0.9}}


@pytest.fixture(autouse=True)
def _nothing_set_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No key, no settings, no session of W&B; whatever a test starts is shut down."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "no_netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "wandb_config"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    yield
    if wandb := sys.modules.get("wandb"):
        wandb.teardown()


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """What the module logs."""
    logged: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: logged.append(record.getMessage())  # type: ignore[method-assign]
    wandb_run.logger.addHandler(handler)
    wandb_run.logger.setLevel(logging.INFO)
    yield logged
    wandb_run.logger.setLevel(logging.NOTSET)
    wandb_run.logger.removeHandler(handler)


@pytest.fixture
def start(tmp_path: Path, lines: list[str]) -> Callable[..., tuple[WandbRun | None, list[str]]]:
    """Start tracking in tmp_path/run with some settings; gives the run and the lines it logs."""

    def make(
        *, run_id: str | None = None, environment: dict[str, Any] | None = None, **settings: Any
    ) -> tuple[WandbRun | None, list[str]]:
        ids = {"wandb_run_id": run_id}
        trackers: list[Any] = start_trackers(
            TrainingConfig(**settings),
            run_folder=tmp_path / "run",
            run_ids=ids,
            environment=environment or {},
        )
        run = trackers[0] if trackers else None
        assert ids == {"wandb_run_id": run.run_id if run else run_id}
        return run, lines

    return make


def test_everything_logged_can_be_read_back(start, tmp_path) -> None:
    run, lines = start(wandb_mode="offline", seed=7, environment={"num_parameters": 124_439_808})
    run.log(10, {"train/loss": 3.5, "train/entropy": 2.25})
    run.log(10, {"val/loss": 3.75})
    run.log(10, {}, {"train/max_prob_histogram": [1, 2, 3, 4]})
    run.log_samples(10, [SAMPLE])
    run.log(20, {"train/loss": 3.25, "train/grad_norm": float("nan")})
    run.log_samples(20, [{**SAMPLE, "text": "To be not"}])
    run.summary({"best_val_ce_loss": 3.5})
    run.finish()

    record = read_wandb(tmp_path / "run")
    row = record.history[10]
    assert (row["train/loss"], row["train/entropy"], row["val/loss"]) == (3.5, 2.25, 3.75)
    assert row["train/max_prob_histogram.values"] == [1, 2, 3, 4]
    assert row["train/max_prob_histogram.bins"] == [0, 0.25, 0.5, 0.75, 1]
    assert record.history[20]["train/loss"] == 3.25
    assert record.history[20]["train/grad_norm"] == "NaN"
    assert record.table(tmp_path / "run", "samples", 10) == [
        {"step": 10, "prompt": "To be", "text": "To be or", "temperature": 0.7, "top_p": 0.9}
    ]
    grown = record.table(tmp_path / "run", "samples", 20)
    assert [(row["step"], row["text"]) for row in grown] == [(20, "To be not"), (10, "To be or")]
    assert record.config["seed"] == 7
    assert record.config["num_parameters"] == 124_439_808
    assert set(TrainingConfig().to_dict()) <= set(record.config)
    assert record.summary["best_val_ce_loss"] == 3.5
    assert (record.run_id, record.name) == (run.run_id, "run")
    assert record.project == TrainingConfig().wandb_project
    assert record.exit_code == 0
    assert len(lines) == 1
    assert re.search(r"offline, as asked; upload later with: wandb sync (\S+)", lines[0])
    assert Path(lines[0].split()[-1]).is_dir()
    assert "WANDB_DATA_DIR" not in os.environ


def test_a_run_id_is_kept_and_a_failed_run_is_marked(start, tmp_path) -> None:
    run, _ = start(wandb_mode="offline", run_id="abc123", wandb_project="mine")
    run.log(1, {"train/loss": 1.0})
    run.finish(exit_code=1)
    record = read_wandb(tmp_path / "run")
    assert (run.run_id, record.run_id, record.project) == ("abc123", "abc123", "mine")
    assert record.exit_code == 1


@pytest.mark.parametrize("mode", ["auto", "online"])
def test_without_a_key_the_run_is_offline_and_says_so(start, tmp_path, mode) -> None:
    run, lines = start(wandb_mode=mode)
    run.log(1, {"train/loss": 1.5})
    run.finish()
    assert len(lines) == 1
    assert "offline, since there is no API key" in lines[0]
    assert read_wandb(tmp_path / "run").history[1]["train/loss"] == 1.5


def test_a_closed_port_means_offline_at_once(start, tmp_path, monkeypatch) -> None:
    """The key comes from a netrc file, as `wandb login` leaves it."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine 127.0.0.1:{port}\n  login user\n  password {KEY}\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")
    run, lines = start()
    run.finish()
    assert f"offline, since 127.0.0.1:{port} does not answer" in lines[0]


def test_a_server_that_accepts_and_never_answers_costs_seconds(start, monkeypatch) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = silent.getsockname()[1]
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        monkeypatch.setattr(wandb_run, "PROBE_TIMEOUT_S", 0.5)
        started = time.monotonic()
        run, lines = start()
        assert time.monotonic() - started < 10
        run.finish()
    assert "does not answer" in lines[0]


class _Server(http.server.ThreadingHTTPServer):
    """Enough of a W&B server to begin an online run; what is in `hanging` is never answered."""

    daemon_threads = True

    def __init__(self, hanging: set[str]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.hanging = hanging
        self.received = ""
        self.closing = threading.Event()


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server

    def do_HEAD(self) -> None:
        self._answer({})

    def do_GET(self) -> None:
        self._answer({})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0))).decode()
        self.server.received += body
        kind = self.path.rsplit("/", 1)[-1]
        if kind in self.server.hanging:
            self.server.closing.wait(60)
            return
        self._answer({"data": self._graphql(body)} if kind == "graphql" else {})

    do_PUT = do_POST  # noqa: N815

    def _graphql(self, body: str) -> dict[str, Any]:
        request = json.loads(body)
        variables = request.get("variables") or {}
        if "mutation UpsertBucket" in request["query"]:
            entity = {"id": "e", "name": "team"}
            project = {"id": "p", "name": "project", "entity": entity}
            bucket = {"id": "b", "name": variables["name"], "displayName": "a-name"}
            bucket |= {"config": "{}", "project": project, "historyLineCount": 0}
            return {"upsertBucket": {"bucket": bucket, "inserted": True}}
        if "mutation CreateRunFiles" in request["query"]:
            url = f"{self.server.url}/upload"
            files = [{"name": name, "uploadUrl": url} for name in variables["files"]]
            return {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}
        return {}

    def _answer(self, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing on the terminal of the tests."""


@pytest.fixture
def server(monkeypatch) -> Iterator[Callable[..., _Server]]:
    running: list[_Server] = []

    def serve(*hanging: str) -> _Server:
        running.append(_Server(set(hanging)))
        threading.Thread(target=running[-1].serve_forever, daemon=True).start()
        monkeypatch.setenv("WANDB_BASE_URL", running[-1].url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        return running[-1]

    yield serve
    # W&B goes first: its service would wait for a server that is gone.
    if wandb := sys.modules.get("wandb"):
        wandb.teardown()
    for one in running:
        one.closing.set()
        one.shutdown()
        one.server_close()


def test_a_key_and_a_server_make_an_online_run(start, server) -> None:
    receiver = server()
    run, lines = start()
    run.log(1, {"train/loss": 1.625})
    run.finish()
    assert lines == [f"W&B: online, {receiver.url}/team/project/runs/{run.run_id}"]
    assert r"\"train/loss\":1.625" in receiver.received


def test_a_server_that_the_working_folder_names_gets_no_key(
    start, server, tmp_path, monkeypatch
) -> None:
    """wandb/settings of a downloaded folder named a server, and W&B sent it the API key."""
    receiver = server()
    monkeypatch.delenv("WANDB_BASE_URL")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb/settings").write_text(f"[default]\nbase_url = {receiver.url}\n")
    run, lines = start()
    run.log(1, {"train/loss": 1.625})
    run.finish()
    assert f"offline, since wandb/settings sets base_url to {receiver.url}" in lines[0]
    assert receiver.received == ""


def test_an_upload_that_hangs_at_the_end_is_given_up(start, server, monkeypatch) -> None:
    monkeypatch.setattr(wandb_run, "FINISH_TIMEOUT_S", 2.0)
    server("file_stream")
    run, lines = start()
    run.log(1, {"train/loss": 1.0})
    started = time.monotonic()
    run.finish()
    assert time.monotonic() - started < 8
    assert len(lines) == 2
    assert "not everything was uploaded within 2 s" in lines[1]


SCRIPT = """
import sys
from pathlib import Path
from sharpgpt.config import TrainingConfig
from sharpgpt.runs.trackers import wandb as wandb_run
from sharpgpt.runtime.console import console_logging
assert "wandb" not in sys.modules
wandb_run.INIT_TIMEOUT_S = 2.0
console = console_logging()
console.__enter__()
run = wandb_run.start(
    TrainingConfig(), run_folder=Path(sys.argv[1]), run_id="abc", environment={}
)
run.log(1, {"train/loss": 1.5})
run.log_samples(1, [{"prompt": "a", "text": "ab", "settings": {}}])
if "finish" in sys.argv:
    run.finish()
print("the end")
"""


def test_a_server_that_hangs_at_init_delays_neither_start_nor_exit(server, tmp_path) -> None:
    """W&B's usage statistics once kept the program from ending for 20 s after such a server."""
    server("graphql", "metrics", "logs")
    started = time.monotonic()
    command = [sys.executable, "-c", SCRIPT, str(tmp_path), "finish"]
    environment = {**os.environ}
    del environment["WANDB_ERROR_REPORTING"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=True, env=environment
    )
    assert time.monotonic() - started < 15
    assert re.match("W&B: offline, since .* giving up after", done.stdout)
    (offline,) = tmp_path.glob("wandb/offline-run-*-abc")
    assert any(offline.glob("*.wandb"))


@pytest.mark.parametrize("finish", ["finish", "leave"])
def test_on_a_terminal_it_asks_nothing_and_prints_only_our_lines(tmp_path, finish) -> None:
    """A run left without `finish`, as by an exception, ends as quietly, whole, and as failed."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path), finish],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm-256color"},
    )
    os.close(theirs)
    output, deadline = b"", time.monotonic() + 30
    while time.monotonic() < deadline:
        if select.select([ours], [], [], 0.2)[0]:
            try:
                output += os.read(ours, 65536)
            except OSError:  # the terminal is closed: the process has ended
                break
    os.close(ours)
    try:
        assert process.wait(timeout=5) == 0
    finally:
        process.kill()
    lines = output.decode().replace("\r\n", "\n").strip().split("\n")
    assert len(lines) == 2, lines
    assert "there is no API key" in lines[0]
    assert lines[1] == "the end"
    assert list(tmp_path.rglob("output.log")) == [], "the terminal's text is captured"
    record = read_wandb(tmp_path)
    assert record.history[1]["train/loss"] == 1.5
    assert record.table(tmp_path, "samples", 1)[0]["text"] == "ab"
    assert record.exit_code == {"finish": 0, "leave": 1}[finish]


def test_a_service_that_is_killed_costs_one_line(tmp_path) -> None:
    """Its exit hook once ended a run that had succeeded with a traceback."""
    script = SCRIPT.replace(
        "run.log_samples",
        "import time, signal, os\n"
        "for child in Path(f'/proc/self/task/{os.getpid()}/children').read_text().split():\n"
        "    os.kill(int(child), signal.SIGKILL)\n"
        "for step in range(2, 60): run.log(step, {'train/loss': 1.0}); time.sleep(0.02)\n"
        "run.log_samples",
    )
    command = [sys.executable, "-c", script, str(tmp_path), "finish"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    first, *failed, last = done.stdout.splitlines()
    assert first.startswith("W&B: offline")
    assert len(failed) == 1
    assert "a call failed" in failed[0]
    assert last == "the end"


@pytest.mark.parametrize("how", ["setting", "switch", "environment"])
def test_disabled_makes_no_files_and_imports_nothing(start, tmp_path, monkeypatch, how) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    settings: dict[str, Any] = {}
    if how == "setting":
        settings = {"wandb_mode": "disabled"}
    elif how == "switch":
        settings = {"use_wandb": False}
    else:
        monkeypatch.setenv("WANDB_MODE", "disabled")
    run, lines = start(run_id="kept", **settings)
    assert (run, lines) == (None, [])
    assert not (tmp_path / "run").exists()
    monkeypatch.delitem(sys.modules, "wandb")


def test_a_sweep_keeps_its_own_run_and_project(start, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep1")
    monkeypatch.setenv("WANDB_RUN_ID", "agents")
    monkeypatch.setenv("WANDB_PROJECT", "sweeps-project")
    run, _ = start(wandb_mode="offline", run_id="ours", wandb_project="other")
    run.log(1, {"train/loss": 1.0})
    run.finish()
    record = read_wandb(tmp_path / "run")
    assert (run.run_id, record.run_id, record.project) == ("agents", "agents", "sweeps-project")


def test_the_project_of_the_environment_counts_unless_one_is_set(start, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "from-environment")
    run, _ = start(wandb_mode="offline")
    run.finish()
    assert read_wandb(tmp_path / "run").project == "from-environment"


def test_an_active_run_is_used_and_left_open(start, tmp_path) -> None:
    """As in the function of a sweep, which has called `wandb.init` before it trains."""
    import wandb

    folder = tmp_path / "theirs"
    folder.mkdir()
    settings = wandb.Settings(silent=True, console="off")
    theirs = wandb.init(mode="offline", dir=str(folder), settings=settings)
    run, lines = start(seed=11)
    run.log(1, {"train/loss": 1.25})
    run.finish()
    assert wandb.run is theirs
    theirs.finish()
    record = read_wandb(folder)
    assert lines == [f"W&B: tracked in the active run {theirs.id}"]
    assert (run.run_id, record.history[1]["train/loss"]) == (theirs.id, 1.25)
    assert record.config["seed"] == 11


def test_when_wandb_cannot_be_imported_the_run_goes_on(start, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    run, lines = start(run_id="kept")
    assert run is None
    assert len(lines) == 1
    assert lines[0].startswith("W&B: not tracked, since ")
    monkeypatch.delitem(sys.modules, "wandb")


class _BrokenRun:
    """A run whose every call but that of step 3 fails."""

    id = "broken"

    def __init__(self) -> None:
        self.logged: list[tuple[int, dict[str, float]]] = []

    def log(self, data: dict[str, float], step: int) -> None:
        if step != 3:
            raise RuntimeError("no\nluck")
        self.logged.append((step, data))

    def finish(self, **_: Any) -> None:
        raise RuntimeError("no luck at the end")


def test_failing_calls_are_logged_once_and_the_others_still_made(lines) -> None:
    broken = _BrokenRun()
    run = WandbRun(broken)
    for step in range(1, 6):
        run.log(step, {"train/loss": 1.0})
    run.summary({"a": 1})
    run.finish()
    assert broken.logged == [(3, {"train/loss": 1.0})]
    assert len(lines) == 1
    assert "a call failed (no luck)" in lines[0]
    run.log(9, {"train/loss": 1.0})
    run.finish()
    assert len(lines) == 1


class _StuckRun:
    """A run whose log never returns while `stuck` is set."""

    id = "stuck"

    class settings:  # noqa: N801
        sync_dir = "somewhere"

    def __init__(self) -> None:
        self.released = threading.Event()

    def log(self, *_: Any, **__: Any) -> None:
        self.released.wait(60)

    def finish(self, **_: Any) -> None:
        pass


def test_a_call_that_never_returns_stops_neither_training_nor_its_end(monkeypatch, lines) -> None:
    monkeypatch.setattr(wandb_run, "FINISH_TIMEOUT_S", 0.2)
    stuck = _StuckRun()
    run = WandbRun(stuck)
    started = time.monotonic()
    for step in range(100):
        run.log(step, {"train/loss": 1.0})
    run.finish()
    assert time.monotonic() - started < 5
    stuck.released.set()
    assert lines == [
        "W&B: not everything was uploaded within 0.2 s; "
        "upload the rest with: wandb sync --include-online somewhere"
    ]
