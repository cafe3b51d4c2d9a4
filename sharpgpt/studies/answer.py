"""study.json: the answer of a study, and what was not done."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sharpgpt.core.jsonio import read_object
from sharpgpt.core.numbers import counted

VERSION = 1
OF_RUNS = ("val/ce_loss", "val/penalty", "val/entropy", "val/avg_max_prob", "val/accuracy")
"""Of the last validation of each run."""


def answer(
    comparison: Mapping[str, Any],
    *,
    runs: Sequence[Mapping[str, Any]],
    declaration: Mapping[str, Any] | None,
    question: str = "",
    seconds: float,
) -> dict[str, Any]:
    """The content of study.json. All that depends on the moment is under `times`.

    `runs` are `facts_of_run`. Without a declaration the runs were found, and not declared.
    """
    declared = declaration["declared"] if declaration else {}
    commits = sorted({str(run["commit"] or "unknown") for run in runs})
    return {
        "version": VERSION,
        "question": declared.get("question", question),
        "declaration": {n: v for n, v in declaration.items() if n != "written"}
        if declaration
        else None,
        "runs": [{n: v for n, v in run.items() if n != "commit"} for run in runs],
        "commits_of_runs": commits,
        "arms": [_arm(model) for model in comparison["models"]],
        "margin": comparison["margin"],
        "error_rate": comparison["error_rate"],
        "data": comparison["data"],
        "not_done": [*_not_done(comparison, declared, commits)],
        "files": {"comparison": "comparison.json", "page": "study.html"},
        "times": {
            "declared": declaration.get("written") if declaration else None,
            "seconds_of_last_start": round(seconds, 1),
        },
    }


def facts_of_run(
    folder: Path, *, arm: str, seed: int | None, num_tokens: int | None = None
) -> dict[str, Any]:
    """What study.json says of a run."""
    summary = read_object(folder / "summary.json", allow_nan=True)
    environment = read_object(folder / "environment.json")
    return {
        "arm": arm,
        "seed": seed,
        "folder": str(folder),
        "step": summary.get("step"),
        "num_tokens": num_tokens,
        "dtype": (environment.get("hardware") or {}).get("dtype"),
        **{name: summary[name] for name in OF_RUNS if name in summary},
        "commit": environment.get("commit"),
    }


def _arm(model: Mapping[str, Any]) -> dict[str, Any]:
    names = ("name", "verdict", "sentence", "num_seeds", "controls", "best_temperatures",
             "unchanged_by_temperature", "p_value", "corrected")  # fmt: skip
    return {name: model[name] for name in names if name in model}


def _not_done(
    comparison: Mapping[str, Any], declared: Mapping[str, Any], commits: Sequence[str]
) -> Iterator[str]:
    """What a reader may miss, from the facts of the study."""
    for arm in comparison["models"]:
        for name, control in (arm.get("controls") or {}).items():
            if note := control.get("note"):
                yield f"{arm['name']} was not compared with the {name}: {note}."
        if arm.get("num_seeds") == 1:
            yield f"{arm['name']}: one seed, so the verdict is about two models, not the penalty."
    arms: Mapping[str, Mapping[str, Any]] = declared.get("arms") or {}
    rates = {settings.get("learning_rate") for settings in arms.values()}
    if arms and len(rates) == 1:
        yield "The learning rate was not tuned for each arm: all have the same."
    sizes = {tuple(s.get(n) for n in ("n_layer", "n_embd", "model_name")) for s in arms.values()}
    if arms and len(sizes) == 1:
        yield "Other sizes of the model were not trained."
    data = comparison.get("data") or {}
    yield f"Other texts than {data.get('name')} were not tried."
    if rule := declared.get("rule"):
        if rule.get("max_blocks"):
            blocks = counted(data.get("num_blocks") or 0, "block")
            yield f"Not the whole validation text was used, but {blocks} of it."
        if rule.get("num_texts") == 0:
            yield "No text was generated."
    if declared and "detect" not in declared:
        yield "The power was not computed before the runs (the part power of a study file)."
    if len(commits) > 1:
        yield f"The runs are of {len(commits)} commits: {', '.join(c[:12] for c in commits)}."
