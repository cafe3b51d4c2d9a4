"""A run tracked in Weights & Biases that never asks, never makes training wait, never ends it.

Left alone, `wandb.init` prompts for a key on a terminal, raises without one, and waits for minutes
when there is a key and no network. So `WandbRun.start` decides first: online needs a key and a
server that answers a plain HTTP request within seconds; otherwise the run is tracked offline, with
one line that says why and how to upload it later. If W&B fails after that, the run goes on without.

Logging blocks too: each `wandb.Table` of an online run asks the server something. All calls are
therefore handed to one thread, in order, and the training loop only ever puts them into a queue.

Everything is logged with `step=`, W&B's own step axis, to which every panel defaults; calls with
the same step share one row, and no `define_metric` is needed. A run that is resumed from an earlier
checkpoint repeats steps that W&B already has: it keeps the first version of those.
"""

import atexit
import os
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sharpgpt.config import TrainingConfig

PROBE_TIMEOUT_S = 3.0
"""Seconds that the W&B server has to answer one HTTP request before the run goes offline."""

INIT_TIMEOUT_S = 10.0
"""Seconds for the server to register an online run before it goes offline."""

FINISH_TIMEOUT_S = 30.0
"""Seconds at the end of a run to upload what is left."""

MAX_SAMPLE_ROWS = 500
"""Rows of the sample table; it is uploaded whole each time, so its size is bounded."""

Say = Callable[[str], None]
SAMPLE_COLUMNS = ["step", "prompt", "text", "temperature", "top_p"]


class WandbRun:
    """One run in Weights & Biases, or nothing at all when tracking is off. Made by `start`."""

    def __init__(
        self, run: Any, *, run_id: str | None, say: Say, staging: str = "", owned: bool = True
    ) -> None:
        self.run_id = run_id
        self._run = run
        self._say = say
        self._staging = staging
        self._owned = owned
        self._warned = False
        self._sample_rows: list[list[Any]] = []
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        if run is not None:
            self._thread = threading.Thread(target=self._work, name="wandb calls", daemon=True)
            self._thread.start()
            # Runs before W&B's own exit hook, which would cut off the calls still queued.
            atexit.register(self._finish_at_exit)

    @classmethod
    def start(
        cls,
        config: TrainingConfig,
        *,
        run_folder: Path,
        run_name: str,
        run_id: str | None,
        say: Say,
        extra_config: Mapping[str, Any],
    ) -> "WandbRun":
        """Begin tracking, or continue the run `run_id`; W&B's files go to `run_folder`/wandb.

        A W&B run that is already active in this process (a sweep's function that has called
        `wandb.init`) is used and left open. A sweep agent's project and run id are kept. `say`
        receives one line about where the run is tracked. Raises nothing.
        """
        mode = config.wandb_mode
        if mode == "auto":
            mode = os.environ.get("WANDB_MODE", mode)  # type: ignore[assignment]
        if not config.use_wandb or mode == "disabled":
            return cls(None, run_id=run_id, say=say)
        # Usage statistics that wandb sends make the program hang at exit when the server does not
        # answer. The variable is read at import.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        folder = run_folder.resolve()
        staging = str(folder / "wandb")
        try:
            run, owned = _begin(config, mode, folder, run_name, run_id, say, extra_config)
        except Exception as error:
            say(f"W&B: not tracked, since {_words(error)}; metrics.jsonl has all figures")
            return cls(None, run_id=run_id, say=say)
        return cls(run, run_id=run.id if run else run_id, say=say, staging=staging, owned=owned)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log figures by name. Calls with one step add to the same row."""
        kept = dict(metrics)
        self._log(step, lambda: kept)

    def log_histogram(self, step: int, name: str, counts: Sequence[float]) -> None:
        """Log counts over `len(counts)` equal bins of [0, 1]."""
        kept = [float(count) for count in counts]
        edges = [index / len(kept) for index in range(len(kept) + 1)]

        def histogram() -> dict[str, Any]:
            import wandb

            return {name: wandb.Histogram(np_histogram=(kept, edges))}

        self._log(step, histogram)

    def log_samples(self, step: int, samples: Sequence[Mapping[str, Any]]) -> None:
        """Log generated texts: mappings with prompt, text and settings (temperature, top_p).

        W&B shows the newest table of a name, so the table `samples` grows: it holds the samples of
        all steps, newest first, to be filtered and sorted by any column.
        """
        rows = []
        for sample in samples:
            settings = sample.get("settings", {})
            figures = [settings.get("temperature"), settings.get("top_p")]
            rows.append([step, sample["prompt"], sample["text"], *figures])
        self._sample_rows = (rows + self._sample_rows)[:MAX_SAMPLE_ROWS]
        kept = list(self._sample_rows)

        def table() -> dict[str, Any]:
            import wandb

            return {"samples": wandb.Table(columns=SAMPLE_COLUMNS, data=kept)}

        self._log(step, table)

    def summary(self, figures: Mapping[str, Any]) -> None:
        """Set the run's final figures, which W&B shows in the table of runs."""
        run, kept = self._run, dict(figures)
        if run is not None:
            self._calls.put(lambda: run.summary.update(kept))

    def finish(self, exit_code: int = 0) -> None:
        """End tracking: upload what is left, for at most `FINISH_TIMEOUT_S`. May be called twice.

        An `exit_code` other than 0 marks the run as failed, which also happens to a run that is
        not finished when the program ends.
        """
        run, thread, self._run = self._run, self._thread, None
        if run is None or thread is None:
            return
        atexit.unregister(self._finish_at_exit)
        if self._owned:
            self._calls.put(lambda: self._finish_run(run, exit_code))
            self._calls.put(self._forget_broken_service)
        self._calls.put(None)
        thread.join(1.2 * FINISH_TIMEOUT_S)
        if thread.is_alive():
            self._say(_unfinished(run))
        if os.environ.get("WANDB_DATA_DIR") == self._staging:
            del os.environ["WANDB_DATA_DIR"]

    def _finish_at_exit(self) -> None:
        """End a run that nobody ended, as after an exception."""
        self.finish(exit_code=1)

    def _finish_run(self, run: Any, exit_code: int) -> None:
        try:
            run.finish(exit_code=exit_code)
        except TimeoutError:
            self._say(_unfinished(run))

    def _forget_broken_service(self) -> None:
        """W&B's process may have died; its exit hook would say so in a traceback."""
        if self._warned:
            import wandb

            wandb.teardown()

    def _log(self, step: int, data: Callable[[], dict[str, Any]]) -> None:
        run = self._run
        if run is not None:
            self._calls.put(lambda: run.log(data(), step=step))

    def _work(self) -> None:
        """Make the queued calls, one after the other, until None comes."""
        while (call := self._calls.get()) is not None:
            try:
                call()
            except Exception as error:
                if not self._warned:
                    self._warned = True
                    self._say(
                        f"W&B: a call failed ({_words(error)}); training goes on, "
                        "metrics.jsonl has all figures"
                    )


