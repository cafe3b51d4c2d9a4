"""How a run ended: summary.json, the report, what `train` returns and the last lines it logs."""

import logging
from dataclasses import dataclass
from pathlib import Path

from sharpgpt.core.files import os_error_text
from sharpgpt.core.jsonio import write_json
from sharpgpt.core.metrics import metrics_shown
from sharpgpt.core.numbers import counted, plain
from sharpgpt.report.page import write_report
from sharpgpt.training.state import Training

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunResult:
    """Where the results of a run are, and its last metrics (`train/*` and `val/*`)."""

    run_folder: Path
    report: Path | None
    samples: Path
    checkpoint: Path | None
    step: int
    metrics: dict[str, float]
    interrupted_by: int | None = None
    """The signal that ended the run before all was done; None for a complete run."""
    signal_number: int | None = None
    """The signal that arrived, even if the run was complete by then."""

    def text(self, num_steps: int, first_step: int = 0) -> str:
        """The last lines of the log, of a run that began or was resumed at `first_step`."""
        if self.interrupted_by:
            lines = [f"Interrupted after step {self.step:,} of {num_steps:,}; saved"]
        elif first_step >= num_steps:
            lines = [
                f"Nothing was left to train: the checkpoint is of step {first_step:,}, and the run "
                f"ends at step {num_steps:,}; a larger max_steps or num_epochs continues it"
            ]
        else:
            resumed = f", {num_steps - first_step:,} of them now" if first_step else ""
            lines = [f"Finished {counted(self.step, 'step')}{resumed}"]
        for split in ("train", "val"):
            logged = [
                f"{metric.name} {plain(metric.text(self.metrics[f'{split}/{metric.name}']))}"
                for metric in metrics_shown("last lines")
                if f"{split}/{metric.name}" in self.metrics
            ]
            if logged:
                lines.append(f"  {split:<11}{'  '.join(logged)}")
        paths = {
            "report": self.report,
            "samples": self.samples if self.samples.exists() else None,
            "checkpoint": self.checkpoint,
        }
        lines += [f"  {name:<11}{path}" for name, path in paths.items() if path]
        return "\n".join(lines)


def conclude(run: Training, *, exit_code: int, signal_number: int | None = None) -> RunResult:
    """Close what is open; on rank 0, write the summary and the report. Hides no earlier error."""
    outputs, progress = run.outputs, run.progress
    outputs.saver.close()
    try:
        report = _write_summary_and_report(run) if run.processes.is_main else None
    finally:
        outputs.log.finish(exit_code)
    is_complete = progress.step >= run.plan.total_steps and not progress.due
    return RunResult(
        run_folder=outputs.folder,
        report=report,
        samples=outputs.log.records.samples.path,
        checkpoint=outputs.saver.last_saved,
        step=progress.step,
        metrics=dict(outputs.log.records.latest),
        interrupted_by=None if is_complete else signal_number,
        signal_number=signal_number,
    )


def _write_summary_and_report(run: Training) -> Path | None:
    outputs, progress = run.outputs, run.progress
    last_saved = outputs.saver.last_saved
    summary = {
        "step": progress.step,
        "num_steps": run.plan.total_steps,
        "time_s": round(outputs.log.records.elapsed_s(), 1),
        "startup_s": outputs.startup.phases,
        "checkpoint": last_saved.name if last_saved else None,
        "best": progress.best.model_dump() if progress.best else None,
        **outputs.log.records.latest,
    }
    try:
        write_json(outputs.folder / "summary.json", summary, indent=2)
        return write_report(outputs.folder)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        if isinstance(error, OSError):
            reason = os_error_text(error)
        logger.warning("the report could not be written: %s", reason)
        return None
