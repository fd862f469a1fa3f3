"""What is in the broker is little, fair and urgent first; what should wait is elsewhere; what it loses comes again."""

from collections import Counter

import pytest
from sqlalchemy import select

from tests.conftest import UseEnvironment
from tests.rows import (
    add_batch,
    add_jobs,
    add_worker,
    arrived,
    batch_row,
    count,
    job_row,
    next_due,
    put,
    set_batch,
    set_job,
    success,
    take,
)
from tests.servers import Broker
from tests.waiting import limit
from tidemill.models import broker, feed
from tidemill.models.clock import now, now_after
from tidemill.models.database import reading
from tidemill.models.due import IDS_AT_ONCE
from tidemill.models.errors import BrokerError
from tidemill.models.feed import RESEND_SECONDS, resend_lost
from tidemill.models.holds import PROBE_SECONDS
from tidemill.models.scope import Scope
from tidemill.models.tables import batches, jobs

pytestmark = pytest.mark.usefixtures("database", "a_broker")


def feed_all() -> list[int]:
    """Feed once; the ids that the broker got, in order."""
    sent = feed.feed()
    ids = [job_id for message in arrived() for job_id in message]
    assert len(ids) == sent
    return ids


def by_batch(ids: list[int]) -> Counter[str]:
    with reading() as connection:
        return Counter(connection.scalars(select(jobs.c.batch_id).where(jobs.c.id.in_(ids))))


# --- room ---


def test_the_broker_gets_twice_the_fleets_window_and_no_more() -> None:
    add_worker("w1", window=10)
    add_worker("w2", window=5)
    add_worker("long gone", window=1000, seen_at=now_after(-60.0))
    add_batch()
    add_jobs(100)
    first = feed_all()
    assert len(first) == 30
    assert feed_all() == []
    take(first[:12])
    second = feed_all()
    assert len(second) == 12
    assert not set(first) & set(second)


def test_without_any_worker_there_is_room_for_one_of_our_own_window(use_environment: UseEnvironment) -> None:
    use_environment({"TIDEMILL_WINDOW": "7"})
    add_batch()
    add_jobs(100)
    assert len(feed_all()) == 14


def test_ids_travel_in_messages_of_a_bounded_size_in_order() -> None:
    add_worker(window=100)
    add_batch()
    ids = add_jobs(IDS_AT_ONCE * 2 + 5)
    assert feed.feed() == len(ids)
    messages = arrived()
    assert [len(message) for message in messages] == [IDS_AT_ONCE, IDS_AT_ONCE, 5]
    assert [job_id for message in messages for job_id in message] == ids


def test_a_job_is_sent_once_until_it_is_claimed_or_lost() -> None:
    add_batch()
    (job_id,) = add_jobs(1)
    assert feed_all() == [job_id]
    assert job_row(job_id).sent_at is not None
    assert feed_all() == []
    (claimed,) = take([job_id])
    put(success(claimed))
    assert feed_all() == []


def test_messages_reach_a_real_broker(broker_server: Broker, use_environment: UseEnvironment) -> None:
    use_environment({"TIDEMILL_BROKER_URL": broker_server.url})
    add_batch()
    ids = add_jobs(3)
    assert broker.queue_is_empty()
    assert feed.feed() == 3
    assert not broker.queue_is_empty()
    assert arrived() == [ids]


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)  # the client takes 4 s to give up
def test_a_broker_out_of_reach_is_said_and_its_jobs_are_due_again(use_environment: UseEnvironment) -> None:
    use_environment({"TIDEMILL_BROKER_URL": "redis://:secret@127.0.0.1:1/0"})
    add_batch()
    (job_id,) = add_jobs(1)
    with pytest.raises(BrokerError, match="does not answer") as raised:
        feed.feed()
    assert "secret" not in str(raised.value)
    assert job_row(job_id).sent_at is None  # whoever feeds next, or claims without a broker, finds it


# --- fairness, priority ---


def test_what_some_batches_leave_of_the_room_the_others_get() -> None:
    for name, rows in (("a", 2), ("b", 50), ("c", 9)):
        add_batch(name)
        add_jobs(rows, name)
    assert by_batch(next_due(most=30)) == {"a": 2, "b": 19, "c": 9}


def test_batches_of_the_same_priority_share_the_room_evenly() -> None:
    add_worker(window=30)
    for name in ("a", "b", "c"):
        add_batch(name)
        add_jobs(100, name)
    ids = feed_all()
    assert by_batch(ids) == {"a": 20, "b": 20, "c": 20}
    assert by_batch(ids[:3]) == {"a": 1, "b": 1, "c": 1}  # in turn, not one after the other


def test_what_a_small_batch_leaves_another_may_have() -> None:
    add_worker(window=10)
    for name, rows in (("small", 2), ("large", 100), ("middle", 5)):
        add_batch(name)
        add_jobs(rows, name)
    assert by_batch(feed_all()) == {"small": 2, "middle": 5, "large": 13}


@pytest.mark.parametrize("rows", [3, 50])
def test_a_higher_priority_goes_first_and_leaves_the_rest_to_lower_ones(rows: int) -> None:
    add_worker(window=10)
    add_batch("low")
    add_jobs(50, "low")
    add_batch("high", priority=5)
    add_jobs(rows, "high")
    ids = feed_all()
    assert by_batch(ids) == Counter({"high": min(rows, 20), "low": max(0, 20 - rows)})
    assert by_batch(ids[: min(rows, 20)]) == {"high": min(rows, 20)}


