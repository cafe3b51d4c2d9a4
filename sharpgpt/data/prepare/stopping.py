"""The end of a preparation by a signal."""

from sharpgpt.core.errors import UserError


class Stopped(UserError):  # noqa: N818 - what the user asked for
    """A signal ended the preparation after a commit; the message says how to go on."""

    label = ""

    def __init__(self, signal_number: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number
