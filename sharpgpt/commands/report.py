"""`sharpgpt report`: write report.html of a run folder again, or one page over several runs."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sharpgpt.config.flags import flag_parser, parse_options
from sharpgpt.config.options import Options, shown
from sharpgpt.config.values import Folder, NewFile
from sharpgpt.core.files import user_path
from sharpgpt.core.terminal import show_line


class ReportOptions(Options):
    """What to report, and where."""

    run_folders: tuple[Folder, ...]
    """Such as outputs/NAME."""

    output: NewFile | None = None
    """The page over several runs; null is runs.html. Not for one run."""

    @classmethod
    def broken_rules(cls, values: Mapping[str, Any]) -> Iterable[tuple[Sequence[str], str]]:
        """(the options concerned, the problem) for each rule that is broken."""
        if values.get("output") is not None and len(values.get("run_folders", ())) == 1:
            yield (
                ("output", "run_folders"),
                f"output: given {shown(values['output'])}, but the report of one run is "
                "report.html in its folder; leave --output out, or give several runs",
            )


def parse(argv: Sequence[str], prog: str) -> ReportOptions:
    """The options that the command line asks for. Raises `ConfigError` with all problems."""
    description = "Write report.html of a run folder again, or one page over several runs."
    parser = flag_parser(prog=prog, description=description)
    return parse_options(ReportOptions, argv, parser=parser, positional=("run_folders",))


def run(options: ReportOptions) -> int:
    """Write the page and print its path. Raises `UserError` for a folder that holds no run."""
    from sharpgpt.report.page import write_report
    from sharpgpt.report.runs import write_runs_report
    from sharpgpt.runs.resolve import resolve_run

    folders = [resolve_run(folder) for folder in options.run_folders]
    if len(folders) > 1:
        show_line(write_runs_report(folders, user_path(options.output or "runs.html")))
    else:
        show_line(write_report(folders[0]))
    return 0
