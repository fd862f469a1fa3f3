"""Texts may go while their costs stay countable: what the ledger says of deleted rows is added up in `kept_costs`."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Connection, Row, Subquery, case, cast, func, literal, select

from tidemill.models.bulk import insert_for
from tidemill.models.tables import assistants, attempts, dialogues, kept_costs

_SUMS = ("calls", "input_tokens", "output_tokens", "cost_usd_e10", "priced", "unpriced", "saved_usd_e10")
_KEY = tuple(column.name for column in kept_costs.primary_key)


def keep(connection: Connection, batch: Row[Any], job_ids: Sequence[int]) -> None:
    """Add the calls of these jobs to the kept costs, in the transaction that deletes them.

    Args:
        connection: in the caller's transaction.
        batch: the row of `batches` that they belong to.
        job_ids: jobs that have ended.
    """
    calls = _calls(connection, batch, job_ids).c
    name_of_assistant = select(assistants.c.name).where(assistants.c.id == batch.assistant_id).scalar_subquery()
    lines = {
        "batch_id": literal(batch.id),
        **{name: calls[name] for name in _KEY if name != "batch_id"},
        "batch_name": literal(batch.name),
        "kind": literal(batch.kind),
        "provider": literal(batch.provider),
        "assistant": name_of_assistant,
        **{name: func.sum(calls[name]) for name in _SUMS},
    }
    added_up = select(*lines.values()).group_by(calls.day, calls.model, calls.outcome, calls.route)
    added = insert_for(connection)(kept_costs).from_select(list(lines), added_up)
    more = {name: kept_costs.c[name] + added.excluded[name] for name in _SUMS}
    connection.execute(added.on_conflict_do_update(index_elements=_KEY, set_=more))


def _calls(connection: Connection, batch: Row[Any], job_ids: Sequence[int]) -> Subquery:
    """The calls one by one, in the terms of `kept_costs`; costs are rounded as those of the tallies are."""
    tokens = func.coalesce(attempts.c.input_tokens, 0) + func.coalesce(attempts.c.output_tokens, 0)
    cost = attempts.c.cost_usd
    in_units = cast(func.round(cost * 1e10), BigInteger)
    saved = func.coalesce(attempts.c.standard_usd - cost, 0.0)
    columns = {
        "day": _day(connection, attempts.c.started_at),
        "model": func.coalesce(func.nullif(dialogues.c.model, ""), str(batch.options.get("model") or "")),
        "outcome": func.coalesce(attempts.c.outcome, "lost"),
        "route": func.coalesce(attempts.c.route, ""),
        "calls": literal(1),
        "input_tokens": func.coalesce(attempts.c.input_tokens, 0),
        "output_tokens": func.coalesce(attempts.c.output_tokens, 0),
        "cost_usd_e10": case((func.abs(cost) < 1e5, in_units), else_=0),
        "priced": case((cost.is_(None), 0), else_=1),
        "unpriced": case((cost.is_(None) & (tokens > 0), 1), else_=0),
        "saved_usd_e10": case((func.abs(saved) < 1e5, cast(func.round(saved * 1e10), BigInteger)), else_=0),
    }
    return (
        select(*(column.label(name) for name, column in columns.items()))
        .outerjoin_from(attempts, dialogues, dialogues.c.id == attempts.c.job_id)
        .where(attempts.c.job_id.in_(job_ids))
        .subquery("calls")
    )


def _day(connection: Connection, time: ColumnElement[Any]) -> ColumnElement[str]:
    if connection.dialect.name == "sqlite":
        return func.strftime("%Y-%m-%d", time)
    return func.to_char(func.timezone("UTC", time), "YYYY-MM-DD")
