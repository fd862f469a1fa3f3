"""What is old and over goes, whatever else is going on; what it cost can still be added up, to the last digit."""

import random
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import func, select, update

from tests.rows import MODEL, add_batch, add_jobs, count, failure, put, set_batch, set_job, success, take
from tidemill.models import batches as batch_verbs
from tidemill.models import bill, pruning, transitions
from tidemill.models.clock import now_after
from tidemill.models.database import reading, transact, writing
from tidemill.models.errors import InputError
from tidemill.models.tables import assistants, attempts, batches, datasets, jobs, kept_costs, tallies

pytestmark = pytest.mark.usefixtures("database")

DAY = 86_400.0


def add_old(batch_id: str, rows: int = 2, days: float = 100, **values: Any) -> list[int]:
    """A batch in which nothing has happened for so long; returns its jobs."""
    at = now_after(-days * DAY)
    add_batch(batch_id, **({"created_at": at, "read_at": at} | values))
    ids = add_jobs(rows, batch_id)
    put(*map(success, take(ids)))
    with writing() as connection:
        connection.execute(update(jobs).where(jobs.c.batch_id == batch_id).values(finished_at=at))
        connection.execute(update(attempts).where(attempts.c.job_id.in_(ids)).values(started_at=at))
    return ids


def old(days: float = 90) -> list[str]:
    with writing() as connection:
        return [each.id for each in pruning.old_batches(connection, pruning.cutoff(connection, days * DAY))]


def test_old_is_what_was_made_read_and_ended_before_the_day_the_latest_first() -> None:
    add_old("old", days=100)
    add_old("older", days=200)
    add_old("young", days=80)
    add_old("tuned", kind="train")
    add_old("read again")
    set_batch("read again", read_at=now_after(0.0))
    set_job(add_old("tried again")[1], finished_at=now_after(-10 * DAY))
    assert old() == ["old", "older"]
    assert old(days=150) == ["older"]


def test_what_has_begun_again_meanwhile_stays() -> None:
    ids = add_old("b")
    before = transact(lambda connection: pruning.cutoff(connection, 90 * DAY))
    set_job(ids[0], finished_at=now_after(0.0))
    piece = transact(lambda connection: pruning.delete_old(connection, "b", before, 0, keep_costs=False))
    assert (piece.rows, count(jobs)) == (0, 2)


def test_a_dialogue_goes_with_its_later_turns_first() -> None:
    (first,) = add_old("first", 1, days=200)
    for batch_id in ("second", "third"):
        set_job(*add_old(batch_id, 1), dialogue_id=first)
    set_batch("third", read_at=now_after(0.0))
    with writing() as connection:
        batch = connection.execute(select(batches).where(batches.c.id == "first")).one()
        with pytest.raises(InputError, match="first stays: second, third continues dialogues of it"):
            batch_verbs.check_deletable(connection, batch)
        with pytest.raises(InputError, match="first stays: third continues dialogues of it"):
            batch_verbs.check_deletable(connection, batch, ["second"])
        batch_verbs.check_deletable(connection, batch, ["second", "third"])


# --- costs ---


def ledger() -> list[tuple[Any, ...]]:
    """(outcome, calls, tokens in and out, cost in 1e-12 USD, calls at a known price) of both tables together."""
    units = Decimal(bill.UNITS)
    books: dict[str, list[int]] = {}
    with reading() as connection:
        rows = connection.execute(
            select(attempts.c.outcome, attempts.c.input_tokens, attempts.c.output_tokens, attempts.c.cost_usd)
        )
        lines = [
            (call[0], 1, call[1] or 0, call[2] or 0, int(Decimal(repr(call[3] or 0)) * units), int(call[3] is not None))
            for call in rows
        ]
        names = ("outcome", "calls", "input_tokens", "output_tokens", "cost_usd_e12", "priced")
        lines += [tuple(row) for row in connection.execute(select(*(kept_costs.c[name] for name in names)))]
    for outcome, *sums in lines:
        books[outcome] = [a + b for a, b in zip(books.get(outcome, [0] * 5), sums, strict=True)]
    return sorted((outcome, *sums) for outcome, sums in books.items())


