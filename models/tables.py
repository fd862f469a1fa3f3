"""SQLite and Postgres have the same schema, and this is the place to read what every column means.

These are Core tables, not mapped classes, because everything is written in bulk. Units are in the names; times are UTC.
Tables that are written in bulk have no foreign keys: their rows are only written in a transaction that has the parent,
and checking it again costs a third of the write.
"""

from datetime import UTC, datetime
from typing import cast

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ColumnElement,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Numeric,
    PrimaryKeyConstraint,
    String,
    Table,
    TypeDecorator,
    UniqueConstraint,
    and_,
    text,
)

from tidemill.models.column_types import Json, SafeText, Word
from tidemill.models.text import encode


class UtcDateTime(TypeDecorator[datetime]):
    """A time that is always aware and UTC in Python, even on SQLite, which stores no zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return the database's value as an aware UTC time."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


# SQLite makes only a plain INTEGER PRIMARY KEY an alias of the row's number.
RowId = BigInteger().with_variant(Integer(), "sqlite")

TRAINED = ("succeeded", "completed", "success", "complete", "finished", "done")
ENDED_WITHOUT_MODEL = (
    *("failed", "cancelled", "canceled", "expired", "error", "user_error", "failed_validation", "aborted"),
)
"""Statuses, in lower case, with which a provider's fine-tuning job ends; with any other it continues."""

OPEN_STATES = ("queued", "running")
ENDED_STATES = ("succeeded", "failed", "cancelled")
STATES = (*OPEN_STATES, *ENDED_STATES)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def fit(text: str, column: Column[str]) -> str:
    """A server's name for something, cut to its column: a long one must not cost an answer."""
    return encode(text)[: cast("String", column.type).length]


def _time(name: str, *, nullable: bool = True, comment: str | None = None) -> Column[datetime]:
    return Column(name, UtcDateTime(), nullable=nullable, comment=comment)


def _partial_index(name: str, *columns: str, where: str) -> Index:
    return Index(name, *columns, sqlite_where=text(where))


assistants = Table(
    "assistants",
    metadata,
    Column("id", RowId, primary_key=True),
    Column("name", String(200), nullable=False, unique=True),
    Column("external_id", String(200)),
    Column("instructions", SafeText),
    Column("model", String(200)),
    Column("options", Json, nullable=False),
    Column("is_default", Integer, nullable=False, server_default="0"),
    _time("created_at", nullable=False),
    comment="named sets of instructions, model and options",
)

batches = Table(
    "batches",
    metadata,
    Column("id", String(80), primary_key=True),
    Column("kind", String(20), nullable=False),
    Column("name", String(200), nullable=False, comment="what the user called it, or the input's name"),
    Column("source", SafeText, comment="absolute path or given name of the input; null for pipes and frames"),
    Column("question_hash", String(64), nullable=False, comment="hash of kind and options: the same questions"),
    Column("provider", String(200), nullable=False, comment="host of the provider; never a key"),
    Column(
        "options", Json, nullable=False, comment="what all jobs share: model, endpoint, system, body fields, limits"
    ),
    Column("columns", Json, nullable=False, comment="names of the input's columns, in order"),
    Column("priority", Integer, nullable=False, server_default="0", comment="higher goes first"),
    Column("state", String(20), nullable=False, server_default="open", comment="open, paused or cancelled"),
    Column("submission", Integer, nullable=False, server_default="0", comment="how many times it was submitted"),
    Column("hold_reason", SafeText, comment="why the provider's jobs wait; null when they do not"),
    _time("held_until"),
    _time("held_at"),
    Column("hold_probes", Integer, nullable=False, server_default="0", comment="probes since the last answer"),
    Column("probe_job_id", BigInteger, comment="the one job that may be claimed while held"),
    Column("assistant_id", ForeignKey("assistants.id")),
    _time("created_at", nullable=False),
    _time("read_at"),
    Column(
        "route", String(12), nullable=False, server_default="online", comment="how rows go out, as models.routes has it"
    ),
    _time("deadline_at", comment="by when every row should have ended; null: nobody has said"),
    CheckConstraint("state in ('open', 'paused', 'cancelled')", name="state"),
    Index(None, "question_hash"),
    comment="jobs submitted together; read_at is when the input was read to its end",
)

