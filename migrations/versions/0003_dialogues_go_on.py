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
_ADDED = {
    "jobs": ("dialogue_id", "ix_jobs_dialogue", "the dialogue that the job goes on: the id of its first turn"),
    "dialogues": (
        "root_id",
        "ix_dialogues_root",
        "the dialogue that this turn goes on; null: it is the first turn itself",
    ),
}


def upgrade() -> None:
    for table, (column, index, meaning) in _ADDED.items():
        op.add_column(table, sa.Column(column, _ROW_ID, nullable=True, comment=meaning))
        where = sa.text(f"{column} is not null")
        op.create_index(index, table, [column, "id"], unique=False, postgresql_where=where, sqlite_where=where)


def downgrade() -> None:
    for table, (column, index, _) in _ADDED.items():
        op.drop_index(index, table)
        with op.batch_alter_table(table) as batch_op:
            batch_op.drop_column(column)
