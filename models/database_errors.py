"""What a database or its driver says against us becomes one sentence, and shows neither SQL nor parameters.

An error that is a row's own fault (its values cannot be stored) leaves as what it is, for only that row is to blame.
Every other one means that the database is away or refuses everybody.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, StatementError

from tidemill.models.errors import DatabaseError
from tidemill.models.text import one_line
from tidemill.models.urls import shown_url

_LIBRARIES = ("sqlalchemy", "psycopg", "sqlite3")
_FAULTS_OF_ROWS = ("DataError", "IntegrityError")
"""Names that both drivers and SQLAlchemy share; psycopg's are SQLSTATE 22 and 23."""

_CONFLICTS = ("40001", "40P01")
"""Serialization failure, deadlock."""


class ConflictError(DatabaseError):
    """Another transaction was in the way, and this one was undone as a whole; the same work may succeed at once."""


@contextmanager
def explain_errors(url: URL) -> Iterator[None]:
    """Turn errors of SQLAlchemy and its drivers into sentences for the user; a row's own fault passes, without the row.

    Args:
        url: names the database in the sentence.

    Raises:
        ConflictError: the same work can be tried again at once.
        DatabaseError: the database cannot be used, by anybody.
    """
    try:
        yield
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in _LIBRARIES:
            raise
        if _is_fault_of_row(error):
            _forget_row(error)
            raise
        kind = ConflictError if _code(error) in _CONFLICTS else DatabaseError
        raise kind(_sentence(error, url)) from error


def _is_fault_of_row(error: Exception) -> bool:
    if isinstance(error, StatementError) and not isinstance(error, DBAPIError):
        return True  # a column's type of ours could not write the value
    return any(base.__name__ in _FAULTS_OF_ROWS for base in type(error).__mro__)


def _forget_row(error: Exception) -> None:
    """Leave the reason alone in an error's text: no statement, no parameters, no line with the row's values."""
    error.args = (reason_of(error),)
    if isinstance(error, StatementError):
        error.statement = error.params = error.code = None
    if isinstance(error, DBAPIError) and error.orig is not None:
        error.orig.args = error.args


def reason_of(error: BaseException) -> str:
    """Why the database or its driver refuses, in its own words: one line, without the row, SQL or passwords."""
    cause = getattr(error, "orig", None) or error
    words = getattr(getattr(cause, "diag", None), "message_primary", None) or str(cause).strip().partition("\n")[0]
    words = words.removeprefix("connection is bad: ").removeprefix("connection failed: ")
    return one_line(words.partition(" (Background on this error")[0]).rstrip(".") or type(cause).__name__


def _code(error: BaseException) -> str:
    """The SQLSTATE; empty where there is none, as always with SQLite."""
    return getattr(getattr(error, "orig", None) or error, "sqlstate", None) or ""


def _sentence(error: Exception, url: URL) -> str:
    is_file = url.get_backend_name() == "sqlite"
    shown = str(url.database) if is_file else shown_url(url.set(drivername="postgresql").render_as_string())
    reason = _without_passwords(reason_of(error), url)
    way_out = _way_out(_code(error), reason)
    if way_out is None:
        return f"The database {shown} cannot be used: {reason}. `tidemill doctor` checks the settings."
    return f"The database {shown}: {reason}. {way_out}"


def _way_out(code: str, reason: str) -> str | None:
    by_code = _BY_CODE.get(code) or _BY_CODE.get(code[:2])
    return by_code or next((way_out for sign, way_out in _BY_WORDS.items() if sign in reason), None)


def _without_passwords(reason: str, url: URL) -> str:
    for password in (url.password, url.query.get("password"), os.environ.get("PGPASSWORD")):
        if password:
            reason = reason.replace(str(password), "***")
    return reason


_FREE_SPACE = "Free space, then run the same command again; what was stored is safe."
_WRITABLE_HOME = "Set TIDEMILL_HOME to a folder that you can write to."
_START = "Start the database or fix TIDEMILL_DATABASE_URL."
_AUTHENTICATE = "Fix user and password in TIDEMILL_DATABASE_URL."
_CREATE = "Create the database, then run `tidemill db upgrade`."
_UPGRADE = "Run `tidemill db upgrade` with TIDEMILL_DATABASE_URL as it is now."
_AGAIN = "Try again in a moment; what was stored is safe."
_PRIMARY = "Wait until it takes writes again, or let TIDEMILL_DATABASE_URL name the primary; what was stored is safe."
_OPTIONS = "Fix the port, or what is behind the ?, in TIDEMILL_DATABASE_URL; its names and values are libpq's."
_GRANT = 'Grant what the manual lists under "The rights that Postgres must grant" (docs/operating.md).'

_BY_CODE = {
    "08": _START,
    "25006": _PRIMARY,
    "25P03": _AGAIN,
    "25P04": _AGAIN,
    "28": _AUTHENTICATE,
    "3D000": _CREATE,
    "3F000": "Create the schema that its search_path names, then run `tidemill db upgrade`.",
    "40": _AGAIN,
    "42501": _GRANT,
    "42703": _UPGRADE,
    "42P01": _UPGRADE,
    "53100": _FREE_SPACE,
    "53200": "Give the server more memory, or run fewer workers.",
    "53300": "Raise its max_connections, run fewer workers, or put pgbouncer between.",
    "55P03": _AGAIN,
    "57": _AGAIN,
    "57014": "Raise statement_timeout for this user, or try again; what was stored is safe.",
    "58": "Look into the server's log.",
    "XX": "Look into the server's log.",
}
"""SQLSTATE, or its class -> what to do."""

_BY_WORDS = {
    "no answer for": "Is it stopped, overloaded or cut off? What was stored is safe.",
    "disk is full": _FREE_SPACE,
    "No space left": _FREE_SPACE,
    "unable to open": _WRITABLE_HOME,
    "readonly database": _WRITABLE_HOME,
    "not a database": "The file is not ours or is damaged; set TIDEMILL_HOME to another folder.",
    "malformed": "The file is damaged; put a copy back, or set TIDEMILL_HOME to another folder.",
    "locked": "Another process is using it; try again.",
    "refused": _START,
    "timeout expired": _START,
    "resolve host": _START,
    "No such file": _START,
    "authentication failed": _AUTHENTICATE,
    'role "': _AUTHENTICATE,
    "no password supplied": _AUTHENTICATE,
    "pg_hba.conf": "Let its pg_hba.conf allow this user from this machine, or use TLS (`?sslmode=require`).",
    "does not exist": _CREATE,
    "invalid port": _OPTIONS,
    "invalid integer value": _OPTIONS,
    "bad value": _OPTIONS,
    " value: ": _OPTIONS,
    "of service": _OPTIONS,
    "certificate": "Fix TLS: `sslmode`, `sslrootcert`, `sslcert` and `sslkey` behind the ? in TIDEMILL_DATABASE_URL.",
    "SSL": "Fix TLS: `sslmode`, `sslrootcert`, `sslcert` and `sslkey` behind the ? in TIDEMILL_DATABASE_URL.",
    "session is": _PRIMARY,
    "starting up": _AGAIN,
    "shutting down": _AGAIN,
    "connection slots": "Raise its max_connections, run fewer workers, or put pgbouncer between.",
    "too many clients": "Raise its max_connections, run fewer workers, or put pgbouncer between.",
    "server closed": _AGAIN,
    "connection is": _AGAIN,  # closed, or lost
    "invalid transaction": _AGAIN,
}
"""What a driver says, where there is no SQLSTATE: SQLite, and Postgres before a connection is made -> what to do."""
