"""what calls have cost can be kept when their rows are deleted

Revision ID: 0010
Revises: 0009
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "kept_costs",
        sa.Column("batch_id", sa.String(length=80), nullable=False),
        sa.Column("day", sa.String(length=10), nullable=False, comment="on which the calls began, in UTC: 2026-11-28"),
        sa.Column(
            "model", sa.Text(), nullable=False, comment="as the server said; of rows without an answer, as was asked"
        ),
        sa.Column("outcome", sa.String(length=12), nullable=False, comment="as in attempts"),
        sa.Column("batch_name", sa.String(length=200), nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("provider", sa.String(length=200), nullable=False),
        sa.Column("assistant", sa.Text(), nullable=True, comment="its name; null: none"),
        sa.Column("calls", sa.BigInteger(), nullable=False),
        sa.Column("input_tokens", sa.BigInteger(), nullable=False),
        sa.Column("output_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cost_usd_e10", sa.BigInteger(), nullable=False, comment="in 1e-10 USD, so that sums are exact"),
        sa.Column("priced", sa.BigInteger(), nullable=False, comment="calls whose cost is known"),
        sa.Column("unpriced", sa.BigInteger(), nullable=False, comment="calls that used tokens at an unknown price"),
        sa.PrimaryKeyConstraint("batch_id", "day", "model", "outcome", name=op.f("pk_kept_costs")),
        comment="what the calls of deleted rows came to: the ledger goes on here when the rows themselves are gone",
    )


def downgrade() -> None:
    op.drop_table("kept_costs")
