"""What a change of a setting changes, written beside each setting as a label of its type.

`learning_rate: Mathematics[Positive]` is a `Positive` to type checkers and pydantic, and of
`Kind.MATHEMATICS` to whoever resumes or compares runs (resume_rules.py).
"""

from enum import Enum
from typing import Annotated, TypeVar


class Kind(Enum):
    """What a change of a setting changes, and what resuming a run does about it."""

    FIXED = "the shapes of the checkpoint's tensors: always refused"
    MATHEMATICS = "what is computed: refused unless allow_config_change"
    SCHEDULE = "what later steps compute: as above, but accepted where no step taken would differ"
    ROUNDING = "the same mathematics in other floating-point operations: reported"
    POLICY = "how the run reacts to bad numbers: reported"
    RECORDS = "what is recorded, and when: reported"
    HOUSEKEEPING = "nothing in the results: not mentioned"


T = TypeVar("T")
Fixed = Annotated[T, Kind.FIXED]
Mathematics = Annotated[T, Kind.MATHEMATICS]
Schedule = Annotated[T, Kind.SCHEDULE]
Rounding = Annotated[T, Kind.ROUNDING]
Policy = Annotated[T, Kind.POLICY]
Records = Annotated[T, Kind.RECORDS]
Housekeeping = Annotated[T, Kind.HOUSEKEEPING]
