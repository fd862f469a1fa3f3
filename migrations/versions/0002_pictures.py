"""pictures that ask the same share one call; retries go first

Revision ID: 0002
Revises: 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("jobs") as batch_op:
        batch_op.add_column(
            sa.Column(
                "content",
                sa.String(length=24),
                nullable=True,
                comment="of pictures: hash of what is asked; equal ones of a batch share one call",
            )
        )
        batch_op.create_index(
            "ix_jobs_content",
            ["batch_id", "content"],
            unique=False,
            postgresql_where=sa.text("content is not null"),
            sqlite_where=sa.text("content is not null"),
        )

    op.create_index(
        "ix_jobs_again",
        "jobs",
        ["batch_id", "available_at"],
        unique=False,
        postgresql_where=sa.text("state = 'queued' and first_attempt_at is not null"),
        sqlite_where=sa.text("state = 'queued' and first_attempt_at is not null"),
    )


def downgrade() -> None:
    op.drop_index("ix_jobs_again", "jobs")
    with op.batch_alter_table("jobs") as batch_op:
        batch_op.drop_index("ix_jobs_content")
        batch_op.drop_column("content")
