"""sums of money are exact to 1e-12 USD, and deleted calls stay maybe spent

Revision ID: 0012
Revises: 0011
"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    comment = "in 1e-12 USD, below 1000: spent_usd_e9 is rounded up by so much"
    _add_amount("budgets", "spent_over_e12", comment)
    comment = "what they may have cost more, while nobody knows and nobody has forgiven it"
    _add_amount("kept_costs", "doubtful_usd_e9", comment)
    _count_in("e10", "e12", "numeric(30, 0)", "* 100")


def downgrade() -> None:
    _count_in("e12", "e10", "bigint", "/ 100")
    op.drop_column("kept_costs", "doubtful_usd_e9")
    op.drop_column("budgets", "spent_over_e12")


def _add_amount(table: str, name: str, comment: str) -> None:
    op.add_column(table, sa.Column(name, sa.BigInteger(), nullable=False, server_default="0", comment=comment))


def _count_in(before: str, after: str, kind: str, factor: str) -> None:
    """Have the triggers of 0009 count costs in another unit, and put what they have counted into it."""
    is_postgres = op.get_bind().dialect.name == "postgresql"
    if is_postgres:
        op.execute("LOCK TABLE jobs IN SHARE ROW EXCLUSIVE MODE")
    op.execute(f"ALTER TABLE tallies RENAME COLUMN cost_usd_{before} TO cost_usd_{after}")
    if is_postgres:
        op.execute(f"ALTER TABLE tallies ALTER COLUMN cost_usd_{after} TYPE {kind}")
        op.execute(f"COMMENT ON COLUMN tallies.cost_usd_{after} IS 'in 1e-{after[1:]} USD, so that sums are exact'")
        counts = "SELECT pg_get_functiondef('tally_jobs()'::regprocedure)"
    else:
        counts = "SELECT sql FROM sqlite_master WHERE type = 'trigger' AND name LIKE 'tally_%'"
    texts = op.get_bind().scalars(sa.text(counts)).all()
    if not is_postgres:
        for event in ("insert", "update", "delete"):
            op.execute(f"DROP TRIGGER tally_{event}")
    for text in texts:
        op.execute(text.replace(f"1{before}", f"1{after}").replace(f"usd_{before}", f"usd_{after}"))
    op.execute(f"UPDATE tallies SET cost_usd_{after} = cost_usd_{after} {factor}")  # noqa: S608  # all of it is ours
