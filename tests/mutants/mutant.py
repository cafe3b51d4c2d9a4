"""A mutant: one deliberate mistake in one file, and the tests that must notice it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Mutant:
    """`old` occurs exactly once in `file`, a path from the root; it is replaced by `new`."""

    file: str
    name: str
    old: str
    new: str
    tests: tuple[str, ...]
    """What pytest is given; the quickest to notice it comes first."""
    equivalent: str = ""
    """Why no test can notice it."""

    @property
    def title(self) -> str:
        return f"{self.file.removeprefix('sharpgpt/')}: {self.name}"

    def source(self, root: Path) -> str:
        """The text of the file with the mistake in it. Raises ValueError if `old` is not there."""
        text = (root / self.file).read_text(encoding="utf-8")
        if text.count(self.old) != 1 or self.old == self.new:
            raise ValueError(f"{self.title}: the old text occurs {text.count(self.old)} times")
        mutated = text.replace(self.old, self.new)
        compile(mutated, self.file, "exec")
        return mutated


def mutants(file: str, tests: Sequence[str], *changes: tuple[str, ...]) -> list[Mutant]:
    """Mutants of one file, from (name, old, new), with the reason if it is equivalent."""
    return [
        Mutant(file, name, old, new, tuple(tests), *reason) for name, old, new, *reason in changes
    ]
