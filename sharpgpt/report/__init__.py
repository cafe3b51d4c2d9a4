"""Runs, evaluations and comparisons as self-contained HTML pages."""
