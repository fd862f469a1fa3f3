"""Whoever deletes is told before what goes and what stays."""

import json

import pytest
from sqlalchemy import insert, select

from tests.models.test_deadlines import add_upstream
from tests.rows import add_batch, add_jobs, count, put, success, take
from tidemill.models import upstream
from tidemill.models.clock import now_after
from tidemill.models.database import reading, writing
from tidemill.models.errors import InputError
from tidemill.models.tables import creations, dialogues, jobs, kept_costs
from tidemill.producer.batches.deletion import delete_batch, delete_dialogue

pytestmark = pytest.mark.usefixtures("embedded_home")


def test_a_dialogue_goes_by_any_of_its_turns_once_somebody_is_sure(capsys: pytest.CaptureFixture[str]) -> None:
    add_batch(read_at=now_after(0.0))
    first, other = add_jobs(2)
    put(*map(success, take([first, other])))
    with pytest.raises(InputError, match=f"^Dialogue {first} was not deleted; --yes"):
        delete_dialogue(first, is_sure=False, as_json=False)
    assert "do not ask them again" in capsys.readouterr().err.replace("does not ask", "do not ask")
    delete_dialogue(first, is_sure=True, as_json=True)
    assert json.loads(capsys.readouterr().out) == {"dialogue": first, "delete": 1, "batches": ["b"], "datasets": []}
    assert (count(dialogues), count(jobs)) == (1, 2)
    for unknown in (first, 99, 10**30):
        with pytest.raises(InputError, match=f"There is no dialogue {unknown}"):
            delete_dialogue(unknown, is_sure=True, as_json=False)


def test_a_batch_may_leave_what_it_cost_behind(capsys: pytest.CaptureFixture[str]) -> None:
    add_batch(read_at=now_after(0.0))
    put(*map(success, take(add_jobs(2))))
    delete_batch("b", keep_costs=True, is_sure=True, as_json=True)
    assert json.loads(capsys.readouterr().out) == {"batch": "b", "delete": 2}
    assert (count(jobs), count(kept_costs)) == (0, 1)


def test_with_a_batch_goes_what_was_created_for_its_upstream_batches() -> None:
    add_batch(read_at=now_after(0.0), route="batch")
    add_batch("other", read_at=now_after(0.0), route="batch")
    for batch_id in ("b", "other"):
        add_upstream(batch_id, ended_at=now_after(0.0))
        with writing() as connection:
            (each,) = upstream.all_of(connection, batch_id)
            values = {"owner": upstream.owner_name(each.id), "step": "batch", "round": 0, "token": batch_id, "sends": 1}
            connection.execute(insert(creations).values(**values))
    delete_batch("b", keep_costs=False, is_sure=True, as_json=False)
    with reading() as connection:
        assert connection.scalars(select(creations.c.token)).all() == ["other"]
        assert upstream.all_of(connection, "b") == []
