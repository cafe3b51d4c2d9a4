"""The error whose message is for the user."""


class UserError(Exception):
    """What the user can fix; the message says what was given, what is allowed, what to do.

    The command line prints the message, after `label`, without a traceback and exits with
    `exit_code`.
    """

    exit_code = 1
    label = "error: "

    def __init__(self, message: str) -> None:
        # It may quote a file from anyone: no control character may reach the terminal.
        super().__init__(
            "".join(c if c.isprintable() or c in "\n\t" else _escaped(c) for c in message)
        )


def _escaped(character: str) -> str:
    return character if character.isspace() and ord(character) > 0x9F else ascii(character)[1:-1]
