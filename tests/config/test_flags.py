"""Flags of an `Options` class."""

from typing import ClassVar

import pytest

from sharpgpt.config import ConfigError
from sharpgpt.config.flags import Flags, add_options, flag_parser, read_flags
from sharpgpt.config.options import Options
from tests.config.test_yaml_files import MARKED, TYPED


class Job(Options):
    sections: ClassVar = {"label": "Text"}

    size: int | None = 3
    """Number of things, 100% of them."""

    is_fast: bool = True
    """Hurry."""

    label: str
    """Its label."""

    nickname: str | None = None
    """Its other label."""


def read(*argv: str) -> Flags:
    parser = flag_parser(prog="job")
    parser.add_argument("--verbose", action="store_true")
    add_options(parser, Job)
    return read_flags(parser, Job, argv)


def test_values_are_read_as_in_yaml_and_texts_stay_texts() -> None:
    flags = read("--size", "-2", "--no_is_fast", "--label", "007", "--verbose")
    assert flags == ({"size": -2, "is_fast": False, "label": "007"}, {"verbose": True}, [])
    assert read("--size=null", "--is_fast").values == {"size": None, "is_fast": True}


@pytest.mark.parametrize("text", [*TYPED, *MARKED])
def test_a_text_is_the_text_that_was_typed(text: str) -> None:
    """`--name=value` is the form of a wandb sweep."""
    for argv in (["--label", text], [f"--label={text}"]):
        if not text.startswith("-") or "=" in argv[0]:
            assert Job.from_dict(read(*argv).values).label == text


def test_none_is_null_or_none_where_the_option_may_be_null() -> None:
    for text in ("null", "None"):
        job = Job.from_dict(read("--label", text, "--size", text, f"--nickname={text}").values)
        assert (job.label, job.size, job.nickname) == (text, None, None)
    assert read("--label=x", "--nickname=none", "--size=none").values["nickname"] == "none"


def test_what_is_no_flag_is_a_problem() -> None:
    assert read("--lable", "x", "--speed=3").problems == [
        "--lable: no such flag; did you mean --label?",
        "--speed: no such flag; --help lists every flag",
    ]
    assert read("x").problems == ["x: not a flag; settings are given as --name value"]
    with pytest.raises(ConfigError, match="expected one argument; --help lists every flag"):
        read("--size")


def test_help_shows_sections_descriptions_and_defaults() -> None:
    parser = flag_parser(prog="job")
    add_options(parser, Job)
    text = parser.format_help()
    for part in ("--size INT", "100% of them. [3]", "--is_fast [BOOL]", "Text:", "--label TEXT"):
        assert part in text
    assert "--no_is_fast" not in text
    assert "Its label." in text
