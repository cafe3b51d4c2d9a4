"""Which runs of a comparison belong together: arms that differ in nothing but their seed, and the
baseline of each run. Everything here is known before a model is evaluated."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sharpgpt.config.resume_rules import KINDS, Kind
from sharpgpt.core.errors import UserError
from sharpgpt.evaluation.comparison import Pair
from sharpgpt.evaluation.saved_model import TrainingRecord, find_model, training_record
from sharpgpt.evaluation.verdict import pair_seeds

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
    if name != "seed" and kind in (Kind.FIXED, Kind.MATHEMATICS)
)
"""Runs with the same values of these and the same facts (`ComparedRun.recipe`) are one arm: they
differ in the seed alone."""

BASELINE = "baseline"
"""The name of the unpenalised runs."""


@dataclass
class ComparedRun:
    """One model of the comparison, before and after it was evaluated."""

    folder: Path
    record: TrainingRecord | None
    """None for a foreign model: it is not known how it was trained."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What was found when it was evaluated."""

    @classmethod
    def of(cls, path: str | Path) -> "ComparedRun":
        """The model that `path` means. Raises `UserError`."""
        folder = find_model(path)
        return cls(folder, training_record(folder))

    @property
    def settings(self) -> Mapping[str, Any] | None:
        """The settings of the training."""
        return self.record.settings if self.record else None

    @property
    def recipe(self) -> dict[str, Any] | None:
        """All that an arm's runs share: settings, and what they came to."""
        if self.record is None:
            return None
        return {
            **{name: self.record.settings.get(name) for name in ARM_SETTINGS},
            "steps": self.record.step,
            "blocks a step": self.record.blocks_per_step,
            "training text": self.record.text_sha256[:12],
        }

    @property
    def seed(self) -> int | None:
        """The seed of the training."""
        seed = (self.settings or {}).get("seed")
        return seed if isinstance(seed, int) else None

    @property
    def weight(self) -> float | None:
        """The penalty weight of the training; None where it is not known."""
        return None if self.settings is None else float(self.settings.get("penalty_weight", 0.0))

    @property
    def has_constant_weight(self) -> bool:
        """Whether the penalty had its full weight when the training ended."""
        if self.record is None:
            return False
        settings = self.record.settings
        is_warm = self.record.step >= int(settings.get("penalty_warmup_steps", 0))
        return is_warm and settings.get("penalty_schedule") == "constant"

    @property
    def run_folder(self) -> Path | None:
        """Where its metrics are, for a checkpoint of a run."""
        run = self.folder.parent.parent
        return run if (run / "metrics.jsonl").is_file() else None


@dataclass
class ComparedArm:
    """Runs that differ in nothing but their seed, and the pairs that were made of them."""

    name: str
    runs: list[ComparedRun]
    partners: dict[int, int] = field(default_factory=dict)
    """Place of a run -> place of its baseline."""
    pairs: dict[int, Pair] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    """What the reader must know of this arm."""


def check_baselines(baselines: Sequence[ComparedRun]) -> None:
    """Raise `UserError` for a baseline that was trained with a penalty, or two of one seed."""
    for run in baselines:
        if run.weight:
            raise UserError(
                f"--baseline: {run.folder} was trained with penalty_weight {run.weight:g}; allowed "
                "is a model trained with penalty_weight 0, which is what is sharpened afterwards"
            )
    _check_seeds(baselines, "baselines")


def arms_of_runs(runs: Sequence[ComparedRun]) -> list[ComparedArm]:
    """The runs by their recipe, in the order in which they were given.

    Raises:
        UserError: two runs of one recipe have the same seed, as two checkpoints of one run have.
    """
    arms: dict[str, ComparedArm] = {}
    for run in runs:
        key = str(run.folder) if run.recipe is None else repr(run.recipe)
        arms.setdefault(key, ComparedArm("", [])).runs.append(run)
    for arm in arms.values():
        _check_seeds(arm.runs, "runs of the same settings")
        arm.runs.sort(key=lambda run: run.seed or 0)
        arm.name = _arm_name(arm.runs[0], [other.runs[0] for other in arms.values()])
    names = [arm.name for arm in arms.values()]
    for arm, name in zip(arms.values(), names, strict=True):
        if names.count(name) > 1 or name == BASELINE:
            arm.name = f"{name} ({arm.runs[0].folder})"
    return list(arms.values())


def _check_seeds(runs: Sequence[ComparedRun], what: str) -> None:
    """What shares a seed is no independent evidence."""
    seen: dict[int, ComparedRun] = {}
    for run in runs:
        if run.seed is None:
            continue
        if run.seed in seen:
            raise UserError(
                f"{seen[run.seed].folder} and {run.folder} are {what} with the same seed, "
                f"{run.seed}, so they are not two pieces of evidence; give one of them"
            )
        seen[run.seed] = run


def _arm_name(run: ComparedRun, all_arms: Sequence[ComparedRun]) -> str:
    """Penalty and weight, and what else sets the arm apart from others with the same."""
    recipe = run.recipe
    if recipe is None:
        return run.folder.resolve().name
    same = [
        other.recipe
        for other in all_arms
        if other.recipe is not None
        and other.recipe["penalty_type"] == recipe["penalty_type"]
        and other.weight == run.weight
    ]
    apart = [
        f"{name} {value}"
        for name, value in recipe.items()
        if any(other[name] != value for other in same)
    ]
    return ", ".join([f"{recipe['penalty_type']} {run.weight:g}", *apart])


def pair_up(baselines: Sequence[ComparedRun], arms: Sequence[ComparedArm]) -> None:
    """Give every run its baseline, and every arm its notes."""
    for arm in arms:
        seeds = [
            # A seed that is not known is nobody's.
            [-1 - place if run.seed is None else run.seed for place, run in enumerate(runs)]
            for runs in (baselines, arm.runs)
        ]
        if arm.runs[0].seed is None:
            seeds[1] = [-1_000_000]
        pairs = pair_seeds(*seeds)
        arm.partners = {own: base for base, own in pairs}
        left_out = [run for place, run in enumerate(arm.runs) if place not in arm.partners]
        if left_out:
            names = ", ".join(str(run.folder) for run in left_out)
            wanted = "of the same seed" if set(seeds[0]) & set(seeds[1]) else "for each"
            arm.notes.append(f"{arm.name}: left out for want of a baseline {wanted}: {names}")
        partners = [baselines[base] for base, _ in pairs]
        if arm.runs[0].recipe is None or any(partner.recipe is None for partner in partners):
            arm.notes.append(f"{arm.name}: it is not known how the models were trained")
        other = [
            f"{name} {theirs} and {ours}"
            for partner in partners
            for name, ours in (arm.runs[0].recipe or {}).items()
            if name not in PENALTY_SETTINGS
            and partner.recipe is not None
            and (theirs := partner.recipe[name]) != ours
        ]
        if other:
            arm.notes.append(
                f"{arm.name} differs from the baseline not only in the penalty, so the verdict "
                f"is not about the penalty alone: {'; '.join(dict.fromkeys(other))}"
            )


def settings_that_differ(
    baseline: ComparedRun, arms: Sequence[ComparedArm]
) -> list[dict[str, Any]]:
    """What arms differ in, the baseline's value first."""
    recipes = [run.recipe or {} for run in (baseline, *(arm.runs[0] for arm in arms))]
    names = dict.fromkeys([*PENALTY_SETTINGS, *(name for recipe in recipes for name in recipe)])
    rows = []
    for name in names:
        values = [str(recipe.get(name, "unknown")) for recipe in recipes]
        if len(set(values)) > 1:
            rows.append({"name": name, "values": values})
    return rows
