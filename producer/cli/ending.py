"""Every command ends with a sentence and an exit code, never with a traceback."""

import logging
import os
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from tidemill.models.errors import NOT_ALL_SUCCEEDED, OptionError, TidemillError
from tidemill.models.lines import Lines
from tidemill.models.text import printable
from tidemill.producer.screen.printing import print_line

INTERRUPTED = 130
UNEXPECTED = 70
_REPEAT_SECONDS = 30.0


def code_of(command: Callable[[], object]) -> int:
    """Run the command line; every failure is a sentence on stderr and the exit code."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the program that started us
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115
        # A reply may hold what the terminal's encoding cannot: show it escaped rather than fail.
        getattr(sys, name).reconfigure(errors="backslashreplace")
    _show_logs_as_sentences()
    try:
        result = command()
        code = result if isinstance(result, int) else 0
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that closing stdout does not fail again
        code = NOT_ALL_SUCCEEDED
    except TidemillError as error:
        print_line(f"tidemill: {_sentence(error)}", err=True)
        code = error.exit_code
    except OSError as error:
        code = _cannot_write(error)
    except Exception as error:  # noqa: BLE001  # the last line of defence
        code = _unexpected(error)
    return code


def _sentence(error: TidemillError) -> str:
    """The error in words of the command line, where Python has keyword arguments: `--max-tokens`, not `max_tokens`."""
    if isinstance(error, OptionError):
        return f"--{error.option.replace('_', '-')} is {error.shown}; {error.why}"
    return str(error)


def leave(code: int) -> NoReturn:
    """End at once: everything is stored, and a thread that still waits for a line of stdin cannot be stopped."""
    if (database := sys.modules.get("tidemill.models.database")) is not None:
        database.close()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:
        code = code or NOT_ALL_SUCCEEDED
    except OSError as error:
        code = code or _cannot_write(error)
    os._exit(code)


def _cannot_write(error: OSError) -> int:
    if os.environ.get("TIDEMILL_DEBUG"):
        raise error
    where = error.filename or "the output"
    with suppress(OSError):
        print_line(f"tidemill: {where} cannot be written or read: {error.strerror or error}.", err=True)
    return TidemillError.exit_code


def _show_logs_as_sentences() -> None:
    """Show what a worker inside this command logs in the form of the command's own sentences."""
    logging.basicConfig(level=logging.WARNING)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(Lines("tidemill: %(message)s"))
        handler.addFilter(_OnceInAWhile())
    for talkative in ("amqp", "celery", "kombu"):
        logging.getLogger(talkative).setLevel(logging.ERROR)


class _OnceInAWhile(logging.Filter):
    """Several threads notice the same trouble again and again; it is shown once every half minute."""

    def __init__(self) -> None:
        super().__init__()
        self._shown_at: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Let a sentence through unless it was shown a moment ago; other numbers do not make it another sentence."""
        if record.levelno < logging.WARNING:
            return True  # what becomes of each job, for users who set the log level
        words = re.sub(r"\d+", "", record.getMessage())
        is_new = record.created - self._shown_at.get(words, 0.0) > _REPEAT_SECONDS
        if is_new:
            self._shown_at[words] = record.created
        return is_new


def _unexpected(error: Exception) -> int:
    show = getattr(error, "show", None)  # how the parser's own errors print themselves
    if show is not None:
        error.message = printable(str(getattr(error, "message", "")))  # type: ignore[attr-defined]
        show()
        return int(getattr(error, "exit_code", 2))
    if type(error).__name__ in ("Abort", "Exit"):
        return int(getattr(error, "exit_code", INTERRUPTED))
    if os.environ.get("TIDEMILL_DEBUG"):
        raise error
    print_line(
        f"tidemill: unexpected {type(error).__name__}: {error}. This is a defect; nothing that was stored is lost. "
        "TIDEMILL_DEBUG=1 shows where it happened; please report it.",
        err=True,
    )
    return UNEXPECTED