FLAWED = text(
    "position is not null and (state in ('failed', 'cancelled') or state = 'succeeded' and error_code is not null)"
)
"""Rows that somebody may want to look at or try again; in a query, the words that let an index be used."""

jobs = Table(
    "jobs",
    metadata,
    Column("id", RowId, primary_key=True),
    Column("batch_id", String(80), nullable=False),
    Column("key", String(80), nullable=False, comment="hash of custom_id and content, and which occurrence"),
    Column("custom_id", SafeText, nullable=False),
    Column("position", Integer, comment="row number in the input; null when the input no longer holds the row"),
    Column("submission", Integer, nullable=False, server_default="1", comment="the last submission that held the row"),
    Column("request", Json, nullable=False, comment="what only this job asks: prompt, messages or body"),
    Column("columns", Json, nullable=False, comment="the input's columns, shown again beside the answer"),
    Column("content", String(24), comment="of pictures: hash of what is asked; equal ones of a batch share one call"),
    Column("dialogue_id", RowId, comment="the dialogue that the job goes on: the id of its first turn"),
    Column("state", Word(12), nullable=False, server_default="queued"),
    Column(
        "epoch", Integer, nullable=False, server_default="0", comment="raised by claim, rescue, release, cancel, revive"
    ),
    Column("attempts", Integer, nullable=False, server_default="0", comment="provider calls so far, without held ones"),
    Column("failures", Integer, nullable=False, server_default="0", comment="calls that count towards the cap"),
    Column("losses", Integer, nullable=False, server_default="0", comment="workers that vanished with the job"),
    _time("available_at", nullable=False),
    _time("sent_at"),
    _time("lease_until"),
    Column("worker_id", String(40)),
    _time("first_attempt_at"),
    _time("finished_at"),
    Column("input_tokens", Integer, nullable=False, server_default="0", comment="over all attempts"),
    Column("output_tokens", Integer, nullable=False, server_default="0", comment="over all attempts"),
    Column("cost_usd", Float, comment="over all attempts; null while unknown"),
    Column("error_code", String(100)),
    Column("error", SafeText),
    Column("upstream_id", RowId, comment="the upstream batch of which it last was a line; null: of none"),
    UniqueConstraint("batch_id", "key"),
    CheckConstraint(f"state in {STATES}", name="state"),
    CheckConstraint("(state = 'running') = (lease_until is not null)", name="lease"),
    Index("ix_jobs_batch_position", "batch_id", "position"),
    _partial_index("ix_jobs_due", "batch_id", "available_at", "id", where="state = 'queued' and sent_at is null"),
    _partial_index(
        "ix_jobs_again", "batch_id", "available_at", where="state = 'queued' and first_attempt_at is not null"
    ),
    _partial_index("ix_jobs_sent", "sent_at", where="state = 'queued' and sent_at is not null"),
    _partial_index("ix_jobs_running", "lease_until", where="state = 'running'"),
    _partial_index("ix_jobs_content", "batch_id", "content", where="content is not null"),
    _partial_index("ix_jobs_twins", "content", where="state = 'queued' and content is not null"),
    _partial_index("ix_jobs_flawed", "batch_id", "id", where=FLAWED.text),
    _partial_index("ix_jobs_error", "batch_id", "error_code", "id", where=FLAWED.text),
    _partial_index("ix_jobs_dialogue", "dialogue_id", "id", where="dialogue_id is not null"),
    _partial_index("ix_jobs_upstream", "upstream_id", "id", where="upstream_id is not null"),
    comment="one row of work each",
)

