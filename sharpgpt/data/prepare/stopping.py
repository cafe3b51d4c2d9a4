"""Where a preparation stops before the end of its source: at its limits, or at a signal."""

from collections.abc import Sequence
from dataclasses import dataclass

from sharpgpt.core.errors import UserError


class Stopped(UserError):  # noqa: N818 - not a failure: the user asked for it
    """A signal ended the preparation after a commit; the message says how to continue."""

    label = ""

    def __init__(self, signal_number: int, message: str) -> None:
        super().__init__(message)
        self.signal_number = signal_number
        self.exit_code = 128 + signal_number


@dataclass
class Limits:
    """Counts documents and tokens up to `max_documents` or `max_tokens` (None: no limit).

    The limit is reached at the same document whether or not the preparation was stopped before.
    """

    max_documents: int | None
    max_tokens: int | None
    num_documents: int
    """So far, as `num_tokens`."""
    num_tokens: int
    is_reached: bool = False

    def take(self, counts: Sequence[int], ends: Sequence[bool]) -> int:
        """How many of these pieces to keep; `counts` are their tokens, `ends` marks document ends.

        The document that reaches a limit is kept whole.
        """
        if self.max_documents is None and self.max_tokens is None:
            return len(counts)
        for i, (count, is_end) in enumerate(zip(counts, ends, strict=True)):
            self.num_tokens += count
            self.num_documents += is_end
            self.is_reached = is_end and (
                (self.max_documents is not None and self.num_documents >= self.max_documents)
                or (self.max_tokens is not None and self.num_tokens >= self.max_tokens)
            )
            if self.is_reached:
                return i + 1
        return len(counts)
