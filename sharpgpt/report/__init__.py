"""Pages that tell what runs did, made from the files in their folders."""

from sharpgpt.report.page import write_report
from sharpgpt.report.runs import write_runs_report

__all__ = ["write_report", "write_runs_report"]
