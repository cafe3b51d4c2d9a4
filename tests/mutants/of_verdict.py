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
    *mutants(
        "sharpgpt/evaluation/power.py",
        ["tests/evaluation/test_power.py"],
        (
            "seeds and text alone, without the wider of the two",
            "return np.maximum(alone, of_both)",
            "return of_both",
        ),
        ("arms do not share the error rate", "1 - error_rate / num_arms", "1 - error_rate"),
        (
            "the rest is no part of what varies between seeds",
            "seeds = (seed_variance + rest_variance) / num_seeds",
            "seeds = seed_variance / num_seeds",
        ),
        (
            "the variance of a text falls with the seeds",
            "text = text_variance +",
            "text = text_variance / num_seeds +",
        ),
        (
            "the quantiles of chi-squared are exchanged",
            "float(np.exp(-end)) for end in ends",
            "float(np.exp(end)) for end in ends",
        ),
    ),
    *mutants(
        "sharpgpt/evaluation/pilot.py",
        ["tests/evaluation/test_pilot.py"],
        (
            "a longer text does not help",
            "text_variance=variances.text * times",
            "text_variance=variances.text",
        ),
        ("the narrowest control", "return max(found, key", "return min(found, key"),
        (
            "the rest counts twice",
            'text=max(0.0, float(control["text_error"]) ** 2 - shared)',
            'text=float(control["text_error"]) ** 2',
        ),
        ("one too few", "bad, good = (bad, middle) if", "bad, good = (bad, middle - 1) if"),
    ),
]
