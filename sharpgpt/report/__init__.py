"""The page that tells what a run did, made from the files in its folder."""

from sharpgpt.report.page import write_report

__all__ = ["write_report"]
