"""A job for a model that has been shut down would fail, so it is not submitted.

The dates are from the list of models in OpenAI's client of November 2026 (openai 3.54, types/shared/chat_model.py).
They are valid only for its own server: what another server calls gpt-4 is not OpenAI's. A fine-tuned model ends with
the one that it was made from.
"""

import re
from datetime import UTC, date, datetime

from tidemill.models.errors import SettingsError
from tidemill.models.server_names import host_of

HOST = "api.openai.com"
WARNING_DAYS = 60

_DATE = re.compile(r"-(?:20\d{2}-\d{2}-\d{2}|\d{4})$")
_SMALL, _LARGE = "gpt-6-luna", "gpt-6-sol"

_ENDS: tuple[tuple[date, str, tuple[str, ...]], ...] = (
    (date(2024, 9, 13), _SMALL, ("gpt-3.5-turbo-16k", "gpt-3.5-turbo-0301", "gpt-3.5-turbo-0613")),
    (date(2024, 12, 6), _LARGE, ("gpt-4-vision-preview",)),
    (date(2025, 6, 6), _LARGE, ("gpt-4-32k",)),
    (date(2025, 7, 28), _LARGE, ("o1-preview",)),
    (date(2025, 10, 27), _SMALL, ("o1-mini",)),
    (date(2026, 2, 12), _SMALL, ("codex-mini-latest",)),
    (date(2026, 2, 17), _LARGE, ("chatgpt-4o-latest",)),
    (date(2026, 3, 26), _LARGE, ("gpt-4-0125-preview", "gpt-4-turbo-preview", "gpt-4-0314")),
    (date(2026, 5, 7), _LARGE, ("gpt-4o-audio-preview", "gpt-4o-mini-audio-preview")),
    (
        date(2026, 7, 23),
        _LARGE,
        ("gpt-5.1-codex", "gpt-5.1-chat-latest", "gpt-5-chat-latest", "gpt-4o-search-preview"),
    ),
    (date(2026, 7, 23), _SMALL, ("gpt-4o-mini-search-preview",)),
    (date(2026, 8, 10), _LARGE, ("gpt-5.3-chat-latest", "gpt-5.2-chat-latest")),
    (date(2026, 9, 28), _SMALL, ("gpt-3.5-turbo-1106",)),
    (date(2026, 10, 23), _SMALL, ("gpt-3.5-turbo", "gpt-4.1-nano", "o3-mini", "o4-mini")),
    (date(2026, 10, 23), _LARGE, ("gpt-4", "gpt-4-turbo", "gpt-4-1106-preview", "o1", "gpt-4o-2024-05-13")),
    (date(2026, 12, 11), _SMALL, ("gpt-5-mini", "gpt-5-nano")),
    (date(2026, 12, 11), _LARGE, ("gpt-5", "o3")),
    (date(2027, 1, 14), _SMALL, ("gpt-4.1-mini", "gpt-4o-mini")),
    (date(2027, 1, 14), _LARGE, ("gpt-4.1", "gpt-4o")),
    (date(2027, 4, 1), _SMALL, ("gpt-5.4-nano",)),
    (date(2027, 4, 1), _LARGE, ("gpt-5.1",)),
)
"""The day of the end, a successor, and the models; a dated name that is not here ends with the undated one."""

_END_OF = {model: (day, successor) for day, successor, models in _ENDS for model in models}


def shutdown_date(model: str, provider: str) -> date | None:
    """The day on which a model is or was shut down; None if that is not known.

    Args:
        model: as in a request: `gpt-4.1-mini`, dated, or `ft:gpt-4.1-mini:...`.
        provider: name of the server; the dates are only for OpenAI's own.
    """
    ending = _end(model, provider)
    return None if ending is None else ending[0]


FINE_TUNING_CLOSES = date(2027, 1, 6)


def fine_tuning(provider: str) -> str | None:
    """A sentence about OpenAI's end of fine-tuning (its deprecations page, November 2026); None for other servers."""
    if not _is_openai(provider):
        return None
    return (
        "OpenAI refuses fine-tuning to accounts that have not used it (training_not_available), and to all from "
        f"{FINE_TUNING_CLOSES} on; OPENAI_BASE_URL may name another server, and --export needs none."
    )


def check(model: str, provider: str, today: date | None = None) -> str | None:
    """A sentence when a model ends within `WARNING_DAYS`, else None.

    Raises:
        SettingsError: it has ended; the text names another one.
    """
    ending = _end(model, provider)
    if ending is None:
        return None
    end, successor = ending
    left = (end - (today or datetime.now(UTC).date())).days
    tuned = ", and what was tuned from it" if model.startswith("ft:") else ""
    if left <= 0:
        raise SettingsError(
            f"{_base(model)} was shut down by OpenAI on {end}{tuned}; name another --model, such as {successor}."
        )
    if left > WARNING_DAYS:
        return None
    days = "1 day" if left == 1 else f"{left} days"
    return f"{_base(model)} is shut down by OpenAI on {end}{tuned}, in {days}; {successor} is a successor."


def _end(model: str, provider: str) -> tuple[date, str] | None:
    if not _is_openai(provider):
        return None
    base = _base(model)
    return _END_OF.get(base) or _END_OF.get(_DATE.sub("", base))


def _is_openai(provider: str) -> bool:
    host = host_of(provider).partition(":")[0]
    return host == HOST or host.endswith(f".{HOST}")  # regions have hosts such as eu.api.openai.com


def _base(model: str) -> str:
    """The base of a fine-tuned model (`ft:base:organization:suffix:id`); any other model is its own."""
    name = model.removeprefix("openai/")
    return name.split(":")[1] if name.startswith("ft:") and name.count(":") > 1 else name.removeprefix("ft:")
