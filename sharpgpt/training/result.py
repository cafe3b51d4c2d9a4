"""How a run ended: what `train` returns, summary.json and the report, the last lines printed."""

from dataclasses import dataclass
from pathlib import Path

from sharpgpt.core.jsonio import write_json
from sharpgpt.core.metrics import metrics_shown
from sharpgpt.report.page import write_report
from sharpgpt.training.startup import Startup
from sharpgpt.training.state import Training


@dataclass(frozen=True)
class RunResult:
    """Where the results of a run are, and its last figures (`train/*` and `val/*`)."""

    run_folder: Path
    report: Path | None
    samples: Path
    checkpoint: Path | None
    step: int
    metrics: dict[str, float]
    interrupted_by: int | None = None
    """The signal that ended the run before all was done; None for a run that is complete."""

    def text(self, num_steps: int) -> str:
        """What a person is told at the end."""
        lines = [
            f"Interrupted after step {self.step} of {num_steps}; saved"
            if self.interrupted_by
            else f"Finished {self.step} steps"
        ]
        for split in ("train", "val"):
            names = [metric.name for metric in metrics_shown("last lines")]
            logged = [
                f"{name} {self.metrics[f'{split}/{name}']:.4f}"
                for name in names
                if f"{split}/{name}" in self.metrics
            ]
            if logged:
                lines.append(f"  {split:<11}{'  '.join(logged)}")
        places = {
            "report": self.report,
            "samples": self.samples if self.samples.exists() else None,
            "checkpoint": self.checkpoint,
        }
        lines += [f"  {name:<11}{path}" for name, path in places.items() if path]
        return "\n".join(lines)


def conclude(
    run: Training,
    run_folder: Path,
    startup: Startup,
    *,
    exit_code: int,
    signal_number: int | None = None,
) -> RunResult:
    """Write the summary and the report, close W&B; nothing in here may hide how the run ended."""
    run.saver.close()
    last_saved = run.saver.last_saved
    summary = {
        "step": run.step,
        "num_steps": run.total_steps,
        "time_s": round(run.log.records.elapsed_s(), 1),
        "startup_s": startup.phases,
        "checkpoint": last_saved.name if last_saved else None,
        "best": run.best.model_dump() if run.best else None,
        **run.log.records.latest,
    }
    report = None
    try:
        write_json(run_folder / "summary.json", summary, indent=2)
        report = write_report(run_folder)
    except Exception as error:
        run.terminal.say(f"NOTE: the report could not be written: {type(error).__name__}: {error}")
    run.log.finish(exit_code)
    is_complete = run.step == run.total_steps and not run.due
    return RunResult(
        run_folder=run_folder,
        report=report,
        samples=run.log.records.samples.path,
        checkpoint=last_saved,
        step=run.step,
        metrics=dict(run.log.records.latest),
        interrupted_by=None if is_complete else signal_number,
    )


def follower_result(run: Training, folder: Path, *, signal_number: int | None) -> RunResult:
    """Of a process that is not the first of its run: it has written nothing to look at."""
    run.saver.close()
    return RunResult(
        run_folder=folder,
        report=None,
        samples=run.log.records.samples.path,
        checkpoint=None,
        step=run.step,
        metrics={},
        interrupted_by=None if run.step == run.total_steps else signal_number,
    )
