"""Texts may go while their costs stay countable: what the ledger says of deleted rows is added up in `kept_costs`."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, case, func, literal, select

from tidemill.models import bill
from tidemill.models.bulk import insert_for
from tidemill.models.tables import assistants, attempts, kept_costs

_KEY = tuple(column.name for column in kept_costs.primary_key)


def keep(connection: Connection, batch: Row[Any], job_ids: Sequence[int]) -> None:
    """Add the calls of these jobs to the kept costs, in the transaction that deletes them.

    Args:
        connection: in the caller's transaction.
        batch: the row of `batches` that they belong to.
        job_ids: jobs that have ended.
    """
    calls = bill.calls(connection).where(attempts.c.job_id.in_(job_ids)).subquery("calls").c
    key: dict[str, ColumnElement[Any]] = {
        "day": calls.day,
        "model": func.coalesce(func.nullif(calls.model, ""), str(batch.options.get("model") or "")),
        "outcome": case((calls.fate == bill.OPEN, bill.LOST), else_=calls.fate),
        "route": calls.route,
    }
    lines = {
        "batch_id": literal(batch.id),
        **key,
        "batch_name": literal(batch.name),
        "kind": literal(batch.kind),
        "provider": literal(batch.provider),
        "assistant": select(assistants.c.name).where(assistants.c.id == batch.assistant_id).scalar_subquery(),
        **{name: func.sum(calls[name]) for name in bill.SUMS},
    }
    added_up = select(*lines.values()).group_by(*key.values())
    added = insert_for(connection)(kept_costs).from_select(list(lines), added_up)
    more = {name: kept_costs.c[name] + added.excluded[name] for name in bill.SUMS}
    connection.execute(added.on_conflict_do_update(index_elements=_KEY, set_=more))
