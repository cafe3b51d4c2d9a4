"""Weights & Biases as a tracker that never prompts, never blocks training, never ends the run.

By default `wandb.init` prompts for a key on a terminal, raises without one, and waits for minutes
when there is a key and no network. So `start` decides first: online needs a key and a server that
answers a plain HTTP request within seconds; otherwise the run is tracked offline, and one line says
why and how to upload it later. If W&B fails after that, the run continues without it.

Logging blocks too: each `wandb.Table` of an online run sends a request. All calls are therefore
made in order by one thread, and the training loop only puts them into a queue.

Everything is logged with `step=`, W&B's default step axis: calls with the same step share one row.
W&B keeps the first version of a step that is logged twice, as after a resume from an earlier
checkpoint.
"""

import atexit
import contextlib
import logging
import os
import queue
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sharpgpt.config import TrainingConfig
from sharpgpt.core.jsonio import read_bytes

logger = logging.getLogger(__name__)

PROBE_TIMEOUT_S = 3.0
"""Seconds that the W&B server has to answer one HTTP request before the run goes offline."""

INIT_TIMEOUT_S = 10.0
"""Seconds for the server to register an online run before it goes offline."""

FINISH_TIMEOUT_S = 30.0
"""Seconds at the end of a run to upload what is left."""

MAX_SAMPLE_ROWS = 500
"""Rows of the sample table; it is uploaded whole each time, so its size is bounded."""

SAMPLE_COLUMNS = ["step", "prompt", "text", "temperature", "top_p"]


def start(
    config: TrainingConfig, *, run_folder: Path, run_id: str | None, environment: Mapping[str, Any]
) -> "WandbRun | None":
    """Begin tracking, or continue the run `run_id`; W&B's files go to `run_folder`/wandb.

    A W&B run that is already active in this process (a sweep's function that has called
    `wandb.init`) is used and left open. A sweep agent's project and run id are kept. Logs one line
    about where the run is tracked. Raises nothing.
    """
    try:
        return _start(config, run_folder.resolve(), run_id, environment)
    except Exception as error:
        logger.info("W&B: not tracked, since %s; metrics.jsonl has all metrics", _reason(error))
        return None


