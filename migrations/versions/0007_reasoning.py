"""what a model thinks before it answers is kept beside the answer

Revision ID: 0007
Revises: 0006
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    comment = "what the model thought before it answered; null: none was shown"
    op.add_column("dialogues", sa.Column("reasoning", sa.Text(), nullable=True, comment=comment))


def downgrade() -> None:
    op.drop_column("dialogues", "reasoning")
