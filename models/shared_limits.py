"""What all workers have learned of a provider's limits is in Redis, and whoever asks why rows wait may read it there.

Only workers write it (worker/limits.py); here it is read, over the broker's client.
"""

from contextlib import suppress
from typing import Any, NamedTuple

from tidemill.models.servers import read_url
from tidemill.models.settings import settings

_SECOND = 1_000_000
_TRY_SECONDS = 2
_FIELDS = ("rpm", "tpm", "requests", "tokens", "pause")


class LearnedLimits(NamedTuple):
    """Requests and tokens a minute, None where no limit is known; and how many seconds each is used up ahead of now."""

    rpm: float | None
    tpm: float | None
    requests_ahead_seconds: float
    tokens_ahead_seconds: float
    pause_seconds: float


def read(provider: str, model: str) -> LearnedLimits | None:
    """The shared limits of a model; None without a Redis, without an answer of it, and before the first call."""
    url = settings().effective_limits_url
    if url is None:
        return None
    from tidemill.models import broker  # with it comes Celery

    server = read_url(url, "limits")
    options = {"socket_timeout": _TRY_SECONDS, "socket_connect_timeout": _TRY_SECONDS}
    with suppress(Exception):  # whatever a client raises: the page has more to say than this
        connection = broker.app().connection_for_write(
            server.celery_url, ssl=server.celery_tls or False, transport_options=options
        )
        with connection:
            connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0, timeout=_TRY_SECONDS)
            channel: Any = connection.default_channel  # the stubs do not know Redis' own
            seconds, microseconds = channel.client.time()
            stored = channel.client.hmget(f"tidemill:limits:{{{provider}|{model}}}", _FIELDS)
            return _limits(stored, seconds * _SECOND + microseconds)
    return None


def _limits(stored: list[bytes | None], now: int) -> LearnedLimits | None:
    if not any(stored):
        return None
    rpm, tpm, *times = (None if value is None else float(value) for value in stored)
    return LearnedLimits(rpm, tpm, *(max(0.0, ((at or now) - now) / _SECOND) for at in times))
