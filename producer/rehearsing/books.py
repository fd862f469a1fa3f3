"""After processes were killed four books must agree: what was submitted, what was billed, our ledger, the answers.

In the manner of Jepsen's total-queue: it reads the tables with queries of its own and believes nothing else.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from sqlalchemy import Connection, Select, func, select

from tidemill.models.tables import attempts, batches, dialogues, jobs, messages
from tidemill.simulator import prompt_hash, reply_tag

PaidCall: TypeAlias = Mapping[str, Any]
"""A line of the simulator's paid log."""

_NOT_STORED_SECONDS = 2.0
"""How long an answer may take from the provider's reply until it is committed."""

_TAKEN = ("lost", "stale")


@dataclass(frozen=True, slots=True)
class Casualty:
    """A process that could store nothing from a time on, to another: it was killed or frozen, or it ended by itself.

    `caller` is how the paid log calls it; the times are of the wall clock.
    """

    caller: str
    since: float
    until: float

    def had_in_flight(self, call: PaidCall) -> bool:
        """Whether it had this call under way then, or its answer in memory."""
        began, ended = float(call["started_at"]), float(call["at"])
        return call["caller"] == self.caller and began <= self.until and ended >= self.since - _NOT_STORED_SECONDS


@dataclass(frozen=True, slots=True)
class Books:
    """What a run came to. `taken` are calls that were under way in what was killed or frozen: the most that may be paid
    again. `problems` are sentences; there is none if all promises held.
    """

    prompts: int
    calls_paid: int
    lost: int
    recorded_twice: int
    paid_more_than_once: int
    taken: int
    problems: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"{self.prompts:,} prompts, {self.calls_paid:,} calls paid, {self.lost:,} lost, "
            f"{self.recorded_twice:,} recorded twice, {self.paid_more_than_once:,} paid more than once, "
            f"{self.taken:,} in flight in what was killed"
        )


def compare(
    connection: Connection,
    prompts: Sequence[str],
    paid: Sequence[PaidCall],
    *,
    batch_name: str | None = None,
    casualties: Sequence[Casualty] | None = None,
) -> Books:
    """Compare the books.

    Args:
        prompts: all that was submitted, each one once.
        paid: the provider's log.
        batch_name: which batches of the database are meant; None: all.
        casualties: whose calls may be paid again; None: those that the ledger says were taken from their worker.
    """
    rows = connection.execute(_of(batch_name, _ANSWERS)).all()
    replies: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        if row.state == "succeeded" and row.reply is not None:
            replies[row.prompt].append(row.reply)
    lost = [prompt for prompt in prompts if not replies[prompt]]
    twice = sum(len(each) - 1 for each in replies.values() if each)
    strange = [prompt for prompt, each in replies.items() if not all(one.endswith(reply_tag(prompt)) for one in each)]
    calls = connection.execute(_of(batch_name, _CALLS)).all()
    excused = _taken(calls, rows) if casualties is None else _in_flight(paid, casualties)
    # A cut reply is on the bill, and is asked for again: that is the provider's doing, not a kill's.
    again = Counter(call["prompt_hash"] for call in paid if call["fault"] is None)
    again.subtract(again.keys())
    unexplained = again - excused
    states = Counter(f"{row.state}{f' ({row.error_code})' if row.error_code else ''}" for row in rows)
    problems = {
        f"{len(lost)} prompts have no answer, such as {lost[:3]}; rows by state: {dict(states)}": lost,
        f"{twice} answers are recorded twice": twice,
        f"{len(strange)} prompts have the answer of another, such as {strange[:3]}": strange,
        f"{unexplained.total()} calls were paid again that were not in flight in what was killed": unexplained,
        **_ledger_problems(connection, batch_name, calls, paid, rows),
    }
    return Books(
        len(prompts),
        len(paid),
        len(lost),
        twice,
        again.total(),
        excused.total(),
        tuple(sentence for sentence, is_so in problems.items() if is_so),
    )


