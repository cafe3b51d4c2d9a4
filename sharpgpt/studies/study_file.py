"""The file that declares a study: question, arms, seeds, and the parameters of the rule.

question: Does the entropy penalty teach anything that a temperature does not?
base: configs/shakespeare_char_cpu.yaml       # settings of all runs; or none
settings: {max_steps: 500}                    # over those
arms:
  baseline: {penalty_weight: 0}
  entropy 0.1: {penalty_type: neg_entropy, penalty_weight: 0.1}
grid:                                         # further arms: every combination
  penalty_type: [non_max_sum, top_k_mass]
  penalty_weight: [0.1, 0.3]
seeds: [1, 2, 3]
baseline: baseline                            # the arm that all others are compared with
rule: {margin: 0.001, max_blocks: 200}        # options of `sharpgpt compare`
    power: {pilot: pilot/comparison.json, detect: 0.002}   # with what power; see `sharpgpt power`
    slurm: {time: 240, gpus_per_node: 1}     # what a job asks for; not declared
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from sharpgpt.config import ConfigError, TrainingConfig
from sharpgpt.config.options import Options, Text, nearest, shown
from sharpgpt.config.rules import code_in_file
from sharpgpt.config.values import Count, File, Positive, Seed
from sharpgpt.config.yaml_files import Part, read_mapping, read_settings
from sharpgpt.core.files import user_path
from sharpgpt.evaluation.options import EvaluationOptions
from sharpgpt.evaluation.verdict import MARGIN, MIN_MARGIN

OWN_SETTINGS = ("seed", "run_name", "output_dir", "checkpoint_dir", "resume", "profile")
"""Settings that the study gives to each run."""

MAX_ARMS = 200


class StudyOptions(Options):
    """The lines of a study file that are no mappings."""

    question: Text
    """What the study asks, in words."""

    seeds: tuple[Seed, ...]
    """Random seeds; each arm is trained with every one."""

    base: File | None = None
    """YAML file of settings of all runs, seen from the study file or from the working folder."""

    baseline: Text | None = None
    """The arm that the others are compared with, trained without a penalty; null takes the one
    called baseline, or the only one without a penalty."""


class RuleOptions(EvaluationOptions):
    """The parameters of the rule: options of `sharpgpt compare`."""

    margin: Annotated[float, Field(ge=MIN_MARGIN)] = MARGIN
    """Nats within which nothing is called different."""


class PilotOptions(Options):
    """From what the power of the study is known."""

    pilot: File
    """comparison.json of a pilot of 2 or more seeds, seen from the study file or from the working
    folder."""

    detect: Positive
    """Nats to find: by how much a true difference is beyond the margin."""


class SlurmOptions(Options):
    """What each job of Slurm asks for."""

    time: Annotated[int, Field(ge=1, le=100_000)] = 240
    """Minutes after which a job saves and is queued again."""

    signal_delay_s: Annotated[int, Field(ge=1, le=3600)] = 120
    """Seconds before the time limit at which a run is told to save."""

    partition: Text | None = None
    """Slurm partition."""

    account: Text | None = None
    """Slurm account."""

    qos: Text | None = None
    """Quality of service."""

    constraint: Text | None = None
    """Features that a node must have."""

    cpus_per_task: Count | None = None
    """Cores of a job."""

    gpus_per_node: Annotated[int, Field(ge=0, le=64)] | None = None
    """GPUs of a job; a run uses one."""

    mem_gb: Annotated[float, Field(gt=0)] | None = None
    """Memory of a job, in GB."""

    setup: tuple[Text, ...] = ()
    """Shell commands before a job, such as module load cuda."""


SECTIONS = ("settings", "arms", "grid", "rule", "power", "slurm")
"""The names under which a mapping stands."""


@dataclass(frozen=True)
class Study:
    """A study as its file declares it."""

    question: str
    arms: Mapping[str, Mapping[str, Any]]
    """Name -> the settings that are given for it, with those of all arms."""
    baseline: str
    seeds: tuple[int, ...]
    rule: Mapping[str, Any]
    """The options that are given."""
    power: PilotOptions | None = None
    """None where the file does not ask for it; `detect` is declared."""
    slurm: Mapping[str, Any] = field(default_factory=dict)
    """What each job asks for, with the launcher slurm; no part of what is declared."""

    @classmethod
    def read(cls, path: str | Path, *, allow_import: bool = False) -> "Study":
        """The study of a file. Raises `ConfigError` with every problem."""
        path = user_path(path)
        return read_mapping(path, lambda part: _study(part, path, allow_import=allow_import))

    def declared(self) -> dict[str, Any]:
        """All that is declared, in JSON types."""
        return {
            "question": self.question,
            "arms": {name: dict(settings) for name, settings in self.arms.items()},
            "baseline": self.baseline,
            "seeds": list(self.seeds),
            "rule": dict(self.rule),
            **({"detect": self.power.detect} if self.power else {}),
        }

    def config(self, arm: str, seed: int, **placed: Any) -> TrainingConfig:
        """The settings of one run."""
        return TrainingConfig.from_dict({**self.arms[arm], "seed": seed, **placed})

    @property
    def others(self) -> list[str]:
        """The arms that are compared with the baseline."""
        return [arm for arm in self.arms if arm != self.baseline]


def _study(part: Part, path: Path, *, allow_import: bool) -> Study:
    problems: list[str] = []
    names = [*StudyOptions.__annotations__, *SECTIONS]
    for name in part:
        if name not in names:
            problems.append(f"{shown(name)}: no such part of a study{nearest(name, names)}")
    parts = {name: _section(part, name, problems) for name in SECTIONS}
    given = {
        n: v for n, v in part.settings(StudyOptions).items() if n in StudyOptions.__annotations__
    }
    options = _checked(StudyOptions, _beside(given, "base", path), problems)
    rule = parts["rule"].settings(RuleOptions)
    _checked(RuleOptions, rule, problems, "rule: ")
    slurm = parts["slurm"].settings(SlurmOptions)
    _checked(SlurmOptions, slurm, problems, "slurm: ")
    pilot = parts["power"].settings(PilotOptions)
    power = (
        _checked(PilotOptions, _beside(pilot, "pilot", path), problems, "power: ")
        if pilot
        else None
    )
    common = _base(options.base if options else None, problems, allow_import=allow_import)
    common |= parts["settings"].settings(TrainingConfig)
    arms = _arms(parts["arms"], parts["grid"], problems)
    if not allow_import:
        for settings in (common, *arms.values()):
            problems += code_in_file(settings, path)
    arms = {name: common | settings for name, settings in arms.items()}
    _check_arms(arms, problems)
    baseline = _baseline(arms, options.baseline if options else None, problems)
    if options and len(set(options.seeds)) < len(options.seeds):
        problems.append(f"seeds: given {list(options.seeds)}, allowed is each once")
    if problems or not options:
        raise ConfigError([f"{path}: {problem}" for problem in dict.fromkeys(problems)])
    return Study(options.question, arms, baseline, options.seeds, rule, power, slurm)


def _section(part: Part, name: str, problems: list[str]) -> Part:
    found = part.part(name)
    if found is None:
        problems.append(f"{name}: allowed are lines `name: value` below it, or none")
        return part.empty()
    return found


def _checked(
    options: type[Options], values: Mapping[str, Any], problems: list[str], before: str = ""
) -> Any:
    """The options, or None with their problems noted."""
    try:
        return options.from_dict(values)
    except ConfigError as error:
        problems += [before + problem for problem in error.problems]
        return None


def _beside(given: dict[str, Any], name: str, path: Path) -> dict[str, Any]:
    """The file of this name beside the study file, where it is there."""
    file = given.get(name)
    if isinstance(file, str) and (beside := path.parent / user_path(file)).is_file():
        return given | {name: str(beside)}
    return given


def _base(path: str | None, problems: list[str], *, allow_import: bool) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        settings = read_settings(path, TrainingConfig)
    except ConfigError as error:
        problems += error.problems
        return {}
    if not allow_import:
        problems += code_in_file(settings, path)
    return settings


def _arms(arms: Part, grid: Part, problems: list[str]) -> dict[str, dict[str, Any]]:
    """The arms by name, those of the grid last."""
    found: dict[str, dict[str, Any]] = {}
    for name in arms:
        settings = arms.part(name)
        if settings is None:
            problems.append(f"arms: {shown(name)}: allowed are its settings, as {{name: value}}")
        else:
            found[name] = settings.settings(TrainingConfig)
    axes = grid.lists(TrainingConfig)
    if axes:
        for values in itertools.islice(itertools.product(*axes.values()), MAX_ARMS + 1):
            settings_of_arm = dict(zip(axes, values, strict=True))
            name = ", ".join(_words(settings_of_arm))
            if name in found:
                problems.append(f"grid: its arm {shown(name)} is given twice")
            found[name] = settings_of_arm
    if len(found) < 2:
        problems.append(f"arms: given {len(found)}, allowed are at least 2, a baseline among them")
    if len(found) > MAX_ARMS:
        problems.append(f"arms: given more than {MAX_ARMS}, which no study needs")
    return found


def _words(settings: Mapping[str, Any]) -> Iterator[str]:
    """The name of an arm of a grid: the penalty and its weight, then what else is set."""
    rest = dict(settings)
    penalty, weight = rest.pop("penalty_type", None), rest.pop("penalty_weight", None)
    if penalty is not None and weight is not None:
        yield f"{penalty} {weight}"
    elif penalty is not None:
        yield str(penalty)
    elif weight is not None:
        yield f"penalty_weight {weight}"
    yield from (f"{name} {value}" for name, value in rest.items())


def _check_arms(arms: Mapping[str, Mapping[str, Any]], problems: list[str]) -> None:
    """Each arm's settings are right, none is the study's own, and no two are the same."""
    seen: dict[str, str] = {}
    for name, settings in arms.items():
        own = [setting for setting in OWN_SETTINGS if setting in settings]
        if own:
            problems.append(
                f"arm {shown(name)}: {', '.join(own)}: the study gives "
                f"{'it' if len(own) == 1 else 'them'} to each run; leave it out"
            )
            continue
        config = _checked(TrainingConfig, settings, problems, f"arm {shown(name)}: ")
        if config is None:
            continue
        same = seen.setdefault(repr(config.to_dict()), name)
        if same != name:
            problems.append(
                f"arms: {shown(same)} and {shown(name)} have the same settings; they would be the "
                "same models"
            )


def _baseline(arms: Mapping[str, Mapping[str, Any]], given: str | None, problems: list[str]) -> str:
    plain = [name for name, settings in arms.items() if not _weight(settings)]
    name = given or ("baseline" if "baseline" in arms else plain[0] if len(plain) == 1 else None)
    if name is None:
        problems.append(
            "baseline: missing; name the arm, trained with penalty_weight 0, that the others are "
            f"compared with; without a penalty {_listed(plain)}"
        )
    elif name not in arms:
        problems.append(
            f"baseline: given {shown(name)}, allowed is an arm: {_listed(list(arms))}"
            f"{nearest(name, arms)}"
        )
    elif name not in plain:
        problems.append(
            f"baseline: {shown(name)} has a penalty; allowed is an arm with penalty_weight 0, "
            "which is what is sharpened after training"
        )
    return name or ""


def _weight(settings: Mapping[str, Any]) -> float:
    weight = settings.get("penalty_weight", TrainingConfig().penalty_weight)
    try:
        return float(weight)
    except (TypeError, ValueError):
        return 1.0  # its own problem is told


def _listed(names: Sequence[str]) -> str:
    return f"there is {', '.join(map(shown, names[:20]))}" if names else "there is none"