OPEN_PARTS = (
    and_(jobs.c.state == "queued", jobs.c.sent_at.is_(None)),
    and_(jobs.c.state == "queued", jobs.c.sent_at.is_not(None)),
    jobs.c.state == "running",
)
"""Open jobs in parts that indexes hold, so that no ended job is read."""


def in_part(part: ColumnElement[bool], batch_id: str | ColumnElement[str]) -> ColumnElement[bool]:
    """Whether a job is in such a part, and of this batch.

    What is sent or running is little. It is read as a whole: the batch's name is hidden from the planner, which would
    rather look for these few among all jobs of the batch.
    """
    own = jobs.c.batch_id if part is OPEN_PARTS[0] else jobs.c.batch_id.concat("")
    return and_(part, own == batch_id)


tallies = Table(
    "tallies",
    metadata,
    Column("batch_id", String(80), nullable=False),
    Column("submission", Integer, nullable=False),
    Column("state", String(12), nullable=False, comment="open (queued or running), or how the rows have ended"),
    Column("error_code", String(100), nullable=False, comment="of rows that have ended; empty: they have none"),
    Column("shard", Integer, nullable=False, comment="keeps writers apart; a count is the sum over shards"),
    Column("row_count", BigInteger, nullable=False),
    Column("tokens", BigInteger, nullable=False, comment="input and output"),
    Column(
        "cost_usd_e12",
        BigInteger().with_variant(Numeric(30, 0), "postgresql"),  # as in SQLite, no server's nonsense overflows it
        nullable=False,
        comment="in 1e-12 USD, so that sums are exact",
    ),
    Column("priced", BigInteger, nullable=False, comment="rows whose cost is known"),
    Column("unpriced", BigInteger, nullable=False, comment="rows that used tokens at an unknown price"),
    PrimaryKeyConstraint("batch_id", "submission", "state", "error_code", "shard"),
    comment="what a batch's rows come to, kept by triggers on jobs; rows that left the input do not count",
    sqlite_with_rowid=False,
)