_question, _reply = messages.alias("question"), messages.alias("reply")
_ANSWERS = (
    select(
        jobs.c.id, jobs.c.state, jobs.c.error_code, _question.c.content.label("prompt"), _reply.c.content.label("reply")
    )
    .select_from(jobs)
    .join(_question, (_question.c.dialogue_id == jobs.c.id) & (_question.c.role == "user"), isouter=True)
    .join(_reply, (_reply.c.dialogue_id == jobs.c.id) & (_reply.c.role == "assistant"), isouter=True)
)
_CALLS = select(attempts.c.job_id, attempts.c.outcome, attempts.c.request_id).join(jobs, jobs.c.id == attempts.c.job_id)
_UNJUDGED = (
    select(func.count())
    .select_from(dialogues)
    .join(jobs, jobs.c.id == dialogues.c.id)
    .where(dialogues.c.sentiment.is_(None))
)


def _of(batch_name: str | None, query: Select[Any]) -> Select[Any]:
    """Of a query over jobs, the part that is about the batches of this name."""
    return query if batch_name is None else query.where(jobs.c.batch_id.in_(batch_ids(batch_name)))


def batch_ids(batch_name: str) -> Select[str]:
    """Ids of the batches of this name."""
    return select(batches.c.id).where(batches.c.name == batch_name)


def _taken(calls: Sequence[Any], rows: Sequence[Any]) -> Counter[str]:
    """How many calls of each prompt, by its hash, were taken from their worker, as the ledger says."""
    hash_of = {row.id: prompt_hash(row.prompt) for row in rows if row.prompt is not None}
    return Counter(hash_of[call.job_id] for call in calls if call.outcome in _TAKEN and call.job_id in hash_of)


def _in_flight(paid: Sequence[PaidCall], casualties: Sequence[Casualty]) -> Counter[str]:
    """How many calls of each prompt, by its hash, were in flight in what was killed."""
    good = (call for call in paid if call["fault"] is None)
    return Counter(call["prompt_hash"] for call in good if any(each.had_in_flight(call) for each in casualties))


def _ledger_problems(
    connection: Connection,
    batch_name: str | None,
    calls: Sequence[Any],
    paid: Sequence[PaidCall],
    rows: Sequence[Any],
) -> dict[str, object]:
    """Sentence -> whether it is so. Each paid call's request id must be in `attempts`, or an attempt of that very job
    ended without learning one.
    """
    open_calls = sum(call.outcome is None for call in calls)
    ids = Counter(call.request_id for call in calls if call.request_id)
    blind = Counter(call.job_id for call in calls if not call.request_id)
    job_of = {prompt_hash(row.prompt): row.id for row in rows if row.prompt is not None}
    unknown = Counter(job_of.get(call["prompt_hash"]) for call in paid if call["request_id"] not in ids)
    unbooked = unknown - Counter({None: unknown[None]}) - blind
    of_jobs = select(func.sum(jobs.c.input_tokens + jobs.c.output_tokens))
    of_calls = select(func.sum(attempts.c.input_tokens + attempts.c.output_tokens))
    of_calls = of_calls.join(jobs, jobs.c.id == attempts.c.job_id)
    # In one statement, and so of one moment: whoever was frozen may still be storing what it has.
    sums = (_of(batch_name, each).scalar_subquery() for each in (of_jobs, of_calls))
    stored, booked = connection.execute(select(*sums)).one()
    unjudged = connection.scalar(_of(batch_name, _UNJUDGED))
    return {
        f"{open_calls} calls are still under way in the ledger": open_calls,
        f"{sum(ids.values()) - len(ids)} request ids are in the ledger twice": sum(ids.values()) > len(ids),
        f"{unbooked.total()} paid calls are not in the ledger": unbooked,
        f"the jobs have {stored} tokens, their calls {booked}": stored != booked,
        f"{unjudged} replies are not judged": unjudged,
    }
