import subprocess
import sys
from pathlib import Path

import pytest

from sharpgpt.config.options import ConfigError, annotations, descriptions
from sharpgpt.data.prepare.options import PrepareOptions, parse_prepare_flags, prepare_parser

REPOSITORY = Path(__file__).resolve().parents[3]


def parsed(line: str) -> PrepareOptions:
    return parse_prepare_flags(line.split(), "sharpgpt prepare")


def test_flags_become_options() -> None:
    options = parsed(
        "--dataset openwebtext --output=out --tokenizer char --max_tokens 1e9 --streaming "
        "--max_documents 100_000 --val_fraction 0.01 --num_workers 0 --form llm.c --revision null"
    )
    assert options == PrepareOptions(
        dataset="openwebtext",
        output="out",
        tokenizer="char",
        max_tokens=1_000_000_000,
        streaming=True,
        max_documents=100_000,
        val_fraction=0.01,
        num_workers=0,
        form="llm.c",
        revision=None,
    )
    assert not parsed("--dataset a --output b --streaming false").streaming


def test_a_text_stays_a_text() -> None:
    options = parsed("--dataset 123 --output 1e9 --text_column true --revision 007")
    assert (options.dataset, options.output) == ("123", "1e9")
    assert (options.text_column, options.revision) == ("true", "007")


def test_all_problems_come_in_one_message() -> None:
    with pytest.raises(ConfigError) as caught:
        parsed("--max_tokenz 3 --val_fraction 1 --form nanogtp --shard_tokens 0 --num_workers x")
    assert caught.value.exit_code == 2
    starts = [problem.split(":")[0] for problem in caught.value.problems]
    assert starts == [
        *("--max_tokenz", "dataset", "output"),
        *("val_fraction", "form", "shard_tokens", "num_workers"),
    ]
    message = str(caught.value)
    assert "did you mean --max_tokens?" in message
    assert "did you mean nanogpt?" in message
    assert "given 1, allowed is a number, above 0, below 1, or null" in message


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("--dataset", "expected one argument"),
        ("--dataset a --output b c", "c: not a flag"),
        ("--dataset a --output b --commit_seconds nan", "commit_seconds: given"),
        ("--dataset a --output b --max_documents -1", "max_documents: given -1"),
        ("--dataset a --output b --max_documents=1.5", "max_documents: given 1.5"),
        # So many processes were started, until the machine had no more.
        ("--dataset a --output b --num_workers=100000", "num_workers: given 100000, allowed is"),
        ("--dataset a --output b --max_tokens=!!bool", "max_tokens: given '!!bool'"),
        (f"--dataset a --output b --max_tokens={5000 * '9'}", "max_tokens: given '999"),
    ],
)
def test_each_problem_is_named(line: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parsed(line)
    assert problem in str(caught.value)


def test_python_values_are_checked_too() -> None:
    with pytest.raises(ConfigError, match="2 problems"):
        PrepareOptions(dataset="", output="b", shard_tokens=0)
    with pytest.raises(ConfigError, match="no such setting"):
        PrepareOptions.from_dict({"dataset": "a", "output": "b", "shard_token": 1})


def test_help_describes_every_option_and_imports_nothing_heavy() -> None:
    text = " ".join(prepare_parser("sharpgpt prepare").format_help().split())
    for name, description in descriptions(PrepareOptions).items():
        assert f"--{name}" in text
        assert description.replace("%", "%%") in text
    assert set(descriptions(PrepareOptions)) == set(annotations(PrepareOptions))
    program = (
        "import sys; from sharpgpt.commands.main import main\n"
        "try: main(['prepare', '--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit(bool({'torch', 'numpy', 'pyarrow', 'datasets'} & set(sys.modules)))"
    )
    subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL
    )
