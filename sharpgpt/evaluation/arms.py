"""Which runs of a comparison belong together: arms that differ in nothing but their seed, and the
baseline of each run. Everything here is known before a model is evaluated."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sharpgpt.config.resume_rules import KINDS, Kind
from sharpgpt.core.errors import UserError
from sharpgpt.core.numbers import counted
from sharpgpt.evaluation.comparison import Pair
from sharpgpt.evaluation.saved_model import TrainingRecord, training_record
from sharpgpt.runs.places import run_folder_of
from sharpgpt.runs.resolve import resolve_model

PENALTY_SETTINGS = (
    "penalty_type",
    "penalty_weight",
    "penalty_positions",
    "penalty_warmup_steps",
    "penalty_schedule",
    "penalty_final_ratio",
    "entropy_target",
    "penalty_weight_bounds",
    "top_k",
)
"""In these an arm may differ from its baseline."""

ARM_SETTINGS = tuple(
    name
    for name, kind in KINDS.items()
    if name != "seed" and kind in (Kind.FIXED, Kind.MATHEMATICS, Kind.SCHEDULE)
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
    baseline: "ComparedRun | None" = None
    """What it is compared with."""
    facts: dict[str, Any] = field(default_factory=dict)
    """The result of its evaluation."""
    pair: Pair | None = None
    """The result of its comparison with the baseline."""

    @classmethod
    def of(cls, path: str | Path) -> "ComparedRun":
        """The model of a path. Raises `UserError`."""
        folder = resolve_model(path)
        return cls(folder, training_record(folder))

    @property
    def settings(self) -> Mapping[str, Any] | None:
        """The settings of the training."""
        return self.record.settings if self.record else None

    @property
    def recipe(self) -> dict[str, Any] | None:
        """All that an arm's runs share: settings, and the facts that follow from them."""
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
        """The penalty weight of the training, or the first one with entropy_target; None where it
        is not known."""
        return None if self.settings is None else float(self.settings.get("penalty_weight", 0.0))

    @property
    def entropy_target(self) -> float | None:
        """What the entropy in training followed, by a weight that varied; None for a fixed one."""
        return (self.settings or {}).get("entropy_target")

    @property
    def has_full_weight(self) -> bool:
        """Whether the penalty had its full weight when the training ended."""
        if self.record is None:
            return False
        settings = self.record.settings
        is_warm = self.record.step >= int(settings.get("penalty_warmup_steps", 0))
        is_fixed = settings.get("penalty_schedule") == "constant" and self.entropy_target is None
        return is_warm and is_fixed

    @property
    def run_folder(self) -> Path | None:
        """Where its metrics are, for a checkpoint of a run."""
        run = run_folder_of(self.folder)
        return run if run is not None and (run / "metrics.jsonl").is_file() else None


@dataclass
class ComparedArm:
    """Runs that differ in nothing but their seed."""

    name: str
    runs: list[ComparedRun]
    notes: list[str] = field(default_factory=list)
    """What the reader must know of this arm."""


def check_baselines(baselines: Sequence[ComparedRun]) -> None:
    """Raise `UserError` for a baseline that was trained with a penalty, or two of one seed."""
    for run in baselines:
        if run.weight:
            raise UserError(
                f"baseline: {run.folder} was trained with penalty_weight {run.weight:g}; allowed "
                "is a model trained with penalty_weight 0, which is what is sharpened afterwards"
            )
    _check_seeds(baselines, "baselines")


def arms_of_runs(runs: Sequence[ComparedRun]) -> list[ComparedArm]:
    """The runs by their recipe, in the order in which they were given.

    Raises:
        UserError: two runs of one recipe have the same seed, as two checkpoints of one run have.
    """
    by_recipe: dict[str, ComparedArm] = {}
    for run in runs:
        key = str(run.folder) if run.recipe is None else repr(run.recipe)
        by_recipe.setdefault(key, ComparedArm("", [])).runs.append(run)
    arms = [*by_recipe.values()]
    for arm in arms:
        _check_seeds(arm.runs, "runs of the same settings")
        arm.runs.sort(key=lambda run: run.seed or 0)
        arm.name = _arm_name(arm.runs[0], [other.runs[0] for other in arms])
    names = [BASELINE, *(arm.name for arm in arms)]
    for arm in arms:
        if names.count(arm.name) > 1:
            arm.name = f"{arm.name} ({arm.runs[0].folder})"
    return arms


