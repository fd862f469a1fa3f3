"""money has caps, and calls go out by other routes than the live one

Calls that are under way while this runs have reserved nothing, so the sums of all budgets begin with none.

Revision ID: 0011
Revises: 0010
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_TIME = sa.DateTime(timezone=True)
_UPSTREAM = "upstream_id is not null"
_OPEN = "ended_at is null"
_SUMS = ("calls", "input_tokens", "output_tokens", "priced", "unpriced")
_KEY = ("batch_id", "day", "model", "outcome")
_OUTCOME = "as models.kept_costs has it: as in attempts, but refused and schema apart"
_NAMES = ("batch_name", "kind", "provider", "assistant")


def upgrade() -> None:
    comment = "how rows go out, as models.routes has it"
    op.add_column(
        "batches", sa.Column("route", sa.String(length=12), nullable=False, server_default="online", comment=comment)
    )
    comment = "by when every row should have ended; null: nobody has said"
    op.add_column("batches", sa.Column("deadline_at", _TIME, nullable=True, comment=comment))
    comment = "the upstream batch of which it last was a line; null: of none"
    op.add_column("jobs", sa.Column("upstream_id", _ROW_ID, nullable=True, comment=comment))
    op.create_index(
        "ix_jobs_upstream",
        "jobs",
        ["upstream_id", "id"],
        postgresql_where=sa.text(_UPSTREAM),
        sqlite_where=sa.text(_UPSTREAM),
    )
    for column in (
        sa.Column(
            "standard_usd",
            sa.Float(),
            nullable=True,
            comment="what the same tokens cost on the standard tier, online; null: not known",
        ),
        sa.Column("route", sa.String(length=12), nullable=True, comment="how the call went out; null: online"),
        sa.Column(
            "reserved_usd_e9",
            sa.BigInteger(),
            nullable=True,
            comment="the most it may cost; null: no budget covered it",
        ),
        sa.Column(
            "doubtful_usd_e9",
            sa.BigInteger(),
            nullable=True,
            comment="what it may have cost, while nobody knows and nobody has forgiven it; null: that is known",
        ),
    ):
        op.add_column("attempts", column)
    comment = "the most that training may cost; null: nothing is reserved"
    op.add_column("fine_tunes", sa.Column("reserved_usd_e9", sa.BigInteger(), nullable=True, comment=comment))
    comment = "when that was reserved: the day whose budget it is in"
    op.add_column("fine_tunes", sa.Column("reserved_at", _TIME, nullable=True, comment=comment))
    _create_budgets()
    _create_upstream_batches()
    _replace_kept_costs(with_route=True)


def downgrade() -> None:
    _replace_kept_costs(with_route=False)
    op.drop_table("upstream_batches")
    op.drop_table("budgets")
    for name in ("reserved_at", "reserved_usd_e9"):
        op.drop_column("fine_tunes", name)
    for name in ("doubtful_usd_e9", "reserved_usd_e9", "route", "standard_usd"):
        op.drop_column("attempts", name)
    op.drop_index("ix_jobs_upstream", "jobs")
    op.drop_column("jobs", "upstream_id")
    op.drop_column("batches", "deadline_at")
    op.drop_column("batches", "route")


def _create_budgets() -> None:
    op.create_table(
        "budgets",
        sa.Column("kind", sa.String(length=10), nullable=False, comment="batch, day or fleet"),
        sa.Column("name", sa.String(length=80), nullable=False, comment="the batch's id, the day in UTC, or empty"),
        sa.Column(
            "cap_usd_e9",
            sa.BigInteger(),
            nullable=True,
            comment="in 1e-9 USD, as all amounts here; null: no cap any more",
        ),
        sa.Column("spent_usd_e9", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column(
            "reserved_usd_e9", sa.BigInteger(), nullable=False, server_default="0", comment="for calls under way"
        ),
        sa.Column(
            "doubtful_usd_e9",
            sa.BigInteger(),
            nullable=False,
            server_default="0",
            comment="what calls may have cost whose end nobody saw; it counts until somebody forgives it",
        ),
        sa.Column(
            "next_call_usd_e9",
            sa.BigInteger(),
            nullable=False,
            server_default="0",
            comment="the most that the cheapest call may cost for which there was no room; 0: there was",
        ),
        sa.Column("created_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("kind", "name", name=op.f("pk_budgets")),
        comment="caps on money, and what counts against them; a day with an empty name is the cap of each new day",
    )
    waiting = sa.text("next_call_usd_e9 > 0")
    op.create_index("ix_budgets_waiting", "budgets", ["name"], postgresql_where=waiting, sqlite_where=waiting)


def _create_upstream_batches() -> None:
    op.create_table(
        "upstream_batches",
        sa.Column("id", _ROW_ID, nullable=False),
        sa.Column("batch_id", sa.String(length=80), nullable=False, comment="the batch that its rows are of"),
        sa.Column("provider", sa.String(length=200), nullable=False),
        sa.Column(
            "token", sa.String(length=40), nullable=False, comment="goes out with it; its rows are owned by up-TOKEN"
        ),
        sa.Column("step", sa.String(length=12), nullable=False, comment="what comes next, as models.upstream has it"),
        sa.Column("model", sa.String(length=200), nullable=False),
        sa.Column("endpoint", sa.String(length=100), nullable=False, comment="the path that all of its lines are for"),
        sa.Column(
            "route", sa.String(length=12), nullable=False, server_default="batch", comment="as models.routes has it"
        ),
        sa.Column("lines", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("bytes", sa.BigInteger(), nullable=False, server_default="0", comment="of the file of its lines"),
        sa.Column(
            "tokens", sa.BigInteger(), nullable=False, server_default="0", comment="of its prompts, as we estimate them"
        ),
        sa.Column(
            "sha256", sa.String(length=64), nullable=True, comment="of the file of its lines, once that is built"
        ),
        sa.Column("file_id", sa.String(length=200), nullable=True, comment="that file's id at the provider"),
        sa.Column("remote_id", sa.String(length=200), nullable=True, comment="the batch's id at the provider"),
        sa.Column("status", sa.String(length=60), nullable=True, comment="as the provider says it"),
        sa.Column("wanted", sa.String(length=10), nullable=True, comment="cancel, until the provider has been told"),
        sa.Column(
            "remote",
            sa.Text(),
            nullable=True,
            comment="the provider's batch as it was last seen: counts, usage, files, errors",
        ),
        sa.Column(
            "refused",
            sa.String(length=10),
            nullable=True,
            comment="what of it was too much: queue, bytes or lines; null: nothing",
        ),
        sa.Column(
            "queue_tokens",
            sa.BigInteger(),
            nullable=True,
            comment="how many tokens the provider lets wait, once it has said so",
        ),
        sa.Column(
            "note",
            sa.Text(),
            nullable=True,
            comment="what last went wrong without ending it; null when nothing did",
        ),
        sa.Column("worker_id", sa.String(length=40), nullable=True, comment="who takes its next step"),
        sa.Column("lease_until", _TIME, nullable=True),
        sa.Column("due_at", _TIME, nullable=False, comment="when its next step may be taken"),
        sa.Column("failures", sa.Integer(), nullable=False, server_default="0", comment="of this step"),
        sa.Column("created_at", _TIME, nullable=False, comment="when its first row was packed"),
        sa.Column("sent_at", _TIME, nullable=True, comment="when the provider made it"),
        sa.Column("seen_at", _TIME, nullable=True, comment="when the provider last said how it is"),
        sa.Column("expires_at", _TIME, nullable=True, comment="when the provider gives it up, as it says"),
        sa.Column("kept_until", _TIME, nullable=True, comment="the lease of its rows"),
        sa.Column("ended_at", _TIME, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_upstream_batches")),
        sa.UniqueConstraint("token", name=op.f("uq_upstream_batches_token")),
        comment="batches at the provider's own Batch API; each owns its rows like a worker with a long lease",
    )
    op.create_index(op.f("ix_upstream_batches_batch_id"), "upstream_batches", ["batch_id"])
    op.create_index(
        "ix_upstream_batches_open",
        "upstream_batches",
        ["due_at"],
        postgresql_where=sa.text(_OPEN),
        sqlite_where=sa.text(_OPEN),
    )


def _replace_kept_costs(*, with_route: bool) -> None:
    """Make the table anew, since SQLite cannot change a key. Its sums had ten decimals and have twelve."""
    op.rename_table("kept_costs", "kept_costs_before")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ALTER INDEX pk_kept_costs RENAME TO pk_kept_costs_before")
    route = [sa.Column("route", sa.String(length=12), nullable=False, comment="as in attempts; empty: online")]
    saved = [
        sa.Column(
            "saved_usd_e12",
            sa.BigInteger(),
            nullable=False,
            server_default="0",
            comment="what they would have cost more on the standard tier",
        )
    ]
    outcome = _OUTCOME if with_route else "as in attempts"
    unit, before = ("e12", "e10") if with_route else ("e10", "e12")
    op.create_table(
        "kept_costs",
        sa.Column("batch_id", sa.String(length=80), nullable=False),
        sa.Column("day", sa.String(length=10), nullable=False, comment="on which the calls began, in UTC: 2026-11-28"),
        sa.Column(
            "model", sa.Text(), nullable=False, comment="as the server said; of rows without an answer, as was asked"
        ),
        sa.Column("outcome", sa.String(length=12), nullable=False, comment=outcome),
        *(route if with_route else []),
        sa.Column("batch_name", sa.String(length=200), nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("provider", sa.String(length=200), nullable=False),
        sa.Column("assistant", sa.Text(), nullable=True, comment="its name; null: none"),
        sa.Column("calls", sa.BigInteger(), nullable=False),
        sa.Column("input_tokens", sa.BigInteger(), nullable=False),
        sa.Column("output_tokens", sa.BigInteger(), nullable=False),
        sa.Column(
            f"cost_usd_{unit}",
            sa.BigInteger(),
            nullable=False,
            comment=f"in 1e-{unit[1:]} USD, so that sums are exact",
        ),
        sa.Column("priced", sa.BigInteger(), nullable=False, comment="calls whose cost is known"),
        sa.Column("unpriced", sa.BigInteger(), nullable=False, comment="calls that used tokens at an unknown price"),
        *(saved if with_route else []),
        sa.PrimaryKeyConstraint(*_KEY, *(["route"] if with_route else []), name=op.f("pk_kept_costs")),
        comment="what the calls of deleted rows came to: the ledger goes on here when the rows themselves are gone",
    )
    cost = f"sum(cost_usd_{before}){' * 100' if with_route else ' / 100'}"
    columns = ", ".join([*_KEY, *_NAMES, *_SUMS, f"cost_usd_{unit}"])
    sums = ", ".join([*_KEY, *(f"max({name})" for name in _NAMES), *(f"sum({name})" for name in _SUMS), cost])
    op.execute(
        f"INSERT INTO kept_costs ({columns}{', route' if with_route else ''}) "  # noqa: S608  # all of it is ours
        f"SELECT {sums}{', ' + repr('') if with_route else ''} FROM kept_costs_before GROUP BY {', '.join(_KEY)}"
    )
    op.drop_table("kept_costs_before")
