"""The table of mutants fits the code: `make mutants` could try each of them."""

from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.mutants import run
from tests.mutants.mutant import Mutant
from tests.mutants.table import ALL


@pytest.mark.parametrize("mutant", ALL, ids=lambda mutant: mutant.title)
def test_its_old_text_occurs_once_and_its_tests_exist(mutant: Mutant) -> None:
    """If you changed this line on purpose, change the mutant too (tests/mutants/)."""
    assert mutant.source(REPOSITORY)
    for test in mutant.tests:
        file, _, function = test.removeprefix("--deselect=").partition("::")
        text = (REPOSITORY / file).read_text(encoding="utf-8")
        assert not function or f"def {function}(" in text, test


def test_there_are_enough_and_each_has_its_own_title() -> None:
    assert len(ALL) >= 60
    assert len({mutant.title for mutant in ALL}) == len(ALL)
    assert sum(bool(mutant.equivalent) for mutant in ALL) <= 0.05 * len(ALL)


def test_the_report_counts_what_survived(capsys: pytest.CaptureFixture[str]) -> None:
    killed, survivor, equivalent = (
        Mutant("file.py", name, "a", "b", (), "it is never read" if name == "c" else "")
        for name in "abc"
    )
    many = [Mutant("file.py", str(number), "a", "b", ()) for number in range(30)]
    outcomes = {mutant.title: "killed" for mutant in [killed, *many]}
    assert run.report([killed, *many], outcomes, 60) == 0
    outcomes[equivalent.title] = "passed"
    assert run.report([killed, *many, equivalent], outcomes, 60) == 0
    assert run.report([killed, equivalent], outcomes, 60) == 1, "half of them are killed"
    assert "SURVIVED file.py: c: it is never read" in capsys.readouterr().out
    outcomes[survivor.title] = "passed"
    assert run.report([killed, *many, survivor], outcomes, 60) == 1
    outcomes[survivor.title] = "error\nthe old text occurs 0 times"
    assert run.report([killed, *many, survivor], outcomes, 60) == 1
    outcomes[equivalent.title] = "killed"
    assert run.report([killed, *many, equivalent], outcomes, 60) == 1


def test_an_old_text_that_is_gone_or_there_twice_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text("ONE = 1\nTWO = 1 + 1\n", encoding="utf-8")
    assert (
        Mutant("module.py", "", "ONE = 1", "ONE = 2", ()).source(tmp_path)
        == "ONE = 2\nTWO = 1 + 1\n"
    )
    for old, new in (("ONE = 3", "ONE = 2"), ("1", "2"), ("ONE = 1", "ONE = 1")):
        with pytest.raises(ValueError, match="the old text occurs"):
            Mutant("module.py", "", old, new, ()).source(tmp_path)
    with pytest.raises(SyntaxError):
        Mutant("module.py", "", "ONE = 1", "ONE = (", ()).source(tmp_path)
