"""dialogues go on: a job may be a later turn of one

Revision ID: 0003
Revises: 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    goes_on = "the dialogue that the job goes on: the id of its first turn"
    op.add_column("jobs", sa.Column("dialogue_id", _ROW_ID, nullable=True, comment=goes_on))
    op.create_index(
        "ix_jobs_dialogue",
        "jobs",
        ["dialogue_id", "id"],
        unique=False,
        postgresql_where=sa.text("dialogue_id is not null"),
        sqlite_where=sa.text("dialogue_id is not null"),
    )
    is_part_of = "the dialogue that this turn goes on; null: it is the first turn itself"
    op.add_column("dialogues", sa.Column("root_id", _ROW_ID, nullable=True, comment=is_part_of))
    op.create_index(
        "ix_dialogues_root",
        "dialogues",
        ["root_id", "id"],
        unique=False,
        postgresql_where=sa.text("root_id is not null"),
        sqlite_where=sa.text("root_id is not null"),
    )


def downgrade() -> None:
    for table, column, index in (
        ("dialogues", "root_id", "ix_dialogues_root"),
        ("jobs", "dialogue_id", "ix_jobs_dialogue"),
    ):
        op.drop_index(index, table)
        with op.batch_alter_table(table) as batch_op:
            batch_op.drop_column(column)
