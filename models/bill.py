"""What all calls came to is added up by the database, as whole numbers, so that sums are exact and quick.

A line is all calls that share batch, day, model, fate and route. Lines of deleted batches are in `kept_costs`.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Select,
    Text,
    and_,
    case,
    cast,
    func,
    literal,
    null,
    select,
    type_coerce,
)

from tidemill.models.clock import day_of
from tidemill.models.job_requests import model_asked
from tidemill.models.json_types import JsonObject
from tidemill.models.members import OWNER
from tidemill.models.money import COST_PLACES
from tidemill.models.refusals import REFUSAL
from tidemill.models.tables import assistants, attempts, batches, dialogues, jobs, kept_costs, upstream_batches
from tidemill.models.text import loads

UNITS: int = 10**COST_PLACES
"""Of a dollar, in all sums of a bill."""

OPEN, ANSWERED, LOST = "open", "succeeded", "lost"
REFUSED, SCHEMA = "refused", "schema"
"""Fates beside the outcomes in `attempts`: an answer that refuses or was filtered, and one that breaks its schema."""

_ERROR_CODES = {REFUSED: (REFUSAL, "refused", "content_filter"), SCHEMA: ("schema_mismatch",)}
_MAYBE_PAID = (
    *("timeout", "connection_reset", "connection_cut", "malformed_reply", "empty_reply", "broken_off"),
    *("reply_too_large", "unsupported_encoding", "length", "unfinished_response"),
)
"""Error codes of calls whose answer nobody could read to its end; where their tokens are not known either, their price
may have been taken all the same."""
_MOST_USD = 1e5
"""A call that seems to cost as much is one whose price is not known; no sum of others reaches what a column holds."""

KEY = ("day", "model", "fate", "route")
SUMS = (
    *("calls", "input_tokens", "output_tokens", "cost_usd_e12", "saved_usd_e12"),
    *("priced", "unpriced", "doubtful_usd_e9"),
)


class Line(NamedTuple):
    """Calls that share all that stands before their number; amounts are whole numbers of 1e-12 USD."""

    batch_id: str
    batch: str
    kind: str
    provider: str
    assistant: str | None
    day: str
    """On which they began, in UTC: 2026-11-28."""
    model: str
    """As the reply said, else as was asked."""
    fate: str
    route: str
    """Empty: online."""
    calls: int
    input_tokens: int
    output_tokens: int
    cost_usd_e12: int
    saved_usd_e12: int
    """What they would have cost more on the standard tier."""
    priced: int
    unpriced: int
    """Calls that used tokens at an unknown price."""
    doubtful_usd_e9: int
    """What calls under a budget may have cost whose end nobody saw."""


class UpstreamUse(NamedTuple):
    """An upstream batch that has ended, with the tokens of its lines as they were booked here."""

    id: int
    batch_id: str
    remote_id: str
    remote: JsonObject
    """As the provider told it; its own count is under `usage`."""
    calls: int
    input_tokens: int
    output_tokens: int


class Span(NamedTuple):
    """Which calls: of one batch or of all, on days from `since` to `until`, both included; None is no bound."""

    batch_id: str | None = None
    since: str | None = None
    until: str | None = None


def read(connection: Connection, span: Span) -> list[Line]:
    """The lines of all calls of a span, those of deleted batches included; one statement, so all is of one moment."""
    facts = calls(connection).add_columns(jobs.c.batch_id)
    if span.batch_id is not None:
        facts = facts.where(jobs.c.batch_id == span.batch_id)
    call = facts.subquery("call").c
    key = (call.batch_id, *(call[name] for name in KEY))
    sums = [func.sum(call[name]).label(name) for name in SUMS]
    grouped = select(*key, *sums).where(*_within(call.day, span)).group_by(*key).subquery("grouped")
    of_batch = (batches.c.name, batches.c.kind, batches.c.provider)
    values = [grouped.c[name] for name in (*KEY, *SUMS)]
    options = type_coerce(batches.c.options, Text).label("options")
    live = (
        select(grouped.c.batch_id, *of_batch, assistants.c.name.label("assistant"), *values, options)
        .join(batches, batches.c.id == grouped.c.batch_id)
        .outerjoin(assistants, assistants.c.id == batches.c.assistant_id)
    )
    names = (kept_costs.c.batch_id, kept_costs.c.batch_name, kept_costs.c.kind, kept_costs.c.provider)
    kept_key = (kept_costs.c.day, kept_costs.c.model, kept_costs.c.outcome, kept_costs.c.route)
    kept_sums = [kept_costs.c[name] for name in SUMS]
    kept = select(*names, kept_costs.c.assistant, *kept_key, *kept_sums, null())
    kept = kept.where(*_within(kept_costs.c.day, span))
    if span.batch_id is not None:
        kept = kept.where(kept_costs.c.batch_id == span.batch_id)
    return [_line(*row) for row in connection.execute(live.union_all(kept))]


def _line(*values: Any) -> Line:
    *head, options = values
    sums = (int(value or 0) for value in head[9:])  # Postgres adds bigints up to a Decimal
    line = Line(*head[:9], *sums)
    return line if line.model or not options else line._replace(model=str(loads(options).get("model") or ""))


def _within(day: ColumnElement[str], span: Span) -> list[ColumnElement[bool]]:
    bounds = [] if span.since is None else [day >= span.since]
    return bounds if span.until is None else [*bounds, day <= span.until]


def calls(connection: Connection) -> Select[Any]:
    """Calls one by one, each with what it adds to its line: the columns `KEY` and `SUMS`; a model may be empty.

    The caller narrows them by `jobs` or `attempts`.
    """
    code, used = attempts.c.error_code, (attempts.c.input_tokens, attempts.c.output_tokens)
    read, written = (func.coalesce(tokens, 0) for tokens in used)
    cost, is_priced = attempts.c.cost_usd, _is_priced()
    has_said = attempts.c.outcome.in_(("succeeded", "retried", "failed"))
    columns: Mapping[str, ColumnElement[Any]] = {
        "day": day_of(attempts.c.started_at),
        "model": func.coalesce(func.nullif(dialogues.c.model, ""), model_asked(connection, attempts.c.job_id), ""),
        "fate": case(
            (and_(has_said, code.in_(_MAYBE_PAID), cost.is_(None), read + written == 0), LOST),
            *((and_(has_said, code.in_(codes)), fate) for fate, codes in _ERROR_CODES.items()),
            else_=func.coalesce(attempts.c.outcome, OPEN),
        ),
        "route": func.coalesce(attempts.c.route, ""),
        "calls": literal(1),
        "input_tokens": read,
        "output_tokens": written,
        "cost_usd_e12": case((is_priced, _units(cost)), else_=0),
        "saved_usd_e12": func.coalesce(_saved(), 0),
        "priced": case((is_priced, 1), else_=0),
        "unpriced": case((is_priced, 0), (read + written > 0, 1), else_=0),
        "doubtful_usd_e9": func.coalesce(attempts.c.doubtful_usd_e9, 0),
    }
    return (
        select(*(column.label(name) for name, column in columns.items()))
        .join_from(attempts, jobs, jobs.c.id == attempts.c.job_id)
        .outerjoin(dialogues, dialogues.c.id == attempts.c.job_id)
    )


def saved_usd(connection: Connection, batch_id: str) -> float | None:
    """What the calls of a batch would have cost more on the standard tier, in USD; None where no price is known.

    It reads every call of the batch.
    """
    its = select(func.sum(_saved())).join_from(attempts, jobs, jobs.c.id == attempts.c.job_id)
    saved = connection.scalar(its.where(jobs.c.batch_id == batch_id))
    return None if saved is None else int(saved) / UNITS


def _is_priced() -> ColumnElement[bool]:
    return and_(attempts.c.cost_usd.is_not(None), func.abs(attempts.c.cost_usd) < _MOST_USD)


def _saved() -> ColumnElement[int | None]:
    """What a call saved, in `UNITS`; null where one of its two prices is not known. A dearer tier saves nothing."""
    cost, standard = attempts.c.cost_usd, attempts.c.standard_usd
    is_known = and_(_is_priced(), standard < _MOST_USD)
    return case((and_(is_known, cost < standard), _units(standard) - _units(cost)), (is_known, 0), else_=null())


def upstream_use(connection: Connection, span: Span) -> list[UpstreamUse]:
    """Upstream batches of a span that were made at the provider and have ended, the oldest first."""
    owner = OWNER + upstream_batches.c.token
    sums = (
        func.count(attempts.c.job_id),
        func.coalesce(func.sum(attempts.c.input_tokens), 0),
        func.coalesce(func.sum(attempts.c.output_tokens), 0),
    )
    head = (upstream_batches.c.id, upstream_batches.c.batch_id, upstream_batches.c.remote_id)
    statement = (
        select(*head, upstream_batches.c.remote, *sums)
        .outerjoin(attempts, attempts.c.worker_id == owner)
        .where(upstream_batches.c.ended_at.is_not(None), upstream_batches.c.remote_id.is_not(None))
        .where(*_within(day_of(upstream_batches.c.created_at), span))
        .group_by(upstream_batches.c.id)
        .order_by(upstream_batches.c.id)
    )
    if span.batch_id is not None:
        statement = statement.where(upstream_batches.c.batch_id == span.batch_id)
    rows = connection.execute(statement)
    return [UpstreamUse(row[0], row[1], row[2], row[3] or {}, *map(int, row[4:])) for row in rows]


def _units(usd: ColumnElement[float | None]) -> ColumnElement[int]:
    return cast(func.round(usd * float(UNITS)), BigInteger)
