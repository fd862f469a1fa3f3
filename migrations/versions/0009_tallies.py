"""what a batch's rows come to is kept by triggers, and rows that failed are found by indexes

Whoever changes `jobs` on SQLite by a batch operation of Alembic must make the triggers again: the copy has none.

Revision ID: 0009
Revises: 0008
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_FLAWED = (
    "position is not null and (state in ('failed', 'cancelled') or state = 'succeeded' and error_code is not null)"
)
_INDEXES = {
    "ix_jobs_flawed": (["batch_id", "id"], _FLAWED),
    "ix_jobs_error": (["batch_id", "error_code", "id"], _FLAWED),
    "ix_jobs_twins": (["content"], "state = 'queued' and content is not null"),
}
_STORAGE = {
    # Each row is written three times, and never in place, because its state is in the conditions of indexes.
    "jobs": "autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02",
    # A row doubles when its call ends; with room beside it, its page takes it and the index stays as it is.
    "attempts": "fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05",
    "tallies": "autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000",
}
_COUNTED = "batch_id, submission, position, state, error_code, input_tokens, output_tokens, cost_usd"
_KEY = "batch_id, submission, state, error_code"
_SUMS = ("row_count", "tokens", "cost_usd_e10", "priced", "unpriced")
_ADD = f"ON CONFLICT ({_KEY}, shard) DO UPDATE SET " + ", ".join(
    f"{name} = tallies.{name} + excluded.{name}" for name in _SUMS
)


def upgrade() -> None:
    op.create_table(
        "tallies",
        sa.Column("batch_id", sa.String(length=80), nullable=False),
        sa.Column("submission", sa.Integer(), nullable=False),
        sa.Column(
            "state",
            sa.String(length=12),
            nullable=False,
            comment="open (queued or running), or how the rows have ended",
        ),
        sa.Column(
            "error_code",
            sa.String(length=100),
            nullable=False,
            comment="of rows that have ended; empty: they have none",
        ),
        sa.Column("shard", sa.Integer(), nullable=False, comment="keeps writers apart; a count is the sum over shards"),
        sa.Column("row_count", sa.BigInteger(), nullable=False),
        sa.Column("tokens", sa.BigInteger(), nullable=False, comment="input and output"),
        sa.Column("cost_usd_e10", sa.BigInteger(), nullable=False, comment="in 1e-10 USD, so that sums are exact"),
        sa.Column("priced", sa.BigInteger(), nullable=False, comment="rows whose cost is known"),
        sa.Column("unpriced", sa.BigInteger(), nullable=False, comment="rows that used tokens at an unknown price"),
        sa.PrimaryKeyConstraint("batch_id", "submission", "state", "error_code", "shard", name=op.f("pk_tallies")),
        comment="what a batch's rows come to, kept by triggers on jobs; rows that left the input do not count",
        sqlite_with_rowid=False,
        postgresql_with={"fillfactor": 50},
    )
    for name, (columns, where) in _INDEXES.items():
        op.create_index(name, "jobs", columns, postgresql_where=sa.text(where), sqlite_where=sa.text(where))
    if op.get_bind().dialect.name == "postgresql":
        for table, settings in _STORAGE.items():
            op.execute(f"ALTER TABLE {table} SET ({settings})")
        _make_triggers_on_postgres()
    else:
        _make_triggers_on_sqlite()
    # After the triggers, which have locked the table on Postgres: nobody can change a row in between.
    op.execute(_add_up(_changes("jobs", 1), "0"))


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        for event in ("insert", "update", "delete"):
            op.execute(f"DROP TRIGGER tally_{event} ON jobs")
        op.execute("DROP FUNCTION tally_jobs()")
        for table in ("jobs", "attempts"):
            names = ", ".join(setting.partition(" =")[0] for setting in _STORAGE[table].split(", "))
            op.execute(f"ALTER TABLE {table} RESET ({names})")
    else:
        for event in ("insert", "update", "delete"):
            op.execute(f"DROP TRIGGER tally_{event}")
    for name in _INDEXES:
        op.drop_index(name, "jobs")
    op.drop_table("tallies")


def _make_triggers_on_sqlite() -> None:
    """A trigger a row; a claim, which changes nothing that counts, costs a comparison."""
    gain, loss = (
        f"INSERT INTO tallies ({_KEY}, shard, {', '.join(_SUMS)}) "
        f"SELECT {', '.join(_key(row))}, 0, {', '.join(_sums(row, sign))} WHERE {row}.position IS NOT NULL {_ADD}"
        for row, sign in (("NEW", 1), ("OLD", -1))
    )
    used = ("input_tokens", "output_tokens", "cost_usd")
    before, after = (
        [f"({row}.position IS NULL)", *_key(row), *(f"{row}.{name}" for name in used)] for row in ("OLD", "NEW")
    )
    differs = " OR ".join(f"{old} IS NOT {new}" for old, new in zip(before, after, strict=True))
    op.execute(f"CREATE TRIGGER tally_insert AFTER INSERT ON jobs BEGIN {gain}; END")
    op.execute(
        f"CREATE TRIGGER tally_update AFTER UPDATE OF {_COUNTED} ON jobs WHEN {differs} BEGIN {loss}; {gain}; END"
    )
    op.execute(f"CREATE TRIGGER tally_delete AFTER DELETE ON jobs BEGIN {loss}; END")


def _make_triggers_on_postgres() -> None:
    """A trigger a statement: it adds up what all of its rows have changed, which for a claim is nothing."""
    gain, loss = _changes("new_rows", 1), _changes("old_rows", -1)
    changes = {"INSERT": gain, "DELETE": loss, "UPDATE": f"{gain} UNION ALL {loss}"}
    branches = " ".join(
        f"IF TG_OP = '{event}' THEN {_add_up(each, 'pg_backend_pid() % 16')}; END IF;"
        for event, each in changes.items()
    )
    op.execute(
        f"CREATE FUNCTION tally_jobs() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {branches} RETURN NULL; END $$"
    )
    tables = {"INSERT": "NEW TABLE AS new_rows", "DELETE": "OLD TABLE AS old_rows"}
    for event, referenced in {**tables, "UPDATE": " ".join(tables.values())}.items():
        op.execute(
            f"CREATE TRIGGER tally_{event.lower()} AFTER {event} ON jobs REFERENCING {referenced} "
            "FOR EACH STATEMENT EXECUTE FUNCTION tally_jobs()"
        )


def _key(row: str) -> list[str]:
    """What a row counts for. While it is open, a claim or a retry changes nothing of it."""
    is_open = f"{row}.state IN ('queued', 'running')"
    return [
        f"{row}.batch_id",
        f"{row}.submission",
        f"CASE WHEN {is_open} THEN 'open' ELSE {row}.state END",
        f"CASE WHEN {is_open} THEN '' ELSE coalesce({row}.error_code, '') END",
    ]


def _sums(row: str, sign: int) -> list[str]:
    """What a row adds to the sums. A cost beyond 100,000 USD is none, and must not break a statement."""
    tokens, cost = f"({row}.input_tokens + {row}.output_tokens)", f"{row}.cost_usd"
    return [
        f"{sign}",
        f"{sign} * {tokens}",
        f"{sign} * CASE WHEN abs({cost}) < 1e5 THEN CAST(round({cost} * 1e10) AS BIGINT) ELSE 0 END",
        f"{sign} * CASE WHEN {cost} IS NULL THEN 0 ELSE 1 END",
        f"{sign} * CASE WHEN {cost} IS NULL AND {tokens} > 0 THEN 1 ELSE 0 END",
    ]


def _changes(table: str, sign: int) -> str:
    named = zip([*_key(table), *_sums(table, sign)], [*_KEY.split(", "), *_SUMS], strict=True)
    columns = ", ".join(f"{expression} AS {name}" for expression, name in named)
    return f"SELECT {columns} FROM {table} WHERE {table}.position IS NOT NULL"  # noqa: S608  # all of it is ours


def _add_up(changes: str, shard: str) -> str:
    """Add to the tallies, in the order of their key, so that two writers rarely wait for each other in a circle."""
    sums = [f"sum({name})" for name in _SUMS]
    changed = " OR ".join(f"{each} <> 0" for each in sums)
    return (
        f"INSERT INTO tallies ({_KEY}, shard, {', '.join(_SUMS)}) SELECT {_KEY}, {shard}, {', '.join(sums)} "  # noqa: S608
        f"FROM ({changes}) AS changes GROUP BY {_KEY} HAVING {changed} ORDER BY {_KEY} {_ADD}"
    )
