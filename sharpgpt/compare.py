"""`sharpgpt compare`: did the penalty do anything that a temperature cannot? The verdict on each
configuration, against the unpenalised model sharpened afterwards, as comparison.json and .html."""

import argparse
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sharpgpt.config import penalised_positions
from sharpgpt.config.resume_rules import KINDS, Kind
from sharpgpt.device import Device
from sharpgpt.evaluate import (
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
from sharpgpt.evaluate import problems as common_problems
from sharpgpt.evaluation.comparison import Baseline, Pair, PenalisedRun, judge
from sharpgpt.evaluation.controls import MAPS, PenaltyMap
from sharpgpt.evaluation.model_evaluation import EvaluationText, ModelPasses, evaluate_model, finite
from sharpgpt.evaluation.verdict import ERROR_RATE, MARGIN, SMALLEST_MARGIN, pair_seeds
from sharpgpt.evaluation_progress import Progress
from sharpgpt.files import UserError
from sharpgpt.report.comparison import write_comparison
from sharpgpt.saved_model import SavedModel, find_model, training_settings
from sharpgpt.training.environment import describe_environment

PENALTY_SETTINGS = (
    "penalty_type",
    "penalty_weight",
    "penalty_positions",
    "penalty_warmup_steps",
    "penalty_schedule",
    "penalty_final_ratio",
    "top_k",
)
"""In these an arm may differ from its baseline."""

ARM_SETTINGS = tuple(
    name
    for name, kind in KINDS.items()
    if name != "seed" and (kind in (Kind.FIXED, Kind.MATHEMATICS) or name == "dataset")
)
"""Runs with the same values of these are one arm: they differ in the seed alone."""


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


@dataclass
class _Run:
    """One model of the comparison, before and after it was evaluated."""

    folder: Path
    settings: dict[str, Any] | None
    facts: dict[str, Any] = field(default_factory=dict)
    """As `described`."""

    @property
    def seed(self) -> int | None:
        seed = (self.settings or {}).get("seed")
        return seed if isinstance(seed, int) else None

    @property
    def weight(self) -> float | None:
        return None if self.settings is None else float(self.settings.get("penalty_weight", 0.0))

    @property
    def run_folder(self) -> Path | None:
        """Where its metrics are, for a checkpoint of a run."""
        run = self.folder.parent.parent
        return run if (run / "metrics.jsonl").is_file() else None


@dataclass
class _Arm:
    """Runs that differ in nothing but their seed, and the pairs that were made of them."""

    name: str
    runs: list[_Run]
    partners: dict[int, int] = field(default_factory=dict)
    """Place of a run -> place of its baseline."""
    pairs: dict[int, Pair] = field(default_factory=dict)


def compare(arguments: argparse.Namespace) -> Path:
    """Compare, write the files, print the verdicts; returns the path of the page.

    A baseline and one other model are in memory at a time.

    Raises:
        UserError: a model or the text cannot be read, they do not belong together, or the baseline
            was trained with a penalty.
    """
    device = evaluation_device(arguments)
    given = [*arguments.baseline, *arguments.runs]
    folders = [find_model(path) for path in given]
    check_different(folders, given)
    runs = [_Run(folder, training_settings(folder)) for folder in folders]
    baselines, others = runs[: len(arguments.baseline)], runs[len(arguments.baseline) :]
    _check_baselines(baselines)
    arms = _arms(others)
    notes = _pair_up(baselines, arms)
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
    models = [_judged(arm, arguments.margin, notes) for arm in arms]
    content = finite(
        {
            "version": 1,
            "data": text.to_dict(),
            "top_k": evaluator.top_k,
            "margin": arguments.margin,
            "error_rate": ERROR_RATE,
            "notes": notes,
            "baseline": {"name": "baseline", "runs": [run.facts for run in used]},
            "models": models,
            "settings": _settings_that_differ(baselines[0], arms),
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


def _check_baselines(baselines: Sequence[_Run]) -> None:
    for run in baselines:
        if run.weight:
            raise UserError(
                f"--baseline: {run.folder} was trained with penalty_weight {run.weight:g}; allowed "
                "is a model trained with penalty_weight 0, which is what is sharpened afterwards"
            )


def _arms(runs: Sequence[_Run]) -> list[_Arm]:
    """The runs by their settings, in the order in which they were given."""
    arms: dict[str, _Arm] = {}
    for run in runs:
        key = str(run.folder)
        if run.settings is not None:
            key = repr([run.settings.get(name) for name in ARM_SETTINGS])
        arms.setdefault(key, _Arm("", [])).runs.append(run)
    for arm in arms.values():
        arm.runs.sort(key=lambda run: run.seed or 0)
        arm.name = _arm_name(arm.runs[0], [other.runs[0] for other in arms.values()])
    names = [arm.name for arm in arms.values()]
    for arm, name in zip(arms.values(), names, strict=True):
        if names.count(name) > 1:
            arm.name = f"{name} ({arm.runs[0].folder})"
    return list(arms.values())


def _arm_name(run: _Run, all_arms: Sequence[_Run]) -> str:
    """Penalty and weight, and what else sets the arm apart from others with the same."""
    if run.settings is None:
        return run.folder.resolve().name
    settings = run.settings
    words = f"{settings.get('penalty_type')} {run.weight:g}"
    same = [
        other.settings
        for other in all_arms
        if other.settings is not None
        and other.settings.get("penalty_type") == settings.get("penalty_type")
        and other.weight == run.weight
    ]
    apart = [
        f"{name} {settings.get(name)}"
        for name in ARM_SETTINGS
        if any(other.get(name) != settings.get(name) for other in same)
    ]
    return ", ".join([words, *apart])


def _pair_up(baselines: Sequence[_Run], arms: Sequence[_Arm]) -> list[str]:
    """Give every run its baseline, leave out those without; returns what the reader must know."""
    notes = []
    for arm in arms:
        seeds = [[run.seed or 0 for run in runs] for runs in (baselines, arm.runs)]
        pairs = pair_seeds(*seeds)
        arm.partners = {own: base for base, own in pairs}
        left_out = [run for place, run in enumerate(arm.runs) if place not in arm.partners]
        if left_out:
            names = ", ".join(str(run.folder) for run in left_out)
            notes.append(f"{arm.name}: left out for want of a baseline of the same seed: {names}")
        partner = baselines[pairs[0][0]]
        if partner.settings is not None and arm.runs[0].settings is not None:
            other = [
                f"{name} {partner.settings.get(name)} and {arm.runs[0].settings.get(name)}"
                for name in ARM_SETTINGS
                if name not in PENALTY_SETTINGS
                and partner.settings.get(name) != arm.runs[0].settings.get(name)
            ]
            if other:
                notes.append(
                    f"{arm.name} differs from the baseline not only in the penalty, so the verdict "
                    f"is not about the penalty alone: {'; '.join(other)}"
                )
        else:
            notes.append(f"{arm.name}: it is not known how the models were trained")
    return notes


def _partners(baseline: int, arms: Sequence[_Arm]) -> list[tuple[_Arm, int]]:
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

    def baseline(self, baseline: _Run, mine: Sequence[tuple[_Arm, int]]) -> None:
        """Evaluate a baseline and its partners: (arm, place of the run in it)."""
        judge_model, text = self._loaded(baseline)
        with contextlib.closing(self._passes(judge_model, text)) as passes:
            own = evaluate_model(passes)
            texts = self._texts("baseline", judge_model, judge_model, text)
            baseline.facts = described(judge_model, own, texts)
            runs = [
                self._penalised(arm, arm.runs[place], judge_model, passes) for arm, place in mine
            ]
            against = Baseline(passes, own.figures, own.best, self._progress.say)
            for (arm, place), pair in zip(mine, against.against(runs), strict=True):
                arm.pairs[place] = pair

    def _penalised(
        self, arm: _Arm, run: _Run, judge_model: SavedModel, baseline: ModelPasses
    ) -> PenalisedRun:
        saved, text = self._loaded(run)
        with contextlib.closing(self._passes(saved, text)) as passes:
            evaluation = evaluate_model(passes, baseline)
        texts = self._texts(arm.name, saved, judge_model, text)
        run.facts = described(saved, evaluation, texts)
        return PenalisedRun(evaluation.figures, evaluation.best, _trained_with(run, text))

    def _loaded(self, run: _Run) -> tuple[SavedModel, EvaluationText]:
        saved = load_evaluated(run.folder, self._device)
        if self.text is None:
            self.text = evaluation_text(saved, self._arguments)
            self.top_k = chosen_top_k(saved, self._arguments)
        check_fits(saved, self.text)
        self._num_done += 1
        self._progress.start(f"{saved.name} ({self._num_done} of {self._num_models})", self.text)
        return saved, self.text

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


def _trained_with(run: _Run, text: EvaluationText) -> PenaltyMap | None:
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


def _judged(arm: _Arm, margin: float, notes: Sequence[str]) -> dict[str, Any]:
    """The verdict on one arm, as plain values."""
    numbers = sorted(arm.pairs)
    settings = arm.runs[0].settings or {}
    verdict = judge([arm.pairs[number] for number in numbers], margin=margin).to_dict()
    return {
        "name": arm.name,
        "penalty": settings.get("penalty_type"),
        "penalty_weight": arm.runs[0].weight,
        **verdict,
        "notes": [note for note in notes if note.startswith(arm.name)],
        "runs": [arm.runs[number].facts for number in numbers],
    }


def _settings_that_differ(baseline: _Run, arms: Sequence[_Arm]) -> list[dict[str, Any]]:
    """The settings in which arms differ, the baseline's value first."""
    all_settings = [baseline.settings or {}, *(arm.runs[0].settings or {} for arm in arms)]
    rows = []
    for name in (*PENALTY_SETTINGS, *(one for one in ARM_SETTINGS if one not in PENALTY_SETTINGS)):
        values = [str(settings.get(name, "unknown")) for settings in all_settings]
        if len(set(values)) > 1:
            rows.append({"name": name, "values": values})
    return rows


def _curves(baselines: Sequence[_Run], arms: Sequence[_Arm]) -> dict[str, list[str]]:
    """Arm -> the folders of its runs that have metrics."""
    groups: Mapping[str, Sequence[_Run]] = {
        "baseline": baselines,
        **{arm.name: [arm.runs[number] for number in sorted(arm.pairs)] for arm in arms},
    }
    return {
        name: [str(run.run_folder) for run in runs if run.run_folder]
        for name, runs in groups.items()
    }
