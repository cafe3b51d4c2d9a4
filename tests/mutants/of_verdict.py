"""Mistakes in the rule of the verdict, its correction for several arms, and its power."""

from tests.mutants.mutant import mutants

VERDICT = [
    *mutants(
        "sharpgpt/evaluation/verdict.py",
        ["tests/evaluation/test_verdict.py"],
        (
            "better against one control is enough",
            "max(one.p_value for one",
            "min(one.p_value for one",
        ),
        (
            "worse needs the maps too",
            "needed = [*comparisons.values()] if main.estimate < 0 else [main]",
            "needed = [*comparisons.values()]",
        ),
        (
            "the margin is no part of the null",
            "_p_value(abs(mean) - margin,",
            "_p_value(abs(mean),",
        ),
        ("Bonferroni in place of Holm", "(len(p_values) - rank) *", "len(p_values) *"),
        ("Hochberg in place of Holm", "largest = max(largest, min(", "largest = max(0.0, min("),
        (
            "what was not compared is evidence",
            "p_value=1.0 if note else _p_value",
            "p_value=_p_value",
        ),
    ),
]
