"""`sharpgpt study FILE`: from a question, arms and seeds to the verdict, in one command."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from sharpgpt.config.flags import parse_options
from sharpgpt.config.values import File, Folder
from sharpgpt.core.files import user_path
from sharpgpt.core.terminal import show, show_line
from sharpgpt.evaluation.options import EvaluationOptions, evaluation_parser
from sharpgpt.studies.study_file import Study

if TYPE_CHECKING:
    from sharpgpt.studies.study import StudyResult

EPILOG = """\
FILE declares the question, the arms and the seeds:

    question: Does the entropy penalty teach anything that a temperature does not?
    base: configs/shakespeare_char_cpu.yaml
    settings: {max_steps: 500}
    arms:
      baseline: {penalty_weight: 0}
      entropy 0.1: {penalty_type: neg_entropy, penalty_weight: 0.1}
    seeds: [1, 2, 3]
    rule: {margin: 0.001}

docs/studies.md explains each line. Stop it at any time; the same command continues.
"""


class StudyCommand(EvaluationOptions):
    """Which study, and how it is run; with from_runs, how the runs are evaluated."""

    file: File | None = None
    """The study file."""

    from_runs: tuple[Folder, ...] = ()
    """In place of a study file: runs that are trained already, such as those of a sweep. The page
    then says that nothing was declared before."""

    baseline: tuple[Folder, ...] = ()
    """With from_runs: the unpenalised ones; by default those with penalty_weight 0."""

    output: Folder | None = None
    """Folder of the study; null takes outputs/<name of the file>."""

    launcher: Literal["local", "slurm"] = "local"
    """local: processes on this machine. slurm: a job for each run; the part slurm of the study file
    says what a job asks for."""

    workers: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Runs at a time on this machine; null takes one for each GPU, or as many as cores and memory
    allow."""

    plan: bool = False
    """Print runs, tokens, hours and disk; start nothing."""

    allow_import: bool = False
    """Import and run the penalties (module:name) that the file names."""

    @classmethod
    def broken_rules(cls, values: Mapping[str, Any]) -> Iterable[tuple[Sequence[str], str]]:
        """A study file, or runs."""
        if (values.get("file") is None) == (not values.get("from_runs")):
            yield ("file", "from_runs"), "allowed is a study file, or --from_runs RUNS; not both"
        if values.get("baseline") and not values.get("from_runs"):
            yield ("baseline",), "baseline: a study file names its own; allowed with from_runs"
        defaults = EvaluationOptions().of_evaluation()
        given = [name for name, value in defaults.items() if values.get(name, value) != value]
        if given and not values.get("from_runs"):
            names = ", ".join(given)
            yield given, f"{names}: allowed with from_runs; a study file has them in its rule"


def parse(argv: Sequence[str], prog: str) -> StudyCommand:
    """The options that the command line asks for. Raises `ConfigError` with all problems."""
    parser = evaluation_parser(
        prog=prog,
        description="Train the arms of a study with every seed, and give the verdict.",
        epilog=EPILOG,
    )
    return parse_options(StudyCommand, argv, parser=parser, positional=("file",))


def run(options: StudyCommand) -> int:
    """Run the study, print verdicts and the path of the page; 128 + the signal that ended it."""
    from sharpgpt.studies import study as studies

    if options.from_runs:
        output = options.output or "outputs/study"
        found = studies.study_of_runs(
            options.from_runs,
            output=output,
            baseline=options.baseline,
            **options.of_evaluation(),
        )
        return _shown(found, user_path(output))
    assert options.file is not None, "or broken_rules refuses"
    study = Study.read(options.file, allow_import=options.allow_import)
    folder = user_path(options.output) if options.output else studies.default_output(options.file)
    if options.plan:
        show(
            studies.plan_study(
                study, folder, launcher=options.launcher, workers=options.workers
            ).text()
        )
        show_line("Nothing was started.")
        return 0
    try:
        result = studies.run_study(
            study,
            folder,
            launcher=options.launcher,
            workers=options.workers,
            allow_import=options.allow_import,
        )
    except studies.StudyStoppedError as stopped:
        return 128 + stopped.signal_number
    return _shown(result, folder)


def _shown(result: "StudyResult", folder: Path) -> int:
    for arm in result.content["arms"]:
        show_line(f"{arm['name']}: {arm['sentence']}")
    show_line(folder / "study.html")
    return 0
