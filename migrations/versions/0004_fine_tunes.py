"""datasets, and what a train job has at the provider

Revision ID: 0004
Revises: 0003
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "dataset_dialogues",
        sa.Column("dataset_id", sa.String(length=24), nullable=False),
        sa.Column("dialogue_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.PrimaryKeyConstraint("dataset_id", "dialogue_id", name=op.f("pk_dataset_dialogues")),
        comment="which stored dialogues a dataset was made of",
    )
    op.create_index(op.f("ix_dataset_dialogues_dialogue_id"), "dataset_dialogues", ["dialogue_id"], unique=False)
    op.create_table(
        "datasets",
        sa.Column(
            "id",
            sa.String(length=24),
            nullable=False,
            comment="hash of the method and of both files: the same examples",
        ),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("source", sa.Text(), nullable=True, comment="the files, or the filters of stored dialogues"),
        sa.Column("method", sa.String(length=20), nullable=False, comment="supervised or dpo"),
        sa.Column(
            "training", sa.Text(), nullable=False, comment="sha256, bytes, examples and tokens of the file in the blobs"
        ),
        sa.Column(
            "validation", sa.Text(), nullable=True, comment="the same of the validation file; null when there is none"
        ),
        sa.Column("report", sa.Text(), nullable=False, comment="what the check found"),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_datasets")),
        comment="examples to train on, checked and split; the files themselves are blobs",
    )
    op.create_table(
        "fine_tune_checkpoints",
        sa.Column("job_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("checkpoint_id", sa.String(length=200), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("model", sa.String(length=300), nullable=False, comment="can be asked like any model"),
        sa.Column("metrics", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("job_id", "checkpoint_id", name=op.f("pk_fine_tune_checkpoints")),
        comment="models of a fine-tune before its end",
    )
    op.create_table(
        "fine_tune_events",
        sa.Column("job_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("event_id", sa.String(length=200), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False, comment="in the order in which the provider tells them"),
        sa.Column("level", sa.String(length=20), nullable=False),
        sa.Column("type", sa.String(length=40), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("data", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, comment="as the provider says"),
        sa.PrimaryKeyConstraint("job_id", "round", "event_id", name=op.f("pk_fine_tune_events")),
        comment="what the provider told of a fine-tune",
    )
    op.create_table(
        "fine_tunes",
        sa.Column("job_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=False, nullable=False),
        sa.Column("dataset_id", sa.String(length=24), nullable=False),
        sa.Column(
            "round", sa.Integer(), server_default="1", nullable=False, comment="raised when an ended one is tried again"
        ),
        sa.Column(
            "remote_id",
            sa.String(length=200),
            nullable=True,
            comment="the job's id at the provider; null until it is created there",
        ),
        sa.Column("status", sa.String(length=60), nullable=True, comment="as the provider says it"),
        sa.Column(
            "wanted",
            sa.String(length=10),
            nullable=True,
            comment="pause, resume or cancel, until the provider has been told",
        ),
        sa.Column("model", sa.String(length=300), nullable=True, comment="the fine-tuned model, once there is one"),
        sa.Column("trained_tokens", sa.BigInteger(), nullable=True),
        sa.Column("remote", sa.Text(), nullable=True, comment="the provider's job as it was last seen"),
        sa.Column(
            "curve",
            sa.Text(),
            nullable=True,
            comment="points of its result file, each as models.metrics.Point has its fields",
        ),
        sa.Column(
            "note", sa.Text(), nullable=True, comment="what last went wrong without ending it; null when nothing did"
        ),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="when the provider's job was asked for here",
        ),
        sa.Column(
            "seen_at", sa.DateTime(timezone=True), nullable=True, comment="when the provider last said how it is"
        ),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_fine_tunes")),
        comment="what a train job has at the provider",
    )
    op.create_index(op.f("ix_fine_tunes_remote_id"), "fine_tunes", ["remote_id"], unique=False)
    op.create_table(
        "remote_ops",
        sa.Column("job_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("step", sa.String(length=20), nullable=False, comment="training, validation or job"),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column(
            "token", sa.String(length=40), nullable=False, comment="goes out in the file's name or the job's metadata"
        ),
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
        sa.PrimaryKeyConstraint("job_id", "step", "round", name=op.f("pk_remote_ops")),
        sa.UniqueConstraint("token", name=op.f("uq_remote_ops_token")),
        comment="every creation at the provider, intended before it is asked for, so that none happens twice",
    )


def downgrade() -> None:
    op.drop_table("remote_ops")
    op.drop_table("fine_tunes")
    op.drop_table("fine_tune_events")
    op.drop_table("fine_tune_checkpoints")
    op.drop_table("datasets")
    op.drop_table("dataset_dialogues")
