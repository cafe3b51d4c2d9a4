"""The committed form of a comparison: what `sharpgpt compare` wrote, without its longest parts.

Kept for every run: its name, seed, step and penalty, the settings (in full for the first baseline
run, then only those that differ from it), all metrics with their intervals, the fitted temperature,
the calibration errors and the metrics of the generated texts. Kept for every arm: the verdict,
every control and difference with its interval and its value for each seed. The baseline keeps its
cross-entropy and entropy at each temperature. Dropped: those curves of the other arms, calibration
bins, buckets by position, frequency and entropy, and the generated texts. Numbers keep six
significant digits. Compacting twice changes nothing.
"""

import json
from typing import Any

Json = dict[str, Any]

SIGNIFICANT_DIGITS = 6


def compact(comparison: Json) -> Json:
    """The committed form of the content of a comparison.json."""
    baseline, models = comparison["baseline"], comparison["models"]
    shared = baseline["runs"][0]["settings"]
    runs = [_compact_run(run, shared, with_curve=True) for run in baseline["runs"]]
    runs[0]["settings"] = shared
    return _rounded(
        {
            **comparison,
            "baseline": {**baseline, "runs": runs},
            "models": [
                {**arm, "runs": [_compact_run(run, shared) for run in arm["runs"]]}
                for arm in models
            ],
        }
    )


def _compact_run(run: Json, shared: Json, *, with_curve: bool = False) -> Json:
    dropped = () if with_curve else ("curve",)
    different = {
        name: value
        for name, value in run["settings"].items()
        if name not in shared or value != shared[name]
    }
    return _without(
        run
        | {
            "settings": different,
            "temperature": _without(run["temperature"], *dropped),
            "calibration": {
                name: errors and _without(errors, "bins")
                for name, errors in run["calibration"].items()
            },
            "generation": run["generation"]
            and _without(run["generation"], "samples", "entropy_by_position"),
        },
        "buckets",
    )


def _without(content: Json, *names: str) -> Json:
    return {name: value for name, value in content.items() if name not in names}


def _rounded(content: Any) -> Any:
    """The same content, every float with `SIGNIFICANT_DIGITS` significant digits."""
    if isinstance(content, dict):
        return {name: _rounded(value) for name, value in content.items()}
    if isinstance(content, list):
        return [_rounded(value) for value in content]
    if isinstance(content, float):
        return float(f"{content:.{SIGNIFICANT_DIGITS}g}")
    return content


def to_text(comparison: Json) -> str:
    """JSON without spaces; each part, each arm and each run has a line of its own."""
    parts = []
    for name, value in comparison.items():
        if name == "baseline":
            written = _arm(value)
        elif name == "models":
            written = "[\n" + ",\n".join(map(_arm, value)) + "\n]"
        else:
            written = _dumped(value)
        parts.append(f"{_dumped(name)}:{written}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _arm(arm: Json) -> str:
    """An arm without its runs on one line, then its runs, a line each."""
    head = _dumped(_without(arm, "runs")).removesuffix("}")
    return head + ',"runs":[\n' + ",\n".join(map(_dumped, arm["runs"])) + "\n]}"


def _dumped(content: Any) -> str:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