def named_arms(groups: Mapping[str, Sequence[ComparedRun]]) -> list[ComparedArm]:
    """The arms of these names.

    Raises:
        UserError: the runs of an arm differ in more than their seed, or share one.
    """
    arms = []
    for name, runs in groups.items():
        if name == BASELINE or not runs:
            raise UserError(
                f"runs: given an arm {name!r} with {counted(len(runs), 'run')}; allowed is any "
                f"name but {BASELINE}, with at least one run"
            )
        found = arms_of_runs(runs)
        if len(found) > 1:
            first, other = found[0].runs[0], found[1].runs[0]
            raise UserError(
                f"{first.folder} and {other.folder} are of one arm, {name}, and differ in more "
                "than their seed; give each its own arm"
            )
        arms.append(ComparedArm(name, found[0].runs))
    return arms


def _check_seeds(runs: Sequence[ComparedRun], what: str) -> None:
    """Runs that share a seed are no independent evidence."""
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
    """Penalty and weight, and in what else the arm differs from others with the same."""
    recipe = run.recipe
    if recipe is None:
        return run.folder.resolve().name
    same = [
        other.recipe
        for other in all_arms
        if other.recipe is not None
        and other.recipe["penalty_type"] == recipe["penalty_type"]
        and other.weight == run.weight
        and other.entropy_target == run.entropy_target
    ]
    apart = [
        f"{name} {value}"
        for name, value in recipe.items()
        if any(other[name] != value for other in same)
    ]
    target = run.entropy_target
    strength = f"{run.weight:g}" if target is None else f"to entropy {target:g}"
    return ", ".join([f"{recipe['penalty_type']} {strength}", *apart])


def pair_seeds(
    baseline: Sequence[int | None], penalised: Sequence[int | None]
) -> list[tuple[int, int]]:
    """Which runs to compare: (index of a baseline run, index of a penalised run).

    Runs of the same known seed, if there are any; each run is used once. Without a common seed runs
    are paired in the order of their seeds: independent of each other, any pairing is as good.
    """

    def in_order(seeds: Sequence[int | None]) -> list[int]:
        keys = [-1 - place if seed is None else seed for place, seed in enumerate(seeds)]
        return sorted(range(len(seeds)), key=keys.__getitem__)

    free = {place: seed for place, seed in enumerate(baseline) if seed is not None}
    pairs = []
    for place in in_order(penalised):
        partner = next((one for one, seed in free.items() if seed == penalised[place]), None)
        if partner is not None:
            del free[partner]
            pairs.append((partner, place))
    return pairs or list(zip(in_order(baseline), in_order(penalised), strict=False))


def pair_up(baselines: Sequence[ComparedRun], arms: Sequence[ComparedArm]) -> None:
    """Give every run its baseline, leave out runs without one, and give every arm its notes."""
    baseline_seeds = [run.seed for run in baselines]
    for arm in arms:
        seeds = [run.seed for run in arm.runs]
        for base, own in pair_seeds(baseline_seeds, seeds):
            arm.runs[own].baseline = baselines[base]
        if left_out := [run for run in arm.runs if run.baseline is None]:
            names = ", ".join(str(run.folder) for run in left_out)
            has_common_seed = set(baseline_seeds) & set(seeds) - {None}
            wanted = "of the same seed" if has_common_seed else "for each"
            arm.notes.append(f"{arm.name}: left out for want of a baseline {wanted}: {names}")
        recipe = arm.runs[0].recipe
        arm.runs = [run for run in arm.runs if run.baseline is not None]
        partners = [run.baseline.recipe for run in arm.runs if run.baseline is not None]
        if (target := arm.runs[0].entropy_target) is not None:
            arm.notes.append(
                f"{arm.name}: its penalty weight varied in training, so that the entropy of the "
                f"training rows followed {target:g} nats; that on the validation text, at which it "
                "is compared, is another"
            )
        if recipe is None or None in partners:
            arm.notes.append(f"{arm.name}: it is not known how the models were trained")
        differing = [
            f"{name} {partner[name]} and {value}"
            for partner in partners
            for name, value in (recipe or {}).items()
            if name not in PENALTY_SETTINGS and partner is not None and partner[name] != value
        ]
        if differing:
            arm.notes.append(
                f"{arm.name} differs from the baseline not only in the penalty, so the verdict "
                f"is not about the penalty alone: {'; '.join(dict.fromkeys(differing))}"
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