def fill_ledger(rows: int = 40) -> None:
    """Calls of all ends and at prices of ten decimals, and some that have none."""
    chance = random.Random(7)
    with writing() as connection:
        connection.execute(assistants.insert().values(id=3, name="Åsa", options={}, created_at=now_after(0.0)))
    add_batch("b", read_at=now_after(0.0), assistant_id=3)
    jobs_taken = take(add_jobs(rows))
    for number, job in enumerate(jobs_taken):
        price = None if number % 7 == 0 else round(chance.random() / 10 ** chance.randrange(6), 10)
        how: dict[str, Any] = {"cost_usd": price, "input_tokens": chance.randrange(9_999), "output_tokens": 17}
        put(success(job, **how) if number % 3 else failure(job, "retried" if number % 2 else "failed", **how))
    transact(lambda connection: transitions.release(connection, "w1"))
    again = take([job.id for job in jobs_taken])
    with writing() as connection:
        connection.execute(update(batches).values(state="cancelled"))
        transitions.cancel(connection, "b")
    assert again, "some calls are lost"


def test_what_was_spent_is_the_same_before_and_after_to_the_last_digit_also_when_killed_between(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fill_ledger()
    before, of_rows = ledger(), tally()
    monkeypatch.setattr(transitions, "PIECE_ROWS", 15)
    pieces = 0
    while count(batches):
        # Each piece may be the last one: the next command begins anew.
        transact(lambda connection: batch_verbs.delete(connection, "b", 0, keep_costs=True))
        pieces += 1
        assert ledger() == before
    assert pieces == 4
    assert count(attempts) == 0
    with reading() as connection:
        lines = connection.execute(select(kept_costs)).all()
        assert connection.scalar(select(func.sum(kept_costs.c.cost_usd_e12))) == of_rows
    assert {(row.kind, row.batch_name, row.model, row.assistant) for row in lines} == {("ask", "b", MODEL, "Åsa")}
    assert {row.outcome for row in lines} == {"succeeded", "failed", "retried", "lost"}
    assert sum(row.unpriced for row in lines) == sum(row.calls - row.priced for row in lines if row.outcome != "lost")


def tally() -> int:
    with reading() as connection:
        return int(connection.scalar(select(func.sum(tallies.c.cost_usd_e12))) or 0)


def test_calls_are_kept_by_the_day_on_which_they_began() -> None:
    ids = add_old("b", 3)
    days = {}
    for number, job_id in enumerate(ids):
        with writing() as connection:
            at = now_after(-(number % 2) * DAY)
            connection.execute(update(attempts).where(attempts.c.job_id == job_id).values(started_at=at))
            begun: Any = connection.scalar(select(attempts.c.started_at).where(attempts.c.job_id == job_id))
        days[f"{begun:%Y-%m-%d}"] = 2 - number % 2
    transact(lambda connection: batch_verbs.delete(connection, "b", 0, keep_costs=True))
    with reading() as connection:
        kept = {row.day: row.calls for row in connection.execute(select(kept_costs.c.day, kept_costs.c.calls))}
    assert kept == days


# --- stored files ---


def test_a_file_that_a_row_or_a_dataset_names_is_not_unnamed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning, "_IDS_AT_ONCE", 2)
    of_job, of_gone, of_set, orphan = (f"{number:064x}" for number in range(4))
    for batch_id, sha256 in (("stays", of_job), ("goes", of_gone)):
        picture = {"prompt": "what?", "picture": {"path": "a.png", "sha256": sha256}}
        set_job(add_old(batch_id, 5)[-1], request=picture)
    with writing() as connection:
        a_set = {"method": "supervised", "training": {"sha256": of_set}, "report": {}, "created_at": now_after(0.0)}
        connection.execute(datasets.insert().values(id="d", name="d", **a_set))
    stored = {of_job, of_gone, of_set, orphan}
    assert pruning.unnamed(stored) == {orphan}
    assert pruning.unnamed(stored, {"goes"}) == {orphan, of_gone}
