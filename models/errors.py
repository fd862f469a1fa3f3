"""Everything that can go wrong through no fault of ours ends in one sentence for the user."""

NOT_ALL_SUCCEEDED = 1
"""The exit code of a command that did what it should, where not all that it asked for came."""


class TidemillError(Exception):
    """A condition that the user can mend. Its text is the whole message: what is wrong, where, and what to do.

    The command line prints the text to stderr and exits with `exit_code`; no traceback is shown.
    """

    exit_code = 2


class InputError(TidemillError):
    """The input file, stream or frame cannot be used as given; the text names the file and, where known, the line."""


class SettingsError(TidemillError):
    """A setting, an environment variable or a command-line option has a value that cannot work."""


class DatabaseError(TidemillError):
    """The database cannot be reached, is full, or has a schema that this version does not know."""
