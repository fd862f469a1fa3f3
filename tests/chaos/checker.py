"""After a chaos run four books must agree: what was submitted, what the provider billed, our ledger, the answers.

A checker in the manner of Jepsen's total-queue: it reads the tables with SQL of its own and believes nothing else.
"""

import os
import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.flows.tidemill import Tidemill
from tidemill.simulator import prompt_hash, reply_tag

_ROWS = """
SELECT j.id, j.state, p.content AS prompt, a.content AS reply
FROM jobs j
LEFT JOIN messages p ON p.dialogue_id = j.id AND p.role = 'user'
LEFT JOIN messages a ON a.dialogue_id = j.id AND a.role = 'assistant'
"""
_MONEY = """
SELECT (SELECT sum(input_tokens + output_tokens) FROM jobs), (SELECT sum(input_tokens + output_tokens) FROM attempts)
"""


@dataclass(frozen=True, slots=True)
class Books:
    """What a run came to. `taken` are calls of ours that were taken from their worker: killed, frozen or stopped."""

    prompts: int
    paid: int
    paid_more_than_once: int
    taken: int

    def __str__(self) -> str:
        return (
            f"{self.prompts} prompts, {self.paid} calls paid, {self.paid_more_than_once} more than once, "
            f"{self.taken} calls in flight in what was killed"
        )


def a_seed() -> int:
    """Another one each time, printed; CHAOS_SEED=.. repeats a run, as far as the machine lets it."""
    seed = int(os.environ.get("CHAOS_SEED") or random.randrange(10**6))
    print(f"CHAOS_SEED={seed}")
    return seed


def check(user: Tidemill, paid: Sequence[dict[str, Any]], prompts: Sequence[str]) -> Books:
    """Compare the books, and raise AssertionError where they differ."""
    job_of = _every_prompt_is_answered_once(user, prompts)
    by_job = _every_paid_call_is_in_the_ledger(user, paid, job_of)
    jobs_tokens, attempts_tokens = user.query(_MONEY)[0]
    assert jobs_tokens == attempts_tokens, "the jobs' tokens are not the sum of their calls'"
    assert not user.query("SELECT id FROM dialogues WHERE sentiment IS NULL"), "replies were not judged"

    # A cut reply is on the bill, and is asked for again: that is the provider's doing, not a kill's.
    good = Counter(call["prompt_hash"] for call in paid if call["fault"] is None)
    more_than_once = sum(good.values()) - len(good)
    taken = sum(outcome in ("lost", "stale") for calls in by_job.values() for outcome in calls)
    books = Books(len(prompts), len(paid), more_than_once, taken)
    assert more_than_once <= taken, books
    return books


def _every_prompt_is_answered_once(user: Tidemill, prompts: Sequence[str]) -> dict[str, int]:
    rows = user.query(_ROWS)
    unfinished = Counter(row.state for row in rows if row.state != "succeeded")
    assert not unfinished, f"rows that have not succeeded: {unfinished}"
    lost = set(prompts) - {row.prompt for row in rows}
    assert not lost, f"{len(lost)} prompts are lost, such as {sorted(lost)[:3]}"
    assert len(rows) == len(prompts), f"{len(rows)} answers to {len(prompts)} prompts: some are recorded twice"
    strange = [row.prompt for row in rows if not row.reply.endswith(reply_tag(row.prompt))]
    assert not strange, f"{len(strange)} prompts have another prompt's answer, such as {strange[:3]}"
    return {prompt_hash(row.prompt): row.id for row in rows}


def _every_paid_call_is_in_the_ledger(
    user: Tidemill, paid: Sequence[dict[str, Any]], job_of: dict[str, int]
) -> dict[int, list[str | None]]:
    """Each paid call's request id is in `attempts`, or an attempt of that very job ended without learning one."""
    outcomes: dict[int, list[str | None]] = defaultdict(list)
    known: set[str] = set()
    blind: Counter[int] = Counter()
    for job_id, outcome, request_id in user.query("SELECT job_id, outcome, request_id FROM attempts"):
        outcomes[job_id].append(outcome)
        assert outcome is not None, f"a call of job {job_id} is still under way in the ledger"
        if request_id:
            assert request_id not in known, f"{request_id} is in the ledger twice"
            known.add(request_id)
        else:
            blind[job_id] += 1
    unknown = Counter(job_of[call["prompt_hash"]] for call in paid if call["request_id"] not in known)
    unexplained = unknown - blind
    assert not unexplained, f"{sum(unexplained.values())} paid calls are not in the ledger"
    return outcomes
