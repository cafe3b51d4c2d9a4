"""`compare`: did the penalty do anything that a temperature cannot?

The verdict on each arm, against the unpenalised model sharpened afterwards.
"""

from collections.abc import Mapping, Sequence
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
    named_arms,
    pair_up,
    settings_that_differ,
)
from sharpgpt.evaluation.compare_bytes import compare_bytes, have_several_tokenizers
from sharpgpt.evaluation.comparison import (
    Baseline,
    Judgement,
    PenalisedRun,
    correct_arms,
    judge,
)
from sharpgpt.evaluation.controls import MAPS, PenaltyMap
from sharpgpt.evaluation.evaluator import Evaluator, check_different
from sharpgpt.evaluation.model_evaluation import evaluate_model
from sharpgpt.evaluation.options import checked_options
from sharpgpt.evaluation.passes import ModelPasses
from sharpgpt.evaluation.results import Result, make_names_unique
from sharpgpt.evaluation.saved_model import SavedModel
from sharpgpt.evaluation.verdict import ERROR_RATE, MARGIN
from sharpgpt.runtime.console import console_logging
from sharpgpt.runtime.device import torch_settings_kept

Paths = str | Path | Sequence[str | Path]


class ComparisonResult(Result):
    """What `compare` found: the content of comparison.json."""

    @property
    def arms(self) -> list[dict[str, Any]]:
        """One entry for each arm: name, verdict, sentence, controls and the rest."""
        found: list[dict[str, Any]] = self.content["models"]
        return found

    @property
    def verdicts(self) -> dict[str, str]:
        """Arm -> better, worse or not distinguishable."""
        return {arm["name"]: arm["verdict"] for arm in self.arms}

    @property
    def corrected_verdicts(self) -> dict[str, str]:
        """The same at the error rate of all arms together (Holm)."""
        return {arm["name"]: arm["corrected"]["verdict"] for arm in self.arms}


def compare(
    runs: Paths | Mapping[str, Paths],
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

    Models with different tokenizers are compared in bits a byte, without a verdict.

    Runs that differ only in their seed are one arm. A baseline and one other model are in memory at
    a time.

    Args:
        runs: run folders (their newest checkpoint), checkpoints or HuggingFace models; see
            `runs.resolve`. Or the runs of each arm by its name, where names are given.
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
    groups = (
        {name: _listed(paths) for name, paths in runs.items()}
        if (is_named := isinstance(runs, Mapping))
        else {"": _listed(runs)}
    )
    listed = _listed(baseline)
    baselines = [ComparedRun.of(path) for path in listed]
    others = {name: [ComparedRun.of(path) for path in paths] for name, paths in groups.items()}
    all_others = [run for group in others.values() for run in group]
    if not baselines or not all_others:
        raise UserError("runs and baseline: allowed is at least one of each")
    check_different(
        [run.folder for run in (*baselines, *all_others)],
        [*listed, *(path for paths in groups.values() for path in paths)],
    )
    check_baselines(baselines)
    arms = named_arms(others) if is_named else arms_of_runs(all_others)
    pair_up(baselines, arms)
    compared = [run for arm in arms for run in arm.runs]
    used = [one for one in baselines if any(run.baseline is one for run in compared)]
    if have_several_tokenizers([*used, *compared]):
        content = compare_bytes(used, arms, checked)
        return ComparisonResult.written(content, output, "comparison.json")
    with console_logging() as console, torch_settings_kept():
        evaluator = Evaluator(checked, len(used) + len(compared), console)
        for one in used:
            _evaluate_pairs(evaluator, one, arms, with_texts=one is used[0])
    make_names_unique([run.facts for run in (*used, *compared)])
    judgements = correct_arms([_judge(arm, margin) for arm in arms])
    content = {
        "version": 1,
        "data": evaluator.text.to_dict(),
        "top_k": evaluator.top_k,
        "margin": margin,
        "error_rate": ERROR_RATE,
        "notes": [note for arm in arms for note in arm.notes],
        "baseline": {"name": BASELINE, "runs": [run.facts for run in used]},
        "models": [_judged(*one) for one in zip(arms, judgements, strict=True)],
        "settings": settings_that_differ(baselines[0], arms),
        "curves": {
            name: [str(run.run_folder) for run in group if run.run_folder]
            for name, group in [(BASELINE, used), *((arm.name, arm.runs) for arm in arms)]
        },
        "environment": evaluator.environment("compare"),
    }
    return ComparisonResult.written(content, output, "comparison.json")


def _listed(paths: Paths) -> list[str | Path]:
    return [paths] if isinstance(paths, str | Path) else list(paths)


def _evaluate_pairs(
    evaluator: Evaluator, baseline: ComparedRun, arms: Sequence[ComparedArm], *, with_texts: bool
) -> None:
    """Evaluate a baseline and the runs that are compared with it; fills in their facts and pairs.
    Texts are generated by one run of each arm."""
    with evaluator.opened(baseline.folder) as (saved, passes):
        own = evaluate_model(passes)
        baseline.facts = evaluator.facts(saved, own, saved if with_texts else None)
        mine = [(arm, run) for arm in arms for run in arm.runs if run.baseline is baseline]
        penalised = []
        for arm, run in mine:
            judge_model = None if any(other.facts for other in arm.runs) else saved
            penalised.append(_evaluate_run(evaluator, run, passes, judge_model))
        against = Baseline(
            passes,
            own.statistics,
            own.best,
            evaluator.show,
            recalibration=own.recalibration,
        )
        for (_, run), pair in zip(mine, against.against(penalised), strict=True):
            run.pair = pair


def _evaluate_run(
    evaluator: Evaluator,
    run: ComparedRun,
    baseline: ModelPasses,
    judge_model: SavedModel | None,
) -> PenalisedRun:
    """Evaluate a run, whose model is not kept in memory."""
    with evaluator.opened(run.folder) as (saved, passes):
        evaluation = evaluate_model(passes, baseline)
    run.facts = evaluator.facts(saved, evaluation, judge_model)
    return PenalisedRun(
        evaluation.statistics,
        evaluation.best,
        _trained_with(run, evaluator.text.blocks.shape[1]),
        has_full_weight=run.has_full_weight,
        row_ce=evaluation.row_ce,
        recalibration=evaluation.recalibration,
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


def _judge(arm: ComparedArm, margin: float) -> Judgement:
    return judge([run.pair for run in arm.runs if run.pair is not None], margin=margin)


def _judged(arm: ComparedArm, judgement: Judgement) -> dict[str, Any]:
    """The verdict on one arm, in JSON types."""
    settings = arm.runs[0].settings or {}
    return {
        "name": arm.name,
        "penalty": settings.get("penalty_type"),
        "penalty_weight": None if arm.runs[0].entropy_target else arm.runs[0].weight,
        **judgement.to_dict(),
        "notes": arm.notes,
        "runs": [run.facts for run in arm.runs],
        "baselines": [run.baseline.facts["path"] for run in arm.runs if run.baseline],
    }
