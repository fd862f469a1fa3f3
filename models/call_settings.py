"""What each call takes from the settings is checked before any work, in sentences that name the variable."""

import os
import re

from tidemill.models.errors import SettingsError
from tidemill.models.outbound import Outbound, outbound
from tidemill.models.settings import Settings, checked_url

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""A header's name, by RFC 9110."""


def check(settings: Settings) -> None:
    """Check before any work whether a call can be made at all.

    Raises:
        SettingsError: the URL, the key, the organization or the project can never work.
    """
    checked_base_url(settings.openai_base_url)
    check_headers(settings)


def check_client(settings: Settings) -> Outbound:
    """As `check`, where this process will make the calls: proxy and certificates count, too. Returns the way out."""
    check(settings)
    return outbound(settings.openai_base_url)


def check_headers(settings: Settings) -> None:
    """Raise SettingsError if the key, the organization, the project or other headers cannot be sent."""
    key = settings.openai_api_key
    checked_header("OPENAI_API_KEY", key.get_secret_value() if key else None)
    checked_header("OPENAI_ORG_ID", settings.openai_org_id)
    checked_header("OPENAI_PROJECT_ID", settings.openai_project_id)
    for line in os.environ.get("OPENAI_CUSTOM_HEADERS", "").split("\n"):  # the official client sends them along
        name, _, value = line.partition(":")
        if line.strip() and not (_TOKEN.fullmatch(name.strip()) and value.strip().isascii() and value.isprintable()):
            raise SettingsError("OPENAI_CUSTOM_HEADERS: takes lines of `Name: value` in ASCII. Correct or unset it.")


def checked_base_url(url: str) -> str:
    """The URL as it is used. Raises SettingsError."""
    try:
        return checked_url(url)
    except ValueError as error:
        raise SettingsError(f"OPENAI_BASE_URL: {error}") from None


def checked_header(name: str, value: str | None) -> str | None:
    """What a variable of this name gives a header; None: nothing. Raises SettingsError if no header takes it."""
    value = (value or "").strip()
    for pattern, why in _NO_HEADER:
        if re.search(pattern, value, re.IGNORECASE):
            raise SettingsError(f"{name}: {why}")
    if value.upper().startswith((f"{name}=", f"EXPORT {name}=")):
        raise SettingsError(f"{name}: begins with its own name. Leave that out.")
    return value or None


_NO_HEADER = (
    (r"^(authorization:\s*)?bearer\s", "begins with `Bearer`, which is added to it. Leave that out."),
    (r"^[\"'`]|[\"'`]$", "begins or ends with a quote. Copy it again, without quotes."),
    (r"[^!-~]", "holds characters that no HTTP header can carry. Copy it again, without quotes."),
)
"""What people paste with a key, and what to do. White space around it does no harm."""
