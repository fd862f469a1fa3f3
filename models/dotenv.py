"""A `.env` file may come with a folder that somebody else made, so it must not send a secret of the user's to a server.

Where the file names the server, the key must be in the file, too; and stderr says which places it names. The values
are taken as they are written: with `${NAME}` filled in, a file could pick any secret of the environment.
"""

import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from tidemill.models.errors import SettingsError
from tidemill.models.text import one_line
from tidemill.models.urls import shown_url

FILE = ".env"

_SERVER, _KEY = "OPENAI_BASE_URL", "OPENAI_API_KEY"
_WITH_SERVER = (_KEY, "OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_ADMIN_KEY")
"""What is sent to the server: from the file alone, where the file names the server."""

_PLACES = (
    _SERVER,
    "TIDEMILL_HOME",
    "TIDEMILL_DATABASE_URL",
    "TIDEMILL_BROKER_URL",
    "TIDEMILL_LIMITS_URL",
    "TIDEMILL_BLOBS_URL",
    "TIDEMILL_PRICES",
)
"""Where prompts and answers go, and what costs are reckoned with: never decided in silence."""


def environment() -> dict[str, str]:
    """The environment's variables that have a value, by their names in capitals."""
    return {name.upper(): value for name, value in os.environ.items() if value}


def names() -> Iterable[str]:
    """The names of the file's variables that have a value, in capitals."""
    return _values().keys()


def read(names: Iterable[str]) -> dict[str, str | None]:
    """What the file decides of these variables, which are those that the environment does not have.

    None stands for a variable of the environment that must not be used with the file's server.

    Raises:
        SettingsError: it cannot be read, or names a server that would get a secret of the environment.
    """
    in_file = _values()
    present = environment()
    chosen: dict[str, str | None] = {
        name: in_file[name] for name in names if name in in_file and name not in present and in_file[name]
    }
    if server := chosen.get(_SERVER):
        if _KEY in present and _KEY not in in_file:
            raise _refusal(server, _SERVER, _KEY)
        chosen |= {name: in_file.get(name) for name in _WITH_SERVER}
    database = chosen.get("TIDEMILL_DATABASE_URL") or ""
    if "PGPASSWORD" in present and database.startswith("postgres") and not _has_password(database):
        raise _refusal(database, "TIDEMILL_DATABASE_URL", "PGPASSWORD")  # where the driver would send it
    return chosen


def say_places(chosen: Mapping[str, str | None]) -> None:
    """Say on stderr which places the file names, among what it decides."""
    if places := [f"{name}={_shown(chosen[name])}" for name in _PLACES if chosen.get(name)]:
        print(f"tidemill: {_file()} sets {', '.join(places)}", file=sys.stderr)  # noqa: T201


def _has_password(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return bool(parts.password) or "password=" in parts.query
    except ValueError:
        return False


def _values() -> Mapping[str, str]:
    if not Path(FILE).exists():
        return {}
    from dotenv import dotenv_values  # most folders have no such file

    try:
        values = dotenv_values(FILE, interpolate=False)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise SettingsError(f"{_file()} cannot be read: {reason}. Correct the file, or remove it.") from None
    return {name.upper(): value for name, value in values.items() if value}


def _refusal(server: str, its_name: str, secret: str) -> SettingsError:
    return SettingsError(
        f"{_file()} names the server {_shown(server)}, and {secret} of the environment would be sent there. "
        f"If you trust that server, export {its_name} too, or write the secret into {FILE}; else remove {FILE}."
    )


def _file() -> str:
    return one_line(str(Path(FILE).absolute()))


def _shown(value: str | None) -> str:
    return one_line(shown_url(value or "") if "://" in (value or "") else value or "")
