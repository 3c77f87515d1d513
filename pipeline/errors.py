"""The errors that a user can cause and mend; everything else is a bug and keeps its traceback."""


class UserError(ValueError):
    """A mistake in the input, the options or the environment.

    The message is one line: where, what was found, what is allowed, what to do.
    The command line prints it alone and ends with exit code 2.
    """


class VolumeError(UserError):
    """A file that cannot be used as a scan; the message names the file."""
