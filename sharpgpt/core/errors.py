"""The error whose message is for the user."""

from sharpgpt.core.terminal import message as shown


class UserError(Exception):
    """What the user can fix; the message says what was given, what is allowed, what to do.

    The command line prints the message, after `label`, without a traceback and exits with
    `exit_code`.
    """

    exit_code = 1
    label = "error: "
    is_shown = True
    """False on all but one of the processes that raise this together."""

    def __init__(self, message: str) -> None:
        super().__init__(shown(message))  # it may quote a file from anyone
