"""Where a preparation stops before the end of its source: at its limits, or at a signal."""

from collections.abc import Sequence

from sharpgpt.core.errors import UserError
from sharpgpt.data.sources.documents import Batch


class Stopped(UserError):  # noqa: N818 - not a failure: the user asked for it
    """A signal ended the preparation after a commit; the message says how to continue."""

    label = ""

    def __init__(self, signal_number: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


class Limits:
    """Counts documents and tokens up to `max_documents` or `max_tokens` (None: no limit).

    `num_documents` and `num_tokens` are the counts so far. The limit is reached at the same
    document whether or not the preparation was stopped before.
    """

    def __init__(
        self,
        max_documents: int | None,
        max_tokens: int | None,
        *,
        num_documents: int = 0,
        num_tokens: int = 0,
    ) -> None:
        self._max_documents, self._max_tokens = max_documents, max_tokens
        self._num_documents, self._num_tokens = num_documents, num_tokens
        self.is_reached = False

    def take(self, counts: Sequence[int], ends: Sequence[bool]) -> int:
        """How many of these pieces to keep; `counts` are their tokens, `ends` marks document ends.

        The document that reaches a limit is kept whole.
        """
        if self._max_documents is None and self._max_tokens is None:
            return len(counts)
        for i, (count, is_end) in enumerate(zip(counts, ends, strict=True)):
            self._num_tokens += count
            self._num_documents += is_end
            self.is_reached = is_end and (
                (self._max_documents is not None and self._num_documents >= self._max_documents)
                or (self._max_tokens is not None and self._num_tokens >= self._max_tokens)
            )
            if self.is_reached:
                return i + 1
        return len(counts)


def ends_of(batch: Batch) -> list[bool]:
    """Which pieces of a batch end a document."""
    return [piece.ends_document for piece in batch.pieces]