attempts = Table(
    "attempts",
    metadata,
    Column("job_id", RowId, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("worker_id", String(40), nullable=False),
    _time("started_at", nullable=False),
    _time("ended_at"),
    Column("outcome", String(12), comment="null while under way; succeeded, retried, held, failed, lost, stale"),
    Column("http_status", Integer),
    Column("error_code", String(100)),
    Column("error", SafeText),
    Column("request_id", String(200)),
    Column("seconds", Float, comment="from sending the call to its end"),
    Column("input_tokens", Integer),
    Column("output_tokens", Integer),
    Column("cost_usd", Float),
    Column("standard_usd", Float, comment="what the same tokens cost on the standard tier, online; null: not known"),
    Column("route", String(12), comment="how the call went out; null: online"),
    Column("reserved_usd_e9", BigInteger, comment="the most it may cost; null: no budget covered it"),
    Column(
        "doubtful_usd_e9",
        BigInteger,
        comment="what it may have cost, while nobody knows and nobody has forgiven it; null: that is known",
    ),
    PrimaryKeyConstraint("job_id", "epoch"),
    comment="one row per provider call, begun before the call: the ledger the bill is checked against",
)

kept_costs = Table(
    "kept_costs",
    metadata,
    Column("batch_id", String(80), nullable=False),
    Column("day", String(10), nullable=False, comment="on which the calls began, in UTC: 2026-11-28"),
    Column("model", SafeText, nullable=False, comment="as the server said; of rows without an answer, as was asked"),
    Column(
        "outcome",
        String(12),
        nullable=False,
        comment="as models.kept_costs has it: as in attempts, but refused and schema apart",
    ),
    Column("route", String(12), nullable=False, comment="as in attempts; empty: online"),
    Column("batch_name", String(200), nullable=False),
    Column("kind", String(20), nullable=False),
    Column("provider", String(200), nullable=False),
    Column("assistant", SafeText, comment="its name; null: none"),
    Column("calls", BigInteger, nullable=False),
    Column("input_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("cost_usd_e12", BigInteger, nullable=False, comment="in 1e-12 USD, so that sums are exact"),
    Column("priced", BigInteger, nullable=False, comment="calls whose cost is known"),
    Column("unpriced", BigInteger, nullable=False, comment="calls that used tokens at an unknown price"),
    Column(
        "saved_usd_e12",
        BigInteger,
        nullable=False,
        server_default="0",
        comment="what they would have cost more on the standard tier",
    ),
    Column(
        "doubtful_usd_e9",
        BigInteger,
        nullable=False,
        server_default="0",
        comment="what they may have cost more, while nobody knows and nobody has forgiven it",
    ),
    PrimaryKeyConstraint("batch_id", "day", "model", "outcome", "route"),
    comment="what the calls of deleted rows came to: the ledger goes on here when the rows themselves are gone",
)

budgets = Table(
    "budgets",
    metadata,
    Column("kind", String(10), nullable=False, comment="batch, day or fleet"),
    Column("name", String(80), nullable=False, comment="the batch's id, the day in UTC, or empty"),
    Column("cap_usd_e9", BigInteger, comment="in 1e-9 USD, as all amounts here; null: no cap any more"),
    Column("spent_usd_e9", BigInteger, nullable=False, server_default="0"),
    Column(
        "spent_over_e12",
        BigInteger,
        nullable=False,
        server_default="0",
        comment="in 1e-12 USD, below 1000: spent_usd_e9 is rounded up by so much",
    ),
    Column("reserved_usd_e9", BigInteger, nullable=False, server_default="0", comment="for calls under way"),
    Column(
        "doubtful_usd_e9",
        BigInteger,
        nullable=False,
        server_default="0",
        comment="what calls may have cost whose end nobody saw; it counts until somebody forgives it",
    ),
    Column(
        "next_call_usd_e9",
        BigInteger,
        nullable=False,
        server_default="0",
        comment="the most that the cheapest call may cost for which there was no room; 0: there was",
    ),
    _time("created_at", nullable=False),
    PrimaryKeyConstraint("kind", "name"),
    _partial_index("ix_budgets_waiting", "name", where="next_call_usd_e9 > 0"),
    comment="caps on money, and what counts against them; a day with an empty name is the cap of each new day",
)

upstream_batches = Table(
    "upstream_batches",
    metadata,
    Column("id", RowId, primary_key=True),
    Column("batch_id", String(80), nullable=False, comment="the batch that its rows are of"),
    Column("provider", String(200), nullable=False),
    Column("token", String(40), nullable=False, comment="goes out with it; its rows are owned by up-TOKEN"),
    Column("step", String(12), nullable=False, comment="what comes next, as models.upstream has it"),
    Column("model", String(200), nullable=False),
    Column("endpoint", String(100), nullable=False, comment="the path that all of its lines are for"),
    Column("route", String(12), nullable=False, server_default="batch", comment="as models.routes has it"),
    Column("lines", Integer, nullable=False, server_default="0"),
    Column("bytes", BigInteger, nullable=False, server_default="0", comment="of the file of its lines"),
    Column("tokens", BigInteger, nullable=False, server_default="0", comment="of its prompts, as we estimate them"),
    Column("sha256", String(64), comment="of the file of its lines, once that is built"),
    Column("file_id", String(200), comment="that file's id at the provider"),
    Column("remote_id", String(200), comment="the batch's id at the provider"),
    Column("status", String(60), comment="as the provider says it"),
    Column("wanted", String(10), comment="cancel, until the provider has been told"),
    Column("remote", Json, comment="the provider's batch as it was last seen: counts, usage, files, errors"),
    Column("refused", String(10), comment="what of it was too much: queue, bytes or lines; null: nothing"),
    Column("queue_tokens", BigInteger, comment="how many tokens the provider lets wait, once it has said so"),
    Column("note", SafeText, comment="what last went wrong without ending it; null when nothing did"),
    Column("worker_id", String(40), comment="who takes its next step"),
    _time("lease_until"),
    _time("due_at", nullable=False, comment="when its next step may be taken"),
    Column("failures", Integer, nullable=False, server_default="0", comment="of this step"),
    _time("created_at", nullable=False, comment="when its first row was packed"),
    _time("sent_at", comment="when the provider made it"),
    _time("seen_at", comment="when the provider last said how it is"),
    _time("expires_at", comment="when the provider gives it up, as it says"),
    _time("kept_until", comment="the lease of its rows"),
    _time("ended_at"),
    UniqueConstraint("token"),
    Index(None, "batch_id"),
    _partial_index("ix_upstream_batches_open", "due_at", where="ended_at is null"),
    comment="batches at the provider's own Batch API; each owns its rows like a worker with a long lease",
)

dialogues = Table(
    "dialogues",
    metadata,
    Column("id", RowId, primary_key=True, autoincrement=False, comment="the job that opened it"),
    Column("batch_id", String(80), nullable=False),
    Column("assistant_id", RowId),
    Column("root_id", RowId, comment="the dialogue that this turn goes on; null: it is the first turn itself"),
    Column("model", String(200), nullable=False, comment="as the server says"),
    Column("finish_reason", String(40), nullable=False),
    Column("reasoning", SafeText, comment="what the model thought before it answered; null: none was shown"),
    Column("sentiment", String(10), comment="null until judged; positive, negative, neutral or unknown"),
    Column("sentiment_score", Float, comment="-1 to 1; null when unknown"),
    Column("language", String(10)),
    _time("created_at", nullable=False),
    Index(None, "batch_id"),
    _partial_index("ix_dialogues_unjudged", "batch_id", where="sentiment is null"),
    _partial_index("ix_dialogues_root", "root_id", "id", where="root_id is not null"),
    comment="one per answered job; its id is the job's, so a second answer cannot be recorded",
)

messages = Table(
    "messages",
    metadata,
    Column("dialogue_id", RowId, nullable=False),
    Column("position", Integer, nullable=False),
    Column("role", String(20), nullable=False),
    Column(
        "content", SafeText, nullable=False, comment="its text; of one with a picture, and of old ones, JSON of parts"
    ),
    Column("rest", Json, comment="all else of it, as JSON: tool calls, a name, content that is no text; null: nothing"),
    PrimaryKeyConstraint("dialogue_id", "position"),
    comment="the turns of a dialogue, system first, reply last",
)

datasets = Table(
    "datasets",
    metadata,
    Column("id", String(24), primary_key=True, comment="hash of the method and of both files: the same examples"),
    Column("name", String(200), nullable=False),
    Column("source", SafeText, comment="the files, or the filters of stored dialogues"),
    Column("method", String(20), nullable=False, comment="supervised or dpo"),
    Column("training", Json, nullable=False, comment="sha256, bytes, examples and tokens of the file in the blobs"),
    Column("validation", Json, comment="the same of the validation file; null when there is none"),
    Column("report", Json, nullable=False, comment="what the check found"),
    _time("created_at", nullable=False),
    comment="examples to train on, checked and split; the files themselves are blobs",
)

dataset_dialogues = Table(
    "dataset_dialogues",
    metadata,
    Column("dataset_id", String(24), nullable=False),
    Column("dialogue_id", RowId, nullable=False),
    PrimaryKeyConstraint("dataset_id", "dialogue_id"),
    Index(None, "dialogue_id"),
    comment="which stored dialogues a dataset was made of",
)

fine_tunes = Table(
    "fine_tunes",
    metadata,
    Column("job_id", RowId, primary_key=True, autoincrement=False),
    Column("dataset_id", String(24), nullable=False),
    Column("round", Integer, nullable=False, server_default="1", comment="raised when an ended one is tried again"),
    Column("remote_id", String(200), comment="the job's id at the provider; null until it is created there"),
    Column("status", String(60), comment="as the provider says it"),
    Column("wanted", String(10), comment="pause, resume or cancel, until the provider has been told"),
    Column("model", String(300), comment="the fine-tuned model, once there is one"),
    Column("trained_tokens", BigInteger),
    Column("remote", Json, comment="the provider's job as it was last seen"),
    Column("curve", Json, comment="points of its result file, each as models.metrics.Point has its fields"),
    Column("note", SafeText, comment="what last went wrong without ending it; null when nothing did"),
    Column("reserved_usd_e9", BigInteger, comment="the most that training may cost; null: nothing is reserved"),
    _time("reserved_at", comment="when that was reserved: the day whose budget it is in"),
    _time("created_at", nullable=False, comment="when the provider's job was asked for here"),
    _time("seen_at", comment="when the provider last said how it is"),
    Index(None, "remote_id"),
    comment="what a train job has at the provider",
)

creations = Table(
    "creations",
    metadata,
    Column("owner", String(60), nullable=False, comment='what it is for: "job 17" for a train job'),
    Column("step", String(20), nullable=False, comment="what is created: of a train job training, validation or job"),
    Column("round", Integer, nullable=False, comment="raised when the same is to be created anew"),
    Column("token", String(40), nullable=False, comment="goes out with it: in a file's name, in a job's metadata"),
    Column("remote_id", String(200), comment="what was created; null until that is known"),
    Column("sends", Integer, nullable=False, server_default="0", comment="how often it was asked for"),
    _time("sent_at", comment="since when a creation may be under way whose end is unknown"),
    PrimaryKeyConstraint("owner", "step", "round"),
    UniqueConstraint("token"),
    comment="every creation at the provider, intended before it is asked for, so that none happens twice",
)

fine_tune_events = Table(
    "fine_tune_events",
    metadata,
    Column("job_id", RowId, nullable=False),
    Column("event_id", String(200), nullable=False),
    Column("round", Integer, nullable=False),
    Column("number", Integer, nullable=False, comment="in the order in which the provider tells them"),
    Column("level", String(20), nullable=False),
    Column("type", String(40), nullable=False),
    Column("message", SafeText, nullable=False),
    Column("data", Json),
    _time("created_at", nullable=False, comment="as the provider says"),
    PrimaryKeyConstraint("job_id", "round", "event_id"),
    comment="what the provider told of a fine-tune",
)

fine_tune_checkpoints = Table(
    "fine_tune_checkpoints",
    metadata,
    Column("job_id", RowId, nullable=False),
    Column("checkpoint_id", String(200), nullable=False),
    Column("step", Integer, nullable=False),
    Column("model", String(300), nullable=False, comment="can be asked like any model"),
    Column("metrics", Json, nullable=False),
    PrimaryKeyConstraint("job_id", "checkpoint_id"),
    comment="models of a fine-tune before its end",
)

workers = Table(
    "workers",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("host", String(200), nullable=False),
    Column("machine", String(100), nullable=False, comment="boot id and pid namespace: where its pid can be looked up"),
    Column("pid", Integer, nullable=False),
    Column("provider", String(200), comment="host of the server that it calls; null: its version does not say"),
    Column("window", Integer, nullable=False),
    Column("in_flight", Integer, nullable=False, server_default="0"),
    Column("version", String(40), nullable=False),
    _time("started_at", nullable=False),
    _time("seen_at", nullable=False),
    comment="worker processes that are alive, or were a moment ago",
)


def complete_metadata() -> MetaData:
    """The tables with what only Postgres is to know, for whoever makes or compares a schema.

    With the first such word SQLAlchemy loads its dialect, a twentieth of a command's start that only uses SQLite.
    """
    for index in (index for table in metadata.tables.values() for index in table.indexes):
        if (where := index.dialect_kwargs.get("sqlite_where")) is not None:
            index.dialect_kwargs["postgresql_where"] = where
    tallies.dialect_kwargs["postgresql_with"] = {"fillfactor": 50}
    return metadata
