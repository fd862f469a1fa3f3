"""a worker says which server it calls, since it runs no jobs for another one

Revision ID: 0006
Revises: 0005
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    comment = "host of the server that it calls; null: its version does not say"
    op.add_column("workers", sa.Column("provider", sa.String(length=200), nullable=True, comment=comment))


def downgrade() -> None:
    op.drop_column("workers", "provider")