def _begin(
    config: TrainingConfig,
    mode: str,
    run_folder: Path,
    run_name: str,
    run_id: str | None,
    say: Say,
    extra_config: Mapping[str, Any],
) -> tuple[Any | None, bool]:
    """The W&B run (None when W&B's own settings say disabled), and whether it is ours to end."""
    import wandb

    run_config = {**config.to_dict(), **extra_config}
    if wandb.run is not None:
        wandb.run.config.update(run_config, allow_val_change=True)
        say(f"W&B: tracked in the active run {wandb.run.id}")
        return wandb.run, False
    run_folder.mkdir(parents=True, exist_ok=True)
    session = wandb.setup(wandb.Settings(silent=True)).settings
    if mode == "auto":
        mode = session.mode  # from `wandb offline`, `wandb disabled` or W&B's own default, online
    if mode == "disabled":
        return None, False
    arguments = {
        "dir": str(run_folder),
        "config": run_config,
        "settings": wandb.Settings(
            silent=True,
            console="off",
            init_timeout=INIT_TIMEOUT_S,
            finish_timeout=FINISH_TIMEOUT_S,
            finish_timeout_raises=True,
        ),
        **_identity(config, run_name, run_id),
    }
    reason = "as asked"
    if mode not in ("offline", "dryrun"):
        reason = _obstacle(session.base_url)
        if not reason:
            try:
                run = wandb.init(mode="online", **arguments)
                say(f"W&B: online, {run.url}")
                return run, True
            except Exception as error:
                reason = f"since {_words(error)}"
                # The service holds on to the failed attempt and its run id; a new one does not.
                wandb.teardown()
    # Tables of an offline run wait for their upload here instead of in the home folder.
    os.environ.setdefault("WANDB_DATA_DIR", str(run_folder / "wandb"))
    run = wandb.init(mode="offline", **arguments)
    say(f"W&B: offline, {reason}; upload later with: wandb sync {run.settings.sync_dir}")
    return run, True


def _identity(config: TrainingConfig, run_name: str, run_id: str | None) -> dict[str, Any]:
    """Name, project, team and id of the run, except what a sweep or the environment decides."""
    environment = os.environ
    identity: dict[str, Any] = {} if "WANDB_NAME" in environment else {"name": run_name}
    if "WANDB_SWEEP_ID" in environment:
        return identity
    is_default = config.wandb_project == TrainingConfig().wandb_project
    if not (is_default and "WANDB_PROJECT" in environment):
        identity["project"] = config.wandb_project
    if config.wandb_entity is not None:
        identity["entity"] = config.wandb_entity
    if run_id is not None and "WANDB_RUN_ID" not in environment:
        identity |= {"id": run_id, "resume": "allow"}
    return identity


def _obstacle(base_url: str) -> str:
    """Why the run cannot be online, or an empty string."""
    import wandb

    if not wandb.login(prompt=False, verify=False):
        return "since there is no API key (get one with `wandb login`, or set WANDB_API_KEY)"
    if not _answers(base_url):
        return f"since {urlsplit(base_url).netloc} does not answer"
    return ""


def _answers(url: str) -> bool:
    """Whether the server at `url` answers a request at all, in time; proxies are honoured."""
    import httpx

    unreachable = []

    def ask() -> None:
        try:
            # Nothing secret is sent, and wandb judges certificates by its own rules.
            httpx.head(url, timeout=PROBE_TIMEOUT_S, verify=False)
        except httpx.TransportError as error:
            unreachable.append(error)

    # In a thread, since the look-up of a name may take half a minute and knows no time limit.
    thread = threading.Thread(target=ask, name="wandb probe", daemon=True)
    thread.start()
    thread.join(PROBE_TIMEOUT_S + 1)
    return not thread.is_alive() and not unreachable


def _unfinished(run: Any) -> str:
    return (
        f"W&B: not everything was uploaded within {FINISH_TIMEOUT_S:g} s; "
        f"upload the rest with: wandb sync --include-online {run.settings.sync_dir}"
    )


def _words(error: Exception) -> str:
    """What an exception says, on one line, short."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 160 else text[:157] + "..."