class WandbRun:
    """One run in Weights & Biases. Unless it is `owned`, `finish` leaves it open."""

    def __init__(self, run: Any, *, owned: bool = True, data_dir: str = "") -> None:
        self.run_id: str | None = run.id
        self._run = run
        self._owned = owned
        self._data_dir = data_dir
        self._is_finished = False
        self._has_failed = False
        self._sample_rows: list[list[Any]] = []
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="wandb calls", daemon=True)
        self._thread.start()
        # Runs before W&B's own exit hook, which would cut off the calls still queued.
        atexit.register(self.finish, 1)

    def log(
        self,
        step: int,
        metrics: Mapping[str, float],
        histograms: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        """Log metrics, and counts over equal bins of [0, 1]. Calls with one step share a row."""
        row: dict[str, Any] = dict(metrics)

        def log() -> None:
            import wandb

            for name, counts in (histograms or {}).items():
                edges = [index / len(counts) for index in range(len(counts) + 1)]
                row[name] = wandb.Histogram(np_histogram=([float(n) for n in counts], edges))
            self._run.log(row, step=step)

        self._put(log)

    def log_samples(self, step: int, samples: Sequence[Mapping[str, Any]]) -> None:
        """Log generated texts: mappings with prompt, text and settings (temperature, top_p).

        W&B shows the newest table of a name, so the table `samples` grows: it holds the samples of
        all steps, newest first, to be filtered and sorted by any column.
        """
        columns = ({"step": step, **sample, **sample.get("settings", {})} for sample in samples)
        rows = [[values.get(name) for name in SAMPLE_COLUMNS] for values in columns]
        self._sample_rows = rows = (rows + self._sample_rows)[:MAX_SAMPLE_ROWS]

        def log() -> None:
            import wandb

            table = wandb.Table(columns=SAMPLE_COLUMNS, data=rows)
            self._run.log({"samples": table}, step=step)

        self._put(log)

    def summary(self, metrics: Mapping[str, float]) -> None:
        """Set the run's final metrics, which W&B shows in the table of runs."""
        kept = dict(metrics)
        self._put(lambda: self._run.summary.update(kept))

    def finish(self, exit_code: int = 0) -> None:
        """End tracking: upload what is left, for at most `FINISH_TIMEOUT_S`. May be called twice.

        An `exit_code` other than 0 marks the run as failed, as does a program that ends without
        this call.
        """
        if self._is_finished:
            return
        if self._owned:
            self._put(lambda: self._finish_run(exit_code))
        self._put(None)
        self._is_finished = True
        atexit.unregister(self.finish)
        self._thread.join(1.2 * FINISH_TIMEOUT_S)
        if self._thread.is_alive():
            self._warn_unfinished()
        if os.environ.get("WANDB_DATA_DIR") == self._data_dir:
            del os.environ["WANDB_DATA_DIR"]

    def _put(self, call: Callable[[], None] | None) -> None:
        if not self._is_finished:
            self._calls.put(call)

    def _finish_run(self, exit_code: int) -> None:
        try:
            self._run.finish(exit_code=exit_code)
        except TimeoutError:
            self._warn_unfinished()

    def _warn_unfinished(self) -> None:
        logger.info(
            "W&B: not everything was uploaded within %g s; upload the rest with: "
            "wandb sync --include-online %s",
            FINISH_TIMEOUT_S,
            self._run.settings.sync_dir,
        )

    def _work(self) -> None:
        """Make the queued calls, one after the other, until None comes."""
        while (call := self._calls.get()) is not None:
            try:
                call()
            except Exception as error:
                if not self._has_failed:
                    logger.info(
                        "W&B: a call failed (%s); training continues, metrics.jsonl has everything",
                        _reason(error),
                    )
                self._has_failed = True
        if self._owned and self._has_failed:
            import wandb

            # W&B's process may have died; its exit hook would print a traceback about that.
            with contextlib.suppress(Exception):
                wandb.teardown()


def _start(
    config: TrainingConfig, folder: Path, run_id: str | None, environment: Mapping[str, Any]
) -> WandbRun | None:
    """The W&B run, or None when tracking is disabled."""
    mode: str = config.wandb_mode
    if mode == "auto":
        mode = os.environ.get("WANDB_MODE", mode)
    if mode == "disabled":
        return None
    # W&B's usage statistics make the program hang at exit when the server does not answer. The
    # variable is read at import.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb

    run_config = {**config.to_dict(), **environment}
    if wandb.run is not None:
        wandb.run.config.update(run_config, allow_val_change=True)
        logger.info("W&B: tracked in the active run %s", wandb.run.id)
        return WandbRun(wandb.run, owned=False)
    foreign = _connection_of_working_folder()
    folder.mkdir(parents=True, exist_ok=True)
    session = wandb.setup(wandb.Settings(silent=True)).settings
    if mode == "auto":
        mode = session.mode  # from `wandb offline`, `wandb disabled` or W&B's own default, online
    if mode == "disabled":
        return None
    arguments = {
        "dir": str(folder),
        "config": run_config,
        "settings": wandb.Settings(
            silent=True,
            console="off",
            init_timeout=INIT_TIMEOUT_S,
            finish_timeout=FINISH_TIMEOUT_S,
            finish_timeout_raises=True,
        ),
        **_identity(config, folder.name, run_id),
    }
    if mode in ("offline", "dryrun"):
        reason = "as asked"
    elif foreign:
        reason = f"since {foreign}, and such a file may come from anyone (set WANDB_BASE_URL)"
    elif not wandb.login(prompt=False, verify=False):
        reason = "since there is no API key (get one with `wandb login`, or set WANDB_API_KEY)"
    elif not _answers(session.base_url):
        reason = f"since {urlsplit(session.base_url).netloc} does not answer"
    else:
        try:
            run = wandb.init(mode="online", **arguments)
            logger.info("W&B: online, %s", run.url)
            return WandbRun(run)
        except Exception as error:
            reason = f"since {_reason(error)}"
            # The service holds on to the failed attempt and its run id; a new one does not.
            wandb.teardown()
    # Tables of an offline run wait for their upload here instead of in the home folder.
    data_dir = str(folder / "wandb")
    os.environ.setdefault("WANDB_DATA_DIR", data_dir)
    run = wandb.init(mode="offline", **arguments)
    logger.info("W&B: offline, %s; upload later with: wandb sync %s", reason, run.settings.sync_dir)
    return WandbRun(run, data_dir=data_dir)


def _identity(config: TrainingConfig, run_name: str, run_id: str | None) -> dict[str, Any]:
    """Name, project, team and id of the run, except what a sweep or the environment decides."""
    identity: dict[str, Any] = {} if "WANDB_NAME" in os.environ else {"name": run_name}
    if "WANDB_SWEEP_ID" in os.environ:
        return identity
    is_default = config.wandb_project == TrainingConfig().wandb_project
    if not (is_default and "WANDB_PROJECT" in os.environ):
        identity["project"] = config.wandb_project
    if config.wandb_entity is not None:
        identity["entity"] = config.wandb_entity
    if run_id is not None and "WANDB_RUN_ID" not in os.environ:
        identity |= {"id": run_id, "resume": "allow"}
    return identity


def _connection_of_working_folder() -> str | None:
    """What wandb/settings of the working folder says about the server, which would get the API key.

    Raises ValueError, OSError for one that cannot be read; W&B waits for a pipe.
    """
    for name in ("wandb", ".wandb"):
        path = Path(os.environ.get("WANDB_DIR") or ".", name, "settings")
        try:
            text = read_bytes(path, max_bytes=1 << 16).decode()
        except (FileNotFoundError, NotADirectoryError):
            continue
        found = re.search(r"(?im)^\s*(base_url|app_url|\w*proxy|\w*ssl)\s*[=:]\s*(.*)", text)
        if found and "WANDB_BASE_URL" not in os.environ:
            return f"{path} sets {found[1]} to {found[2][:80]}"
    return None


def _answers(url: str) -> bool:
    """Whether the server at `url` answers any request in time; proxies are honoured."""
    import httpx

    answered = threading.Event()

    def ask() -> None:
        # Nothing secret is sent, and wandb checks certificates by its own rules.
        with contextlib.suppress(Exception):
            httpx.head(url, timeout=PROBE_TIMEOUT_S, verify=False)
            answered.set()

    # In a thread, since a DNS lookup may take half a minute and has no timeout.
    probe = threading.Thread(target=ask, name="wandb probe", daemon=True)
    probe.start()
    probe.join(PROBE_TIMEOUT_S + 1)
    return answered.is_set()


def _reason(error: Exception) -> str:
    """The message of an exception on one short line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 160 else text[:157] + "..."
