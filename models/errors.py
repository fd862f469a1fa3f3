"""Everything that goes wrong through no fault of ours ends in one sentence for the user."""

NOT_ALL_SUCCEEDED = 1
"""The exit code of a command that did its work, and not all of it went well."""

NOT_ENDED = 3
"""The exit code of a command that stopped waiting: rows are still open, and the same command goes on."""


class TidemillError(Exception):
    """A condition that the user can fix. Its text is the whole message: what is wrong, where, and what to do.

    The command line prints the text to stderr and exits with `exit_code`; no traceback is shown.
    """

    exit_code = 2


class InputError(TidemillError):
    """The input file, stream or frame cannot be used; the text names the file and, where known, the line."""


class SettingsError(TidemillError):
    """A setting, an environment variable or a command-line option has a value that cannot work."""


class OptionError(SettingsError):
    """An option has a value that it cannot have, or there is no option of that name.

    The text is in words of Python: `endpoint='foo': it must be 'chat' or 'responses'.` The command line makes its
    own sentence of the parts.

    Args:
        option: its name, as Python callers write it.
        value: the value that was passed; it is shortened to one line.
        why: the end of the sentence: what the option must be, or what to do.
    """

    def __init__(self, option: str, value: object, why: str) -> None:
        from tidemill.models.text import one_line  # needed only when something is wrong

        self.option = option
        self.shown = one_line(repr(value), 60)
        self.why = why
        super().__init__(f"{option}={self.shown}: {why}")


class DatabaseError(TidemillError):
    """The database cannot be reached, is full, or has a schema that this version does not know."""


class BrokerError(TidemillError):
    """The broker does not answer. The jobs are stored and run once it does."""


class StoppedEarlyError(TidemillError):
    """A run was stopped by a limit of its own. Open rows stay open, and the same command goes on with them."""


class NotEndedError(StoppedEarlyError, TimeoutError):
    """It took too long, or the provider serves nobody; the text says what is open and what it waits for."""

    exit_code = NOT_ENDED


class RowFailedError(StoppedEarlyError):
    """A row has failed; the text says why."""

    exit_code = NOT_ALL_SUCCEEDED


class BudgetReachedError(StoppedEarlyError):
    """A cap on money leaves no room for the next call; the text says which, what is spent, and what goes on."""

    exit_code = NOT_ALL_SUCCEEDED


class NotTrainedError(TidemillError):
    """A fine-tune has ended without a model."""

    exit_code = NOT_ALL_SUCCEEDED