def test_jobs_that_wait_longest_go_first_within_a_batch() -> None:
    add_worker(window=1)
    add_batch()
    ids = add_jobs(5)
    for age, job_id in enumerate(ids):
        set_job(job_id, available_at=now_after(-10.0 - age))
    assert sorted(feed_all()) == sorted(ids[3:])


# --- what stays where it is ---


@pytest.mark.parametrize("state", ["paused", "cancelled"])
def test_a_closed_batch_is_not_fed(state: str) -> None:
    add_batch(state=state)
    add_jobs(3)
    assert feed_all() == []


def test_a_held_batch_is_not_fed_before_its_probe_is_due() -> None:
    add_batch(hold_reason="no credit", held_at=now_after(0), held_until=now_after(60.0))
    add_jobs(3)
    assert feed_all() == []


def test_jobs_that_are_not_due_or_have_ended_are_not_fed() -> None:
    add_batch()
    later, done, due = add_jobs(3)
    set_job(later, available_at=now_after(60.0))
    set_job(done, state="succeeded")
    assert feed_all() == [due]


def test_a_scope_keeps_a_command_to_its_own_batch_and_submission() -> None:
    for name in ("mine", "other"):
        add_batch(name)
    _old, new = add_jobs(2, "mine")
    add_jobs(2, "other")
    set_job(new, submission=2)
    assert next_due(Scope(batch_id="mine", submission=2)) == [new]


def test_only_batches_of_the_configured_provider_are_fed_and_its_workers_counted() -> None:
    add_worker("theirs", window=100, provider="another.test")
    add_worker("ours", window=5)
    add_batch("a", provider="another.test")
    set_job(add_jobs(1, "a")[0], sent_at=now())
    add_jobs(2, "a", prefix="more")
    add_batch("b")
    add_jobs(20, "b")
    assert feed.feed() == 10
    assert by_batch([job_id for message in arrived() for job_id in message]) == {"b": 10}


# --- lost messages ---


def test_a_message_sent_before_the_clock_was_set_back_counts_as_lost() -> None:
    add_batch()
    (job_id,) = add_jobs(1)
    set_job(job_id, sent_at=now_after(3600.0))
    assert resend_lost() == 1


@pytest.mark.parametrize("is_empty", [True, False])
def test_a_message_that_nobody_claims_is_sent_again_sooner_when_the_broker_is_empty(is_empty: bool) -> None:
    add_batch()
    fresh, old = add_jobs(2)
    feed.feed()
    if is_empty:
        arrived()  # and is lost
    set_job(old, sent_at=now_after(-RESEND_SECONDS[is_empty] - 1))
    set_job(fresh, sent_at=now_after(-RESEND_SECONDS[is_empty] + 2))
    assert resend_lost() == 1
    assert (job_row(old).sent_at, job_row(fresh).sent_at is None) == (None, False)
    arrived()
    assert feed_all() == [old]


def test_a_running_job_is_never_sent_again() -> None:
    add_batch()
    ids = add_jobs(2)
    feed.feed()
    arrived()
    take(ids)
    assert resend_lost() == 0
    assert feed_all() == []


# --- probes ---


def make_probe_due() -> None:
    set_batch(held_until=now_after(-0.01))


def test_one_probe_at_a_time_goes_to_a_held_provider_at_growing_pauses() -> None:
    add_batch(hold_reason="no credit", held_at=now_after(0), held_until=now_after(0), hold_probes=0)
    add_jobs(20)
    for probes, pause in enumerate((*PROBE_SECONDS[1:], PROBE_SECONDS[-1]), start=1):
        make_probe_due()
        (probe,) = feed_all()
        batch = batch_row()
        assert (batch.probe_job_id, batch.hold_probes) == (probe, probes)
        with reading() as connection:
            due_in = connection.execute(
                select(batches.c.held_until, now_after(0.0).label("now"))  # on the database's clock
            ).one()
        assert (due_in.held_until - due_in.now).total_seconds() == pytest.approx(pause, abs=limit(2))
        assert feed_all() == []  # not before that pause is over
    assert [job.id for job in take([probe])] == [probe]


def test_two_held_batches_of_one_provider_get_one_probe_between_them() -> None:
    for name in ("a", "b"):
        add_batch(name, hold_reason="no credit", held_at=now_after(0), held_until=now_after(-1.0))
        add_jobs(5, name)
    (probe,) = feed_all()
    assert {batch_row(name).probe_job_id for name in ("a", "b")} == {probe}
    assert feed_all() == []


def test_a_hold_does_not_keep_another_provider_waiting() -> None:
    add_batch("held", provider="other.test", hold_reason="no credit", held_at=now_after(0), held_until=now_after(-1.0))
    add_batch("free")
    for name in ("held", "free"):
        add_jobs(3, name)
    assert by_batch(feed_all()) == {"free": 3}


# --- many feeders ---


def test_many_feeders_at_once_send_no_job_twice_and_overfill_nothing() -> None:
    from concurrent.futures import ThreadPoolExecutor

    add_worker(window=50)
    add_batch()
    add_jobs(300)
    with ThreadPoolExecutor(4) as pool:
        sent = sum(pool.map(lambda _: feed.feed(), range(8)))
    ids = [job_id for message in arrived() for job_id in message]
    assert len(ids) == len(set(ids)) == sent == count(jobs, jobs.c.sent_at.is_not(None))
    assert sent >= 100


def test_a_feed_that_finds_nothing_changes_nothing() -> None:
    assert feed_all() == []
    add_batch()
    assert feed_all() == []


def test_what_was_tried_before_goes_first() -> None:
    add_worker(window=2)
    add_batch()
    ids = add_jobs(10)
    set_job(ids[7], first_attempt_at=now_after(-5.0), available_at=now_after(-1.0))
    assert feed_all()[0] == ids[7]
