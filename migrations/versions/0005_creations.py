"""what is created at the provider has an owner, which need not be a job

Revision ID: 0005
Revises: 0004
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_JOB = "job "
_KEPT = ("step", "round", "token", "remote_id", "sends", "sent_at")


def upgrade() -> None:
    op.create_table(
        "creations",
        sa.Column("owner", sa.String(length=60), nullable=False, comment='what it is for: "job 17" for a train job'),
        sa.Column(
            "step",
            sa.String(length=20),
            nullable=False,
            comment="what is created: of a train job training, validation or job",
        ),
        sa.Column("round", sa.Integer(), nullable=False, comment="raised when the same is to be created anew"),
        sa.Column(
            "token",
            sa.String(length=40),
            nullable=False,
            comment="goes out with it: in a file's name, in a job's metadata",
        ),
        *_columns_of_both(),
        sa.PrimaryKeyConstraint("owner", "step", "round", name=op.f("pk_creations")),
        sa.UniqueConstraint("token", name=op.f("uq_creations_token")),
        comment="every creation at the provider, intended before it is asked for, so that none happens twice",
    )
    old = sa.table("remote_ops", sa.column("job_id"), *map(sa.column, _KEPT))
    new = sa.table("creations", sa.column("owner"), *map(sa.column, _KEPT))
    owner = sa.literal(_JOB, sa.String()) + sa.cast(old.c.job_id, sa.String())
    carried = sa.select(owner, *(old.c[name] for name in _KEPT))
    op.execute(sa.insert(new).from_select(["owner", *_KEPT], carried))
    op.drop_table("remote_ops")


def downgrade() -> None:
    op.create_table(
        "remote_ops",
        sa.Column("job_id", _ROW_ID, nullable=False),
        sa.Column("step", sa.String(length=20), nullable=False, comment="training, validation or job"),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column(
            "token", sa.String(length=40), nullable=False, comment="goes out in the file's name or the job's metadata"
        ),
        *_columns_of_both(),
        sa.PrimaryKeyConstraint("job_id", "step", "round", name=op.f("pk_remote_ops")),
        sa.UniqueConstraint("token", name=op.f("uq_remote_ops_token")),
        comment="every creation at the provider, intended before it is asked for, so that none happens twice",
    )
    old = sa.table("remote_ops", sa.column("job_id"), *map(sa.column, _KEPT))
    new = sa.table("creations", sa.column("owner", sa.String()), *map(sa.column, _KEPT))
    job_id = sa.cast(sa.func.substr(new.c.owner, len(_JOB) + 1), sa.BigInteger())
    # The old table has no place for what is not a job's.
    carried = sa.select(job_id, *(new.c[name] for name in _KEPT)).where(new.c.owner.startswith(_JOB))
    op.execute(sa.insert(old).from_select(["job_id", *_KEPT], carried))
    op.drop_table("creations")


def _columns_of_both() -> list[sa.Column[object]]:
    return [
        sa.Column(
            "remote_id", sa.String(length=200), nullable=True, comment="what was created; null until that is known"
        ),
        sa.Column("sends", sa.Integer(), server_default="0", nullable=False, comment="how often it was asked for"),
        sa.Column(
            "sent_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="since when a creation may be under way whose end is unknown",
        ),
    ]
