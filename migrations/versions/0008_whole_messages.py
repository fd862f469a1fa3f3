"""a message is kept whole: tool calls, names, content that is no text

Revision ID: 0008
Revises: 0006
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    comment = "all else of it, as JSON: tool calls, a name, content that is no text; null: nothing"
    op.add_column("messages", sa.Column("rest", sa.Text(), nullable=True, comment=comment))
    _describe_content("its text; of one with a picture, and of old ones, JSON of parts")


def downgrade() -> None:
    op.drop_column("messages", "rest")
    _describe_content("text; content in parts is stored as JSON")


def _describe_content(comment: str) -> None:
    if op.get_bind().dialect.name == "postgresql":  # SQLite has no comments, and would copy the table
        op.alter_column("messages", "content", existing_type=sa.Text(), existing_nullable=False, comment=comment)
