"""`sharpgpt power`: how many seeds, and how long a validation text, a study needs to find a
difference, from the variances of a pilot."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from sharpgpt.config.flags import flag_parser, parse_options
from sharpgpt.config.values import Folder, PathText, Positive
from sharpgpt.core.files import user_path
from sharpgpt.core.numbers import counted, plain, short
from sharpgpt.core.terminal import show_line
from sharpgpt.evaluation.options import PassOptions
from sharpgpt.evaluation.pilot import MAX_SEEDS, Pilot, Question
from sharpgpt.evaluation.power import MAX_ARMS
from sharpgpt.evaluation.verdict import MIN_MARGIN

SEEDS = (2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 50, 100)
TIMES_TEXT = (0.25, 0.5, 1, 2, 4, 16)
"""The rows and columns of the table."""


class PowerOptions(PassOptions):
    """What to find, and from what its variance is known. Those of `compare` are for runs."""

    pilot: tuple[PathText, ...]
    """A comparison.json or its folder, which is not evaluated again; or penalised runs of at least
    2 seeds, as `compare` takes them."""

    baseline: tuple[Folder, ...] = ()
    """The unpenalised runs that penalised runs are compared with."""

    detect: Positive
    """Nats to find: by how much the true difference is beyond the margin."""

    power: Annotated[float, Field(gt=0, lt=1)] = 0.8
    """The probability with which it is to be found."""

    arms: Annotated[int, Field(ge=1, le=MAX_ARMS)] | None = None
    """Arms of the study, which share the error rate; null is as many as the pilot has."""

    margin: Annotated[float, Field(ge=MIN_MARGIN)] | None = None
    """Nats within which nothing is called different; null is that of the pilot."""

    @classmethod
    def broken_rules(cls, values: Mapping[str, Any]) -> Iterable[tuple[Sequence[str], str]]:
        """(the options concerned, the problem) for each rule that is broken."""
        pilot, baseline = values.get("pilot") or (), values.get("baseline") or ()
        files = [one for one in pilot if _comparison_file(one) is not None]
        if files and (len(pilot) > 1 or baseline):
            yield (
                ("pilot", "baseline"),
                f"pilot: given {files[0]}, which is a comparison and has its baseline; give it "
                "alone, or runs and their baseline",
            )
        elif pilot and not files and not baseline:
            yield (
                ("pilot", "baseline"),
                "baseline: missing; runs are compared with unpenalised ones of the same seeds, so "
                "give those too, or a comparison.json as the pilot",
            )


def _comparison_file(path: str) -> Path | None:
    """The comparison.json that a path names; None for a run."""
    given = user_path(path)
    if given.suffix == ".json":
        return given
    inside = given / "comparison.json"
    return inside if inside.is_file() else None


def parse(argv: Sequence[str], prog: str) -> PowerOptions:
    """The options that the command line asks for. Raises `ConfigError` with all problems."""
    description = "How many seeds, and how long a validation text, a difference needs."
    return parse_options(PowerOptions, argv, parser=flag_parser(prog=prog, description=description))


def run(options: PowerOptions) -> int:
    """Print what is known of the variances, what is needed, and the table of the power."""
    pilot = _pilot(options)
    question = Question(
        detect=options.detect,
        margin=pilot.margin if options.margin is None else options.margin,
        error_rate=pilot.error_rate,
        num_arms=options.arms or len(pilot.arms),
        target=options.power,
    )
    for line in [*_known(pilot, question), *_needed(pilot, question), *_table(pilot, question)]:
        show_line(plain(line)) if line else show_line("")
    return 0


def _pilot(options: PowerOptions) -> Pilot:
    """Raises `UserError`: the pilot cannot be read or evaluated, or has one seed alone."""
    file = _comparison_file(options.pilot[0])
    if file is not None:
        return Pilot.read(file)
    from sharpgpt.evaluation.compare import compare

    result = compare(options.pilot, baseline=options.baseline, num_texts=0, **options.of_passes())
    return Pilot.of(result.content, "pilot")


def _known(pilot: Pilot, question: Question) -> list[str]:
    """The pilot, and its standard deviations with what is known of them."""
    lines = [
        f"Pilot: {counted(len(pilot.arms), 'arm')}, {counted(pilot.num_tokens, 'token')} of "
        "validation text. Standard deviations of a difference, in nats:",
        "",
        f"{'arm':<32} {'seeds':>5}  {'between seeds (95% interval)':>30}  {'by the text':>11}  "
        f"{'seeds needed':>12}",
    ]
    for name, one in [*pilot.arms.items(), ("all arms, mean variance", pilot.variances)]:
        ends = [(pilot.at_end(one, upper=upper).seed) ** 0.5 for upper in (False, True)]
        between = f"{one.seed**0.5:.5f} ({ends[0]:.5f} to {ends[1]:.5f})"
        text = (one.text + one.rest) ** 0.5
        needed = pilot.seeds_needed(question, one, num_blocks=pilot.num_blocks)
        lines.append(
            f"{name[:32]:<32} {one.num_seeds:>5}  {between:>30}  {text:>11.5f}  "
            f"{_seeds(needed):>12}"
        )
    return lines


def _seeds(number: int | None, noun: str = "") -> str:
    """A number of seeds, with its noun where one is given."""
    found = MAX_SEEDS if number is None else number
    return ("over " if number is None else "") + (counted(found, noun) if noun else str(found))


def _needed(pilot: Pilot, question: Question) -> list[str]:
    """The answer, and how far it depends on what the pilot does not know."""
    variances = pilot.variances
    ends = (pilot.at_end(variances, upper=upper) for upper in (False, True))
    needed, fewest, most = (
        pilot.seeds_needed(question, one, num_blocks=pilot.num_blocks) for one in (variances, *ends)
    )
    lines = [
        "",
        f"To find a true difference of {question.margin + question.detect:g} nats "
        f"({question.detect:g} beyond the margin of {question.margin:g}) with a probability of "
        f"{100 * question.target:g}%, at an error rate of {100 * question.error_rate:g}% over "
        f"{counted(question.num_arms, 'arm')}:",
        f"{_seeds(needed, 'seed')} on a text as long as the pilot's. The variance between seeds is "
        f"known from {counted(variances.num_seeds, 'seed')} alone; at the ends of its 95% interval "
        f"{_seeds(fewest)} to {_seeds(most, 'seed')}.",
    ]
    if needed is None:
        found = ((seeds, _tokens(pilot, question, seeds)) for seeds in SEEDS)
        enough = next(((seeds, tokens) for seeds, tokens in found if tokens), None)
        lines.append(
            f"A longer text: {counted(enough[0], 'seed')}, and tokens: {short(enough[1])}."
            if enough
            else f"Nor do {SEEDS[-1]} seeds suffice on any text: look for a larger difference."
        )
    if not all(one.has_rest for one in pilot.arms.values()):
        lines.append(
            "NOTE: this comparison.json is of an earlier version, which did not tell apart what "
            "seeds do not share: the power is understated a little."
        )
    return lines


def _tokens(pilot: Pilot, question: Question, num_seeds: int) -> int | None:
    return pilot.tokens_needed(question, pilot.variances, num_seeds=num_seeds)


def _table(pilot: Pilot, question: Question) -> list[str]:
    """Power by seeds and tokens, and the tokens that each number of seeds needs."""
    columns = sorted({max(4, round(times * pilot.num_blocks)) for times in TIMES_TEXT})
    heads = [short(blocks * pilot.block_length) for blocks in columns]
    lines = [
        "",
        "Power by seeds and tokens of validation text (the mean variance over arms):",
        "",
        f"{'seeds':>5}  " + "".join(f"{head:>9}" for head in heads) + "    tokens needed",
    ]
    variances = pilot.variances
    for seeds in SEEDS:
        cells = [
            pilot.power(question, variances, num_seeds=seeds, num_blocks=blocks)
            for blocks in columns
        ]
        tokens = _tokens(pilot, question, seeds)
        lines.append(
            f"{seeds:>5}  "
            + "".join(f"{100 * cell:>8.0f}%" for cell in cells)
            + (f"{short(tokens):>17}" if tokens else f"{'no text suffices':>17}")
        )
    return lines
