"""`sharpgpt compare`: did the penalty do anything that a temperature cannot? The verdict on each
configuration, against the unpenalised model sharpened afterwards, as comparison.json and .html."""

import argparse
import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sharpgpt.commands.progress import Progress
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
from sharpgpt.evaluation.model_evaluation import EvaluationText, ModelPasses, evaluate_model, finite
from sharpgpt.evaluation.models import (
    add_common_arguments,
    batch_size,
    check_different,
    check_fits,
    chosen_top_k,
    command,
    described,
    evaluation_device,
    evaluation_text,
    generated,
    load_evaluated,
    name_apart,
    write_content,
)
from sharpgpt.evaluation.models import problems as common_problems
from sharpgpt.evaluation.saved_model import SavedModel
from sharpgpt.evaluation.validation_text import another_text_note, for_model, with_note
from sharpgpt.evaluation.verdict import ERROR_RATE, MARGIN, SMALLEST_MARGIN
from sharpgpt.report.comparison import write_comparison
from sharpgpt.runtime.device import Device
from sharpgpt.runtime.environment import describe_environment


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `sharpgpt compare`."""
    parser.add_argument(
        "--baseline",
        action="append",
        required=True,
        metavar="RUN",
        help="unpenalised run, checkpoint or HuggingFace model folder; once for each seed",
    )
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="what is compared with it; runs that differ only in their seed are taken together",
    )
    parser.add_argument(
        "--output",
        default="comparison",
        help="folder of comparison.json, comparison.html and figures/ [comparison]",
    )
    parser.add_argument(
        "--margin",
        type=float,
        default=MARGIN,
        help=f"nats within which nothing is called different [{MARGIN}]",
    )
    add_common_arguments(parser)


def problems(arguments: argparse.Namespace) -> list[str]:
    """What is wrong with the flags, all of it."""
    found = common_problems(arguments)
    if not SMALLEST_MARGIN <= arguments.margin < float("inf"):
        found.append(
            f"--margin: given {arguments.margin}, allowed is at least {SMALLEST_MARGIN} nats"
        )
    return found


def compare(arguments: argparse.Namespace) -> Path:
    """Compare, write the files, print the verdicts; returns the path of the page.

    A baseline and one other model are in memory at a time.

    Raises:
        UserError: a model or the text cannot be read, they do not belong together, or the baseline
            was trained with a penalty.
    """
    device = evaluation_device(arguments)
    given = [*arguments.baseline, *arguments.runs]
    runs = [ComparedRun.of(path) for path in given]
    check_different([run.folder for run in runs], given)
    baselines, others = runs[: len(arguments.baseline)], runs[len(arguments.baseline) :]
    check_baselines(baselines)
    arms = arms_of_runs(others)
    pair_up(baselines, arms)
    partners = [_partners(place, arms) for place in range(len(baselines))]
    num_models = sum(len(mine) + 1 for mine in partners if mine)
    with Progress() as progress:
        evaluator = _Evaluator(arguments, device, progress, num_models)
        for baseline, mine in zip(baselines, partners, strict=True):
            if mine:
                evaluator.baseline(baseline, mine)
    text = evaluator.text
    assert text is not None, "every arm has at least one pair"
    used = [run for run in baselines if run.facts]
    evaluated = [arm.runs[place] for arm in arms for place in sorted(arm.pairs)]
    name_apart([run.facts for run in (*used, *evaluated)])
    notes = [note for arm in arms for note in arm.notes]
    models = [_judged(arm, baselines, arguments.margin) for arm in arms]
    content = finite(
        {
            "version": 1,
            "data": text.to_dict(),
            "top_k": evaluator.top_k,
            "margin": arguments.margin,
            "error_rate": ERROR_RATE,
            "notes": notes,
            "baseline": {"name": BASELINE, "runs": [run.facts for run in used]},
            "models": models,
            "settings": settings_that_differ(baselines[0], arms),
            "curves": _curves(used, arms),
            "environment": describe_environment(device) | {"command": command("compare")},
        }
    )
    output = Path(arguments.output).expanduser()
    write_content(output / "comparison.json", content)
    for note in notes:
        print(f"NOTE: {note}")
    for model in models:
        print(f"{model['name']}: {model['sentence']}")
    print(f"Figures {output / 'comparison.json'}")
    return write_comparison(content, output)


def _partners(baseline: int, arms: Sequence[ComparedArm]) -> list[tuple[ComparedArm, int]]:
    """The runs that are compared with a baseline: (arm, place of the run in it)."""
    return [
        (arm, place)
        for arm in arms
        for place, base in sorted(arm.partners.items())
        if base == baseline
    ]


class _Evaluator:
    """Fills the facts and pairs of all runs, baseline by baseline."""

    def __init__(
        self, arguments: argparse.Namespace, device: Device, progress: Progress, num_models: int
    ) -> None:
        self.text: EvaluationText | None = None
        self.top_k = 0
        self._arguments = arguments
        self._device = device
        self._progress = progress
        self._num_models = num_models
        self._num_done = 0
        self._with_texts: set[str] = set()
        """Arms of which texts were generated: of one run each."""

    def baseline(self, baseline: ComparedRun, mine: Sequence[tuple[ComparedArm, int]]) -> None:
        """Evaluate a baseline and its partners: (arm, place of the run in it)."""
        judge_model, text = self._loaded(baseline)
        with contextlib.closing(self._passes(judge_model, text)) as passes:
            own = evaluate_model(passes)
            texts = self._texts(BASELINE, judge_model, judge_model, text)
            baseline.facts = described(judge_model, own, texts)
            runs = [
                self._penalised(arm, arm.runs[place], judge_model, passes) for arm, place in mine
            ]
            against = Baseline(passes, own.figures, own.best, self._progress.say)
            for (arm, place), pair in zip(mine, against.against(runs), strict=True):
                arm.pairs[place] = pair

    def _penalised(
        self, arm: ComparedArm, run: ComparedRun, judge_model: SavedModel, baseline: ModelPasses
    ) -> PenalisedRun:
        saved, text = self._loaded(run)
        with contextlib.closing(self._passes(saved, text)) as passes:
            evaluation = evaluate_model(passes, baseline)
        texts = self._texts(arm.name, saved, judge_model, text)
        run.facts = described(saved, evaluation, texts)
        return PenalisedRun(
            evaluation.figures,
            evaluation.best,
            _trained_with(run, text),
            has_full_weight=run.has_constant_weight,
        )

    def _loaded(self, run: ComparedRun) -> tuple[SavedModel, EvaluationText]:
        saved = load_evaluated(run.folder, self._device)
        if self.text is None:
            self.text = evaluation_text(saved, self._arguments)
            self.top_k = chosen_top_k(saved, self._arguments)
        check_fits(saved, self.text)
        if self._arguments.data is None:
            self.text = with_note(self.text, another_text_note(saved, self.text))
        self._num_done += 1
        self._progress.start(f"{saved.name} ({self._num_done} of {self._num_models})", self.text)
        return saved, for_model(saved, self.text)

    def _passes(self, saved: SavedModel, text: EvaluationText) -> ModelPasses:
        return ModelPasses(
            saved.causal_lm,
            self._device,
            text,
            top_k=self.top_k,
            batch_size=batch_size(self._arguments, text),
            on_blocks=self._progress.advance,
        )

    def _texts(
        self, arm: str, saved: SavedModel, judge_model: SavedModel, text: EvaluationText
    ) -> dict[str, Any] | None:
        if arm in self._with_texts:
            return None
        self._with_texts.add(arm)
        self._progress.say(f"{saved.name}: generating texts")
        return generated(saved, judge_model, text, self._arguments, self._device)


def _trained_with(run: ComparedRun, text: EvaluationText) -> PenaltyMap | None:
    settings = run.settings
    if settings is None or not run.weight or settings.get("penalty_type") not in MAPS:
        return None
    positions = str(settings.get("penalty_positions"))
    try:
        penalised_positions(positions, text.blocks.shape[1])
    except ValueError as error:
        raise UserError(
            f"{run.folder}: penalty_positions: {error}; evaluate with the --max_seq_length of the "
            "training"
        ) from None
    return PenaltyMap(settings["penalty_type"], run.weight, int(settings["top_k"]), positions)


def _judged(arm: ComparedArm, baselines: Sequence[ComparedRun], margin: float) -> dict[str, Any]:
    """The verdict on one arm, as plain values."""
    numbers = sorted(arm.pairs)
    settings = arm.runs[0].settings or {}
    verdict = judge([arm.pairs[number] for number in numbers], margin=margin).to_dict()
    return {
        "name": arm.name,
        "penalty": settings.get("penalty_type"),
        "penalty_weight": arm.runs[0].weight,
        **verdict,
        "notes": arm.notes,
        "runs": [arm.runs[number].facts for number in numbers],
        "baselines": [baselines[arm.partners[number]].facts["path"] for number in numbers],
    }


def _curves(baselines: Sequence[ComparedRun], arms: Sequence[ComparedArm]) -> dict[str, list[str]]:
    """Arm -> the folders of its runs that have metrics."""
    groups: Mapping[str, Sequence[ComparedRun]] = {
        BASELINE: baselines,
        **{arm.name: [arm.runs[number] for number in sorted(arm.pairs)] for arm in arms},
    }
    return {
        name: [str(run.run_folder) for run in runs if run.run_folder]
        for name, runs in groups.items()
    }
