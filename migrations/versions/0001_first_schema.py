"""first schema"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "assistants",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("external_id", sa.String(length=200), nullable=True),
        sa.Column("instructions", sa.Text(), nullable=True),
        sa.Column("model", sa.String(length=200), nullable=True),
        sa.Column("options", sa.Text(), nullable=False),
        sa.Column("is_default", sa.Integer(), server_default="0", nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_assistants")),
        sa.UniqueConstraint("name", name=op.f("uq_assistants_name")),
        comment="named sets of instructions, model and options",
    )
    op.create_table(
        "attempts",
        sa.Column("job_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("worker_id", sa.String(length=40), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "outcome",
            sa.String(length=12),
            nullable=True,
            comment="null while under way; succeeded, retried, held, failed, lost, stale",
        ),
        sa.Column("http_status", sa.Integer(), nullable=True),
        sa.Column("error_code", sa.String(length=100), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("request_id", sa.String(length=200), nullable=True),
        sa.Column("seconds", sa.Float(), nullable=True, comment="from sending the call to its end"),
        sa.Column("input_tokens", sa.Integer(), nullable=True),
        sa.Column("output_tokens", sa.Integer(), nullable=True),
        sa.Column("cost_usd", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("job_id", "epoch", name=op.f("pk_attempts")),
        comment="one row per provider call, begun before the call: the ledger the bill is checked against",
    )
    op.create_table(
        "dialogues",
        sa.Column(
            "id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=False,
            nullable=False,
            comment="the job that opened it",
        ),
        sa.Column("batch_id", sa.String(length=80), nullable=False),
        sa.Column("assistant_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("model", sa.String(length=200), nullable=False, comment="as the server says"),
        sa.Column("finish_reason", sa.String(length=40), nullable=False),
        sa.Column(
            "sentiment",
            sa.String(length=10),
            nullable=True,
            comment="null until judged; positive, negative, neutral or unknown",
        ),
        sa.Column("sentiment_score", sa.Float(), nullable=True, comment="-1 to 1; null when unknown"),
        sa.Column("language", sa.String(length=10), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_dialogues")),
        comment="one per answered job; its id is the job's, so a second answer cannot be recorded",
    )
    with op.batch_alter_table("dialogues", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_dialogues_batch_id"), ["batch_id"], unique=False)
        batch_op.create_index(
            "ix_dialogues_unjudged",
            ["batch_id"],
            unique=False,
            postgresql_where=sa.text("sentiment is null"),
            sqlite_where=sa.text("sentiment is null"),
        )

    op.create_table(
        "jobs",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("batch_id", sa.String(length=80), nullable=False),
        sa.Column(
            "key", sa.String(length=80), nullable=False, comment="hash of custom_id and content, and which occurrence"
        ),
        sa.Column("custom_id", sa.Text(), nullable=False),
        sa.Column(
            "position",
            sa.Integer(),
            nullable=True,
            comment="row number in the input; null when the input no longer holds the row",
        ),
        sa.Column(
            "submission",
            sa.Integer(),
            server_default="1",
            nullable=False,
            comment="the last submission that held the row",
        ),
        sa.Column("request", sa.Text(), nullable=False, comment="what only this job asks: prompt, messages or body"),
        sa.Column(
            "columns",
            sa.Text(),
            nullable=False,
            comment="the input's columns, shown again beside the answer",
        ),
        sa.Column("state", sa.String(length=12), server_default="queued", nullable=False),
        sa.Column(
            "epoch",
            sa.Integer(),
            server_default="0",
            nullable=False,
            comment="raised by claim, rescue, release, cancel, revive",
        ),
        sa.Column(
            "attempts",
            sa.Integer(),
            server_default="0",
            nullable=False,
            comment="provider calls so far, without held ones",
        ),
        sa.Column(
            "failures", sa.Integer(), server_default="0", nullable=False, comment="calls that count towards the cap"
        ),
        sa.Column(
            "losses", sa.Integer(), server_default="0", nullable=False, comment="workers that vanished with the job"
        ),
        sa.Column("available_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("sent_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("worker_id", sa.String(length=40), nullable=True),
        sa.Column("first_attempt_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("input_tokens", sa.Integer(), server_default="0", nullable=False, comment="over all attempts"),
        sa.Column("output_tokens", sa.Integer(), server_default="0", nullable=False, comment="over all attempts"),
        sa.Column("cost_usd", sa.Float(), nullable=True, comment="over all attempts; null while unknown"),
        sa.Column("error_code", sa.String(length=100), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.CheckConstraint("(state = 'running') = (lease_until is not null)", name=op.f("ck_jobs_lease")),
        sa.CheckConstraint(
            "state in ('queued', 'running', 'succeeded', 'failed', 'cancelled')", name=op.f("ck_jobs_state")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
        sa.UniqueConstraint("batch_id", "key", name=op.f("uq_jobs_batch_id_key")),
        comment="one row of work each",
    )
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.create_index("ix_jobs_batch_position", ["batch_id", "position"], unique=False)
        batch_op.create_index(
            "ix_jobs_due",
            ["batch_id", "available_at", "id"],
            unique=False,
            postgresql_where=sa.text("state = 'queued' and sent_at is null"),
            sqlite_where=sa.text("state = 'queued' and sent_at is null"),
        )
        batch_op.create_index(
            "ix_jobs_running",
            ["lease_until"],
            unique=False,
            postgresql_where=sa.text("state = 'running'"),
            sqlite_where=sa.text("state = 'running'"),
        )
        batch_op.create_index(
            "ix_jobs_sent",
            ["sent_at"],
            unique=False,
            postgresql_where=sa.text("state = 'queued' and sent_at is not null"),
            sqlite_where=sa.text("state = 'queued' and sent_at is not null"),
        )

    op.create_table(
        "messages",
        sa.Column("dialogue_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("role", sa.String(length=20), nullable=False),
        sa.Column("content", sa.Text(), nullable=False, comment="text; content in parts is stored as JSON"),
        sa.PrimaryKeyConstraint("dialogue_id", "position", name=op.f("pk_messages")),
        comment="the turns of a dialogue, system first, reply last",
    )
    op.create_table(
        "workers",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("host", sa.String(length=200), nullable=False),
        sa.Column(
            "machine",
            sa.String(length=100),
            nullable=False,
            comment="boot id and pid namespace: where its pid can be looked up",
        ),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("window", sa.Integer(), nullable=False),
        sa.Column("in_flight", sa.Integer(), server_default="0", nullable=False),
        sa.Column("version", sa.String(length=40), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workers")),
        comment="worker processes that are alive, or were a moment ago",
    )
    op.create_table(
        "batches",
        sa.Column("id", sa.String(length=80), nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column(
            "name",
            sa.String(length=200),
            nullable=False,
            comment="what the user called it, or the input's name",
        ),
        sa.Column(
            "source",
            sa.Text(),
            nullable=True,
            comment="absolute path or given name of the input; null for pipes and frames",
        ),
        sa.Column(
            "question_hash",
            sa.String(length=64),
            nullable=False,
            comment="hash of kind and options: the same questions",
        ),
        sa.Column("provider", sa.String(length=200), nullable=False, comment="host of the provider; never a key"),
        sa.Column(
            "options",
            sa.Text(),
            nullable=False,
            comment="what all jobs share: model, endpoint, system, body fields, limits",
        ),
        sa.Column(
            "columns",
            sa.Text(),
            nullable=False,
            comment="names of the input's columns, in order",
        ),
        sa.Column("priority", sa.Integer(), server_default="0", nullable=False, comment="higher goes first"),
        sa.Column(
            "state", sa.String(length=20), server_default="open", nullable=False, comment="open, paused or cancelled"
        ),
        sa.Column(
            "submission", sa.Integer(), server_default="0", nullable=False, comment="how many times it was submitted"
        ),
        sa.Column(
            "hold_reason",
            sa.Text(),
            nullable=True,
            comment="why the provider's jobs wait; null when they do not",
        ),
        sa.Column("held_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("held_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "hold_probes", sa.Integer(), server_default="0", nullable=False, comment="probes since the last answer"
        ),
        sa.Column("probe_job_id", sa.BigInteger(), nullable=True, comment="the one job that may be claimed while held"),
        sa.Column("assistant_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("read_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("state in ('open', 'paused', 'cancelled')", name=op.f("ck_batches_state")),
        sa.ForeignKeyConstraint(["assistant_id"], ["assistants.id"], name=op.f("fk_batches_assistant_id_assistants")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_batches")),
        comment="jobs submitted together; read_at is when the input was read to its end",
    )
    with op.batch_alter_table("batches", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_batches_question_hash"), ["question_hash"], unique=False)


def downgrade() -> None:
    with op.batch_alter_table("batches", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_batches_question_hash"))

    op.drop_table("batches")
    op.drop_table("workers")
    op.drop_table("messages")
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.drop_index(
            "ix_jobs_sent",
            postgresql_where=sa.text("state = 'queued' and sent_at is not null"),
            sqlite_where=sa.text("state = 'queued' and sent_at is not null"),
        )
        batch_op.drop_index(
            "ix_jobs_running", postgresql_where=sa.text("state = 'running'"), sqlite_where=sa.text("state = 'running'")
        )
        batch_op.drop_index(
            "ix_jobs_due",
            postgresql_where=sa.text("state = 'queued' and sent_at is null"),
            sqlite_where=sa.text("state = 'queued' and sent_at is null"),
        )
        batch_op.drop_index("ix_jobs_batch_position")

    op.drop_table("jobs")
    with op.batch_alter_table("dialogues", schema=None) as batch_op:
        batch_op.drop_index(
            "ix_dialogues_unjudged",
            postgresql_where=sa.text("sentiment is null"),
            sqlite_where=sa.text("sentiment is null"),
        )
        batch_op.drop_index(batch_op.f("ix_dialogues_batch_id"))

    op.drop_table("dialogues")
    op.drop_table("attempts")
    op.drop_table("assistants")
