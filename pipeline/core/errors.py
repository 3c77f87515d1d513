"""The errors that a user can cause and fix; everything else is a bug and keeps its traceback."""

from pipeline.core.text import make_printable


class UserError(ValueError):
    """A mistake in the input, the options or the environment.

    The message is one line: where, what was found, what is allowed, what to do.
    The command line prints it alone and ends with exit code 2.

    Args:
        message: The line to print. It may quote names and contents of files; their invisible characters become codes.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(make_printable(message))


class VolumeError(UserError):
    """A file that cannot be used as a scan; the message names the file."""
