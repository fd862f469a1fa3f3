"""How long before its deadline a batch must go online is worked out here, from what was learned of the provider."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection, select

from tidemill.models.batch_servers import status_of
from tidemill.models.settings import settings
from tidemill.models.tables import batches, jobs, upstream_batches

MARGIN_SECONDS = 900.0
"""A provider takes up to ten minutes to cancel a batch, and its answers are to be read."""

MARGIN_SHARE = 0.25
"""Of the whole time, for deadlines that are near."""

CAUTION = 1.5
"""How much longer than learned the rest may take."""

BATCH_SECONDS = 3_600.0
"""Nine of ten batches are done at a provider within an hour, until our own history says otherwise."""

_CALL_SECONDS = 10.0
"""That a live call takes while none was measured."""

_LEAST_KNOWN = 5
"""Upstream batches of which our own history is made at least."""

_REMEMBERED = 100
_SAMPLE_ROWS = 200
_LEAST_ROWS = 20
_SAMPLE_BATCHES = 5
RAN = ("completed", "expired")
"""Statuses, in OpenAI's words, of batches that the provider has run for as long as it wanted."""


# --- arithmetic ---


def margin_seconds(whole_seconds: float) -> float:
    """What is kept free before a deadline that leaves so much time as a whole."""
    return min(MARGIN_SECONDS, max(0.0, whole_seconds) * MARGIN_SHARE)


def lead_seconds(rest: int, rows_per_second: float, whole_seconds: float) -> float:
    """How long before its deadline a batch must go online, with so many rows that are open."""
    return rest / rows_per_second * CAUTION + margin_seconds(whole_seconds)


def p90(durations: Sequence[float]) -> float:
    """In what time nine of ten were done, as far as so many durations say it."""
    if len(durations) < _LEAST_KNOWN:
        return max([BATCH_SECONDS, *durations])
    return sorted(durations)[-(-9 * len(durations) // 10) - 1]


def rate(finished: Sequence[datetime]) -> float | None:
    """Rows a second by when rows were finished, without the first and last tenth; None where that says nothing."""
    middle = sorted(finished)[len(finished) // 10 : len(finished) - len(finished) // 10]
    seconds = (middle[-1] - middle[0]).total_seconds() if len(middle) >= _LEAST_ROWS else 0.0
    return (len(middle) - 1) / seconds if seconds > 0 else None


# --- what is learned ---


def batch_seconds(connection: Connection, provider: str) -> float:
    """How long batches take at this provider's Batch API, until their answers are stored: nine of ten."""
    ended = (
        upstream_batches.c.provider == provider,
        upstream_batches.c.sent_at.is_not(None),
        upstream_batches.c.ended_at.is_not(None),
    )
    columns = upstream_batches.c.status, upstream_batches.c.sent_at, upstream_batches.c.ended_at
    latest = connection.execute(
        select(*columns).where(*ended).order_by(upstream_batches.c.id.desc()).limit(_REMEMBERED)
    )
    ran = [(sent_at, ended_at) for status, sent_at, ended_at in latest if status_of({"status": status}) in RAN]
    return p90([(ended_at - sent_at).total_seconds() for sent_at, ended_at in ran])


def live_rate(connection: Connection, provider: str) -> float:
    """How many rows a second end online at this provider, by the latest batch that says it; else by the window."""
    was_out = select(upstream_batches.c.id).where(upstream_batches.c.batch_id == batches.c.id).exists()
    live = select(batches.c.id).where(batches.c.provider == provider, batches.c.kind != "train", ~was_out)
    for batch_id in connection.scalars(live.order_by(batches.c.created_at.desc()).limit(_SAMPLE_BATCHES)).all():
        last = select(jobs.c.finished_at).where(jobs.c.batch_id == batch_id, jobs.c.state == "succeeded")
        finished = connection.scalars(last.order_by(jobs.c.position.desc()).limit(_SAMPLE_ROWS))
        if (known := rate([each for each in finished if each is not None])) is not None:
            return known
    return settings().window / _CALL_SECONDS
