"""The state machine at random: real SQL beside a model in memory, up to three workers, an impatient user, crashes.

After every step each job must be what the model says, and the invariants of the design must hold: answered is exactly
one dialogue, running is a lease, epochs only grow, ended is ended until revived, the ledger adds up to the bill, and a
budget to the ledger.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import delete, func, select, update

from tests.rows import add_batch, add_jobs, check_tallies, claimant, failure, rescuer, success, take
from tidemill.models import budgets
from tidemill.models.batches import drop_rows
from tidemill.models.claims import ALONE_AFTER, MAX_LOSSES, Claimed, renew
from tidemill.models.database import reading, transact_in_pieces, writing
from tidemill.models.settling import Settlement, settle
from tidemill.models.tables import attempts, batches, dialogues, jobs, messages, tallies
from tidemill.models.tables import budgets as rows_of_budgets
from tidemill.models.transitions import Enqueued, cancel, enqueue, release, rescue, revive
from tidemill.producer.batches import row_events, row_life

COST = 0.25
WORKERS = st.sampled_from(["w1", "w2", "w3"])
OUTCOMES = st.sampled_from(["succeeded", "retried", "snoozed", "stepped", "held", "failed"])
AFTER = {"succeeded": "succeeded", "failed": "failed"}  # the others: queued
UNCOUNTED = ("snoozed", "stepped")
LEASES = {"valid": 60.0, "out": -1.0}


@dataclass
class Expected:
    """What the model knows of a job."""

    state: str = "queued"
    epoch: int = 0
    attempts: int = 0
    failures: int = 0
    losses: int = 0
    cost: float = 0.0
    worker: str | None = None
    lease: str | None = None
    answer: str | None = None
    ledger: dict[int, str | None] = field(default_factory=dict)

    def taken_back(self, losses: int) -> None:
        """By rescue or release."""
        if self.ledger.get(self.epoch, "gone") is None:
            self.ledger[self.epoch] = "lost"
        self.epoch += 1
        self.attempts += 1
        self.losses += losses
        self.lease = None
        self.state = "failed" if losses and self.losses >= MAX_LOSSES else "queued"


@dataclass
class Call:
    """A claim that somebody holds, with how it will end; it may be settled any number of times, at any time."""

    claimed: Claimed
    settlement: Settlement | None = None


class StateMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        with writing() as connection:
            for table in (messages, dialogues, attempts, jobs, tallies, batches, rows_of_budgets):
                connection.execute(delete(table))
        add_batch()
        self.expected: dict[int, Expected] = {}
        self.calls: list[Call] = []
        self.epochs_seen: dict[int, int] = {}
        self.dropped: set[int] = set()
        self.has_cap = False

    @initialize(count=st.integers(1, 4))
    def enqueue(self, count: int) -> None:
        self.expected = {job_id: Expected() for job_id in add_jobs(count)}

    @rule(data=st.data(), worker=WORKERS, lease=st.sampled_from(["valid", "valid", "out"]), alone=st.booleans())
    def claim(self, data: st.DataObject, worker: str, lease: str, alone: bool) -> None:
        ids = data.draw(st.sets(st.sampled_from(sorted(self.expected)), min_size=1))
        claimed = take(sorted(ids), worker, LEASES[lease], alone=alone)
        assert {job.id for job in claimed} == {
            each
            for each in ids
            if self.expected[each].state == "queued" and (alone or self.expected[each].losses < ALONE_AFTER)
        }
        for job in claimed:
            expected = self.expected[job.id]
            expected.state, expected.worker, expected.lease = "running", worker, lease
            expected.epoch += 1
            expected.ledger[expected.epoch] = None
            assert (job.epoch, job.failures) == (expected.epoch, expected.failures)
            self.calls.append(Call(job))

    @precondition(lambda self: self.calls)
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        picked = data.draw(st.lists(st.integers(0, len(self.calls) - 1), min_size=1, max_size=4, unique=True))
        settlements = [self._ending(self.calls[i], data) for i in picked]
        with writing() as connection:
            written = settle(connection, settlements)
        ours = {(s.job_id, s.epoch) for s in settlements if self._is_owner(s) or self._is_late(s)}
        assert written == ours | {(s.job_id, s.epoch) for s in settlements if self._is_recorded(s)}
        for settlement in settlements:
            self._expect(settlement, owner=(settlement.job_id, settlement.epoch) in ours)

    def _ending(self, call: Call, data: st.DataObject) -> Settlement:
        if call.settlement is None:
            outcome = data.draw(OUTCOMES)
            job = call.claimed
            call.settlement = (
                success(job, f"{job.id} at {job.epoch}", cost_usd=COST)
                if outcome == "succeeded"
                else failure(
                    job,
                    outcome,
                    counted=outcome in ("failed", "retried"),
                    cost_usd=_price(outcome),
                    is_doubtful=outcome == "retried" and data.draw(st.booleans()),
                )
            )
        return call.settlement

    def _is_owner(self, settlement: Settlement) -> bool:
        expected = self.expected[settlement.job_id]
        return expected.state == "running" and expected.epoch == settlement.epoch

    def _is_late(self, settlement: Settlement) -> bool:
        """The job was taken back, and nobody has had it since."""
        expected = self.expected[settlement.job_id]
        is_free = expected.state == "queued" and expected.epoch == settlement.epoch + 1
        was_lost = expected.ledger.get(settlement.epoch, "gone") == "lost"
        return is_free and was_lost and settlement.outcome in ("succeeded", "failed")

    def _is_recorded(self, settlement: Settlement) -> bool:
        """An earlier call has ended the job with it."""
        return self.expected[settlement.job_id].ledger.get(settlement.epoch) in ("succeeded", "failed")

    def _expect(self, settlement: Settlement, *, owner: bool) -> None:
        expected, outcome = self.expected[settlement.job_id], settlement.outcome
        in_ledger = expected.ledger.get(settlement.epoch, "gone")
        if owner:
            expected.epoch += in_ledger == "lost"
            expected.attempts += outcome not in (*UNCOUNTED, "held") and in_ledger != "lost"
            expected.state, expected.lease = AFTER.get(outcome, "queued"), None
            expected.failures += settlement.counted
            expected.losses = 0 if outcome == "stepped" else expected.losses
            if outcome == "succeeded":
                expected.answer = f"{settlement.job_id} at {settlement.epoch}"
        if outcome in UNCOUNTED:
            expected.ledger.pop(settlement.epoch, None)
            expected.attempts -= in_ledger == "lost"
        elif in_ledger in (None, "lost"):
            expected.ledger[settlement.epoch] = outcome if owner else "stale"
            expected.cost += settlement.cost_usd or 0.0

    @rule(dead=st.sets(WORKERS, max_size=1))
    def rescue(self, dead: set[str]) -> None:
        lost = [
            each
            for each in self.expected.values()
            if each.state == "running" and (each.lease == "out" or each.worker in dead)
        ]
        with writing() as connection:
            assert rescue(connection, rescuer(dead=sorted(dead))) == len(lost)
        for each in lost:
            each.taken_back(losses=1)

    @rule(worker=WORKERS)
    def release(self, worker: str) -> None:
        owned = [each for each in self.expected.values() if each.state == "running" and each.worker == worker]
        with writing() as connection:
            assert release(connection, worker) == len(owned)
        for each in owned:
            each.taken_back(losses=0)

    @rule(worker=WORKERS)
    def renew(self, worker: str) -> None:
        owned = {
            job_id: each for job_id, each in self.expected.items() if each.state == "running" and each.worker == worker
        }
        with writing() as connection:
            assert renew(connection, sorted(self.expected), claimant(worker, LEASES["valid"])) == owned.keys()
        for each in owned.values():
            each.lease = "valid"

    @rule()
    def cancel(self) -> None:
        with writing() as connection:
            assert cancel(connection, "b") == self._expect_cancelled(self.expected.keys())

    def _expect_cancelled(self, ids: Collection[int]) -> int:
        """Those of these jobs that are open end; returns how many."""
        open_ = [self.expected[each] for each in ids if self.expected[each].state in ("queued", "running")]
        for each in open_:
            if each.state == "running":
                each.attempts += 1
                each.ledger[each.epoch] = "lost"
            each.state, each.lease = "cancelled", None
            each.epoch += 1
        return len(open_)

    @rule()
    def revive(self) -> None:
        in_input = [each for job_id, each in self.expected.items() if job_id not in self.dropped]
        ended = [each for each in in_input if each.state in ("failed", "cancelled")]
        with writing() as connection:
            assert len(revive(connection, "b")) == len(ended)
        for each in ended:
            each.state, each.failures, each.losses = "queued", 0, 0
            each.epoch += 1

    @rule(data=st.data(), is_whole=st.booleans())
    def submit_again(self, data: st.DataObject, is_whole: bool) -> None:
        """Some rows come again; of a whole input, the others leave it, and come back another time."""
        kept = sorted(data.draw(st.sets(st.sampled_from(sorted(self.expected)))))
        with writing() as connection:
            again = connection.execute(select(jobs.c.key, jobs.c.id).where(jobs.c.id.in_(kept)).order_by(jobs.c.id))
            rows = [Enqueued(row.key, row.key, row.id, "{}", "{}") for row in again]
            number = connection.scalar(
                update(batches).values(submission=batches.c.submission + 1).returning(batches.c.submission)
            )
            assert enqueue(connection, "b", number, rows) == {row.key for row in rows}
        if is_whole:
            transact_in_pieces(lambda connection, after: drop_rows(connection, "b", number, after))
            self.dropped = self.expected.keys() - set(kept)
            self._expect_cancelled(self.dropped)
        self.dropped -= set(kept)

    @rule(has_cap=st.booleans())
    def cap(self, has_cap: bool) -> None:
        """Larger than all that is ever spent here."""
        self.has_cap = has_cap
        with writing() as connection:
            budgets.set_cap(connection, "fleet", "", 10**15 if has_cap else None)

    @rule()
    def forgive(self) -> None:
        with writing() as connection:
            budgets.forgive(connection)

    # --- what must hold after every step ---

    @invariant()
    def a_budget_is_what_the_ledger_says(self) -> None:
        if self.has_cap:
            with reading() as connection:
                (each,) = budgets.covering(connection, "b")
                sums = budgets.of_ledger(connection, each.kind, each.name)
                own = rows_of_budgets.c.kind == each.kind, rows_of_budgets.c.name == each.name
                kept = connection.execute(select(*(rows_of_budgets.c[name] for name in sums)).where(*own)).one()
            assert tuple(kept) == tuple(sums.values())

    @invariant()
    def every_job_is_what_the_model_says(self) -> None:
        with reading() as connection:
            stored_jobs = connection.execute(select(jobs)).all()
        assert {row.id: _shown(row) for row in stored_jobs} == {
            job_id: (each.state, each.epoch, each.attempts, each.failures, each.losses, each.cost)
            for job_id, each in self.expected.items()
        }
        for row in stored_jobs:
            assert (row.state == "running") == (row.lease_until is not None)
            assert (row.state in ("succeeded", "failed", "cancelled")) == (row.finished_at is not None)
            assert row.epoch >= self.epochs_seen.get(row.id, 0)
            self.epochs_seen[row.id] = row.epoch

    @invariant()
    def answered_is_exactly_one_dialogue_and_it_is_the_owners(self) -> None:
        replies = select(dialogues.c.id, messages.c.content).join(messages, messages.c.dialogue_id == dialogues.c.id)
        with reading() as connection:
            stored_replies = connection.execute(replies.where(messages.c.role == "assistant")).all()
            assert connection.scalar(select(func.count()).select_from(messages)) == 2 * len(stored_replies)
        assert len(stored_replies) == len({row.id for row in stored_replies})
        assert {row.id: row.content for row in stored_replies} == {
            job_id: each.answer for job_id, each in self.expected.items() if each.state == "succeeded"
        }

    @invariant()
    def the_ledger_adds_up_to_the_bill(self) -> None:
        with reading() as connection:
            ledger = connection.execute(select(attempts.c.job_id, attempts.c.epoch, attempts.c.outcome)).all()
            paid = connection.scalar(select(func.coalesce(func.sum(attempts.c.cost_usd), 0.0)))
            billed = connection.scalar(select(func.coalesce(func.sum(jobs.c.cost_usd), 0.0)))
        assert sorted(map(tuple, ledger)) == sorted(
            (job_id, epoch, outcome) for job_id, each in self.expected.items() for epoch, outcome in each.ledger.items()
        )
        assert paid == billed

    @invariant()
    def the_tallies_are_what_a_count_of_all_rows_says(self) -> None:
        for submission in (0, 2):
            check_tallies("b", submission)

    def teardown(self) -> None:
        """Whatever has happened, each row's life can be told, and whoever is open waits for something that is said."""
        for job_id, expected in self.expected.items():
            with reading() as connection:
                life = row_life.load(connection, job_id)
            assert life is not None
            events = row_events.to_json(life)["events"]
            names = [each["event"] for each in events]
            assert names.count("claimed") == len(expected.ledger)
            outcomes = sorted(each["event"] for each in events if "outcome" in each)
            assert outcomes == sorted(filter(None, expected.ledger.values()))
            is_open = expected.state in ("queued", "running")
            assert bool([each for each in life.reasons if each.code != "judgement"]) == is_open
            assert is_open or {expected.state, "ended"} & {*names}


def _price(outcome: str) -> float | None:
    return COST if outcome in ("failed", "retried") else None


def _shown(row: Any) -> tuple[Any, ...]:
    return (row.state, row.epoch, row.attempts, row.failures, row.losses, row.cost_usd or 0.0)


@pytest.mark.usefixtures("database")
def test_any_sequence_of_steps_keeps_the_promises(database: str) -> None:
    examples = 40 if database == "sqlite" else 12
    run_state_machine_as_test(
        StateMachine,
        settings=settings(
            max_examples=examples, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
