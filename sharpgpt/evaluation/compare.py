"""`compare`: did the penalty do anything that a temperature cannot?

The verdict on each arm, against the unpenalised model sharpened afterwards.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharpgpt.config import penalised_positions
from sharpgpt.core.errors import UserError
from sharpgpt.evaluation.arms import (
    BASELINE,
    ComparedArm,
    ComparedRun,
    arms_of_runs,
    check_baselines,
    pair_up,
    settings_that_differ,
)
from sharpgpt.evaluation.comparison import Baseline, PenalisedRun, judge
from sharpgpt.evaluation.controls import MAPS, PenaltyMap
from sharpgpt.evaluation.evaluate import write_result
from sharpgpt.evaluation.evaluator import Evaluator, check_different, make_names_unique
from sharpgpt.evaluation.model_evaluation import ModelPasses, evaluate_model, finite
from sharpgpt.evaluation.options import checked_options
from sharpgpt.evaluation.saved_model import SavedModel
from sharpgpt.evaluation.verdict import ERROR_RATE, MARGIN
from sharpgpt.runtime.console import console_logging

Paths = str | Path | Sequence[str | Path]


@dataclass(frozen=True)
class ComparisonResult:
    """What `compare` found."""

    content: dict[str, Any]
    """As in comparison.json, which docs/verdict.md explains."""
    path: Path | None
    """comparison.json, where an output folder was given."""

    @property
    def arms(self) -> list[dict[str, Any]]:
        """One entry for each arm: name, verdict, sentence, controls and the rest."""
        found: list[dict[str, Any]] = self.content["models"]
        return found

    @property
    def verdicts(self) -> dict[str, str]:
        """Arm -> better, worse or not distinguishable."""
        return {arm["name"]: arm["verdict"] for arm in self.arms}


def compare(
    runs: Paths,
    *,
    baseline: Paths,
    output: str | Path | None = None,
    margin: float = MARGIN,
    **options: Any,
) -> ComparisonResult:
    """Compare penalised models with unpenalised ones that are sharpened afterwards.

        result = compare(["outputs/sharp_1", "outputs/sharp_2"],
                         baseline=["outputs/plain_1", "outputs/plain_2"])
        result.verdicts

    Runs that differ only in their seed are one arm. A baseline and one other model are in memory at
    a time.

    Args:
        runs: checkpoints, run folders (their newest checkpoint) or HuggingFace model folders.
        baseline: the same for unpenalised models, one for each seed.
        output: folder for comparison.json; None writes nothing.
        margin: nats within which nothing is called different.
        options: as in `evaluate`.

    Raises:
        ConfigError: options that are not allowed, all of them.
        UserError: a model or the text cannot be read, they do not belong together, or a baseline
            was trained with a penalty.
    """
    checked = checked_options(options, output=output, margin=margin)
    given = [_listed(baseline), _listed(runs)]
    baselines, others = ([ComparedRun.of(path) for path in paths] for paths in given)
    if not baselines or not others:
        raise UserError("runs and baseline: allowed is at least one of each")
    check_different([run.folder for run in (*baselines, *others)], [*given[0], *given[1]])
    check_baselines(baselines)
    arms = arms_of_runs(others)
    pair_up(baselines, arms)
    used = {base for arm in arms for base in arm.partners.values()}
    num_models = len(used) + sum(len(arm.partners) for arm in arms)
    with console_logging() as console:
        evaluator = Evaluator(checked, num_models, console)
        try:
            for place in sorted(used):
                _evaluate_pairs(evaluator, place, baselines, arms)
        finally:
            console.stop_bar()
    evaluated = [run for run in baselines if run.facts]
    pairs = [arm.runs[place] for arm in arms for place in sorted(arm.pairs)]
    make_names_unique([run.facts for run in (*evaluated, *pairs)])
    content = finite(
        {
            "version": 1,
            "data": evaluator.text.to_dict(),
            "top_k": evaluator.top_k,
            "margin": margin,
            "error_rate": ERROR_RATE,
            "notes": [note for arm in arms for note in arm.notes],
            "baseline": {"name": BASELINE, "runs": [run.facts for run in evaluated]},
            "models": [_judged(arm, baselines, margin) for arm in arms],
            "settings": settings_that_differ(baselines[0], arms),
            "curves": _curves(evaluated, arms),
            "environment": evaluator.environment("compare"),
        }
    )
    return ComparisonResult(content, write_result(output, "comparison.json", content))


def _listed(paths: Paths) -> list[str | Path]:
    return [paths] if isinstance(paths, str | Path) else list(paths)


def _evaluate_pairs(
    evaluator: Evaluator, place: int, baselines: Sequence[ComparedRun], arms: Sequence[ComparedArm]
) -> None:
    """Evaluate the baseline at a place and the runs that are compared with it; fills in their facts
    and pairs. Texts are generated by one run of each arm."""
    baseline = baselines[place]
    partners = [
        (arm, own) for arm in arms for own, base in sorted(arm.partners.items()) if base == place
    ]
    with evaluator.opened(baseline.folder) as (saved, passes):
        own = evaluate_model(passes)
        is_first = not any(run.facts for run in baselines)
        baseline.facts = evaluator.facts(saved, own, saved if is_first else None)
        runs = [
            _evaluate_run(evaluator, arm, arm.runs[number], baseline=(saved, passes))
            for arm, number in partners
        ]
        against = Baseline(passes, own.figures, own.best, evaluator.show)
        for (arm, number), pair in zip(partners, against.against(runs), strict=True):
            arm.pairs[number] = pair


def _evaluate_run(
    evaluator: Evaluator,
    arm: ComparedArm,
    run: ComparedRun,
    *,
    baseline: tuple[SavedModel, ModelPasses],
) -> PenalisedRun:
    judge_model, baseline_passes = baseline
    with evaluator.opened(run.folder) as (saved, passes):
        evaluation = evaluate_model(passes, baseline_passes)
    is_first = not any(other.facts for other in arm.runs)
    run.facts = evaluator.facts(saved, evaluation, judge_model if is_first else None)
    return PenalisedRun(
        evaluation.figures,
        evaluation.best,
        _trained_with(run, evaluator.text.blocks.shape[1]),
        has_full_weight=run.has_constant_weight,
    )


def _trained_with(run: ComparedRun, block_length: int) -> PenaltyMap | None:
    """The map of the penalty that a run was trained with; None where there is none."""
    settings = run.settings
    if settings is None or not run.weight or settings.get("penalty_type") not in MAPS:
        return None
    positions = str(settings.get("penalty_positions"))
    try:
        penalised_positions(positions, block_length)
    except ValueError as error:
        raise UserError(
            f"{run.folder}: penalty_positions: {error}; evaluate with the max_seq_length of the "
            "training"
        ) from None
    return PenaltyMap(settings["penalty_type"], run.weight, int(settings["top_k"]), positions)


def _judged(arm: ComparedArm, baselines: Sequence[ComparedRun], margin: float) -> dict[str, Any]:
    """The verdict on one arm, in JSON types."""
    places = sorted(arm.pairs)
    settings = arm.runs[0].settings or {}
    return {
        "name": arm.name,
        "penalty": settings.get("penalty_type"),
        "penalty_weight": arm.runs[0].weight,
        **judge([arm.pairs[place] for place in places], margin=margin).to_dict(),
        "notes": arm.notes,
        "runs": [arm.runs[place].facts for place in places],
        "baselines": [baselines[arm.partners[place]].facts["path"] for place in places],
    }


def _curves(baselines: Sequence[ComparedRun], arms: Sequence[ComparedArm]) -> dict[str, list[str]]:
    """Arm -> the folders of its runs that have metrics."""
    groups: Mapping[str, Sequence[ComparedRun]] = {
        BASELINE: baselines,
        **{arm.name: [arm.runs[place] for place in sorted(arm.pairs)] for arm in arms},
    }
    return {
        name: [str(run.run_folder) for run in runs if run.run_folder]
        for name, runs in groups.items()
    }
