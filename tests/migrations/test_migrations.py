"""A database made by the migrations is the one that the code means, however it got there, whoever else upgrades it."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import insert, inspect, select, text

from tests.conftest import RunCli, UseEnvironment
from tests.rows import add_batch, add_jobs, batch_row, check_tallies, count, put, put_out, success, take
from tests.servers import Postgres
from tidemill import migrations
from tidemill.models import budgets
from tidemill.models.bookings import FLEET
from tidemill.models.clock import now_after
from tidemill.models.database import engine, reading, writing
from tidemill.models.errors import DatabaseError
from tidemill.models.money import USD_E9
from tidemill.models.tables import attempts, complete_metadata, creations, dialogues, jobs, kept_costs

AT = datetime(2026, 11, 28, 3, 44, 54, 123000, tzinfo=UTC)


@pytest.fixture(params=["sqlite", "postgres"])
def empty_database(request: pytest.FixtureRequest, tmp_path: Path, use_environment: UseEnvironment) -> str:
    """A database with nothing in it at all."""
    kind: str = request.param
    use_environment({"TIDEMILL_HOME": str(tmp_path)})
    if kind == "postgres":
        use_environment({"TIDEMILL_DATABASE_URL": request.getfixturevalue("postgres_server").database()})
    return kind


def found() -> str | None:
    with reading() as connection:
        return migrations.current(connection)


def set_revision(revision: str) -> None:
    with writing() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = :new"), {"new": revision})


def test_head_is_the_newest_file() -> None:
    folder = Path(migrations.__file__).parent
    newest = max(path.name for path in (folder / "versions").glob("[0-9]*.py"))
    assert newest.split("_")[0] == migrations.HEAD
    assert ScriptDirectory(str(folder)).get_current_head() == migrations.HEAD


@pytest.mark.usefixtures("empty_database")
def test_an_upgraded_database_is_what_the_tables_say() -> None:
    migrations.upgrade()
    with writing() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, complete_metadata()) == []
        command.check(migrations.configuration(connection))


@pytest.mark.usefixtures("empty_database")
def test_down_to_nothing_and_up_again() -> None:
    migrations.upgrade()
    with writing() as connection:
        command.downgrade(migrations.configuration(connection), "base")
    with reading() as connection:
        assert set(inspect(connection).get_table_names()) == {"alembic_version"}
    assert found() is None
    assert migrations.upgrade() == migrations.HEAD == found()


@pytest.mark.usefixtures("database")
def test_an_upgrade_of_a_database_in_use_loses_nothing() -> None:
    add_batch()
    put(*map(success, take(add_jobs(3))))
    migrations.upgrade()
    assert count(jobs, jobs.c.state == "succeeded") == 3


@pytest.mark.usefixtures("database")
def test_an_upgrade_from_the_version_before_loses_nothing() -> None:
    add_batch()
    put(*map(success, take(add_jobs(3))))
    with writing() as connection:
        command.downgrade(migrations.configuration(connection), "0002")
    assert found() == "0002"
    migrations.upgrade()
    assert count(jobs, jobs.c.state == "succeeded", jobs.c.dialogue_id.is_(None)) == 3
    assert count(dialogues, dialogues.c.root_id.is_(None)) == 3


@pytest.mark.usefixtures("database")
def test_creations_keep_their_owners_tokens_and_doubts_on_the_way_down_and_up_again() -> None:
    """On the way down only jobs have a place; what another owner had in doubt is not there afterwards."""
    job_ids = (7, 2**40)
    rows = [
        {"step": "training", "round": 0, "token": "a", "remote_id": "file-1", "sends": 1, "sent_at": None},
        {"step": "job", "round": 2, "token": "b", "remote_id": None, "sends": 2, "sent_at": AT},
    ]
    of_jobs = [row | {"owner": f"job {job}", "token": f"{row['token']}{job}"} for job in job_ids for row in rows]
    with writing() as connection:
        connection.execute(insert(creations), [*of_jobs, rows[0] | {"owner": "upstream 7"}])
        command.downgrade(migrations.configuration(connection), "0004")
        old = connection.execute(text("SELECT job_id, token, sends FROM remote_ops ORDER BY job_id, token")).all()
        assert "creations" not in inspect(connection).get_table_names()
    assert [tuple(row) for row in old] == [
        (job, f"{token}{job}", sends) for job in job_ids for token, sends in (("a", 1), ("b", 2))
    ]
    migrations.upgrade()
    with reading() as connection:
        rows_again = connection.execute(
            select(creations).order_by(creations.c.owner.desc(), creations.c.round)
        ).mappings()
        assert [dict(row) for row in rows_again] == of_jobs
        assert "remote_ops" not in inspect(connection).get_table_names()


@pytest.mark.usefixtures("database")
def test_rows_that_are_out_and_capped_stay_on_the_way_down_and_up_again() -> None:
    """On the way down they are a worker's whose lease is long, and calls that have reserved nothing."""
    add_batch(route="batch", deadline_at=now_after(3_600.0))
    ids = add_jobs(4)
    with writing() as connection:
        budgets.set_cap(connection, FLEET, "", USD_E9)
    out = put_out(ids[:2])
    put(*map(success, take(ids[2:])))
    with writing() as connection:
        command.downgrade(migrations.configuration(connection), "0010")
        assert not {"budgets", "upstream_batches"} & set(inspect(connection).get_table_names())
    migrations.upgrade()
    assert (batch_row().route, batch_row().deadline_at) == ("online", None)
    assert count(jobs, jobs.c.state == "running", jobs.c.worker_id == "up-t0") == 2
    with reading() as connection:
        assert budgets.read_all(connection) == []
        assert connection.scalars(select(attempts.c.reserved_usd_e9)).all() == [None] * 4
    put(*map(success, out))
    assert count(jobs, jobs.c.state == "succeeded") == 4
    check_tallies()


@pytest.mark.usefixtures("database")
def test_kept_costs_are_the_same_amounts_on_the_way_down_and_up_again() -> None:
    """On the way down routes have no place: their lines become one."""
    names = {
        "batch_id": "b",
        "batch_name": "b",
        "day": "2026-11-28",
        "model": "m",
        "outcome": "succeeded",
        "kind": "ask",
    }
    sums = {"calls": 2, "input_tokens": 3, "output_tokens": 4, "priced": 2, "unpriced": 0, "saved_usd_e12": 700}
    lines = [
        {**names, **sums, "provider": "p", "route": route, "cost_usd_e12": cost}
        for route, cost in (("", 2_500), ("batch", 1_200))
    ]
    with writing() as connection:
        connection.execute(insert(kept_costs), lines)
        command.downgrade(migrations.configuration(connection), "0010")
        old = connection.execute(text("SELECT calls, cost_usd_e10 FROM kept_costs")).all()
    assert [tuple(map(int, row)) for row in old] == [(4, 37)]
    migrations.upgrade()
    with reading() as connection:
        (line,) = connection.execute(select(kept_costs))
    assert (line.calls, line.cost_usd_e12, line.route, line.saved_usd_e12) == (4, 3_700, "", 0)


@pytest.mark.usefixtures("empty_database")
def test_an_upgrade_that_fails_leaves_the_database_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    def break_off(*_: object) -> None:
        raise RuntimeError("the power is gone")

    with monkeypatch.context() as patched, pytest.raises(RuntimeError):
        patched.setattr(ScriptDirectory, "run_env", _run_then(break_off))
        migrations.upgrade()
    with reading() as connection:
        assert inspect(connection).get_table_names() == []
    migrations.upgrade()
    assert found() == migrations.HEAD


def _run_then(what: object) -> object:
    run = ScriptDirectory.run_env

    def run_env(self: ScriptDirectory) -> None:
        run(self)
        assert callable(what)
        what()

    return run_env


@pytest.mark.usefixtures("database")
def test_a_database_that_is_up_to_date_needs_nothing() -> None:
    migrations.ensure()
    assert found() == migrations.HEAD


def test_an_embedded_database_makes_itself(tmp_path: Path, use_environment: UseEnvironment) -> None:
    use_environment({"TIDEMILL_HOME": str(tmp_path / "new")})
    migrations.ensure()
    assert found() == migrations.HEAD


def test_a_shared_database_without_tables_is_said(postgres_server: Postgres, use_environment: UseEnvironment) -> None:
    use_environment({"TIDEMILL_DATABASE_URL": postgres_server.database()})
    with pytest.raises(DatabaseError, match=r"has no tables of tidemill's yet; .* Run `tidemill db upgrade` once"):
        migrations.ensure()
    assert found() is None


@pytest.mark.parametrize("database", ["postgres"], indirect=True)
def test_a_shared_database_with_an_old_schema_is_said_and_left_alone(database: str) -> None:
    set_revision("0000")
    with pytest.raises(
        DatabaseError, match=r"has the old schema 0000; .* Run `tidemill db upgrade` once, then try again"
    ):
        migrations.ensure()
    assert found() == "0000"


@pytest.mark.usefixtures("database")
def test_a_newer_schema_is_said_and_left_alone() -> None:
    set_revision("9999")
    with pytest.raises(DatabaseError, match=r"schema 9999.* Upgrade it: pip install -U tidemill"):
        migrations.ensure()
    assert found() == "9999"


@pytest.mark.usefixtures("database")
def test_an_upgrade_of_a_newer_schema_is_refused_in_a_sentence() -> None:
    set_revision("9999")
    with pytest.raises(DatabaseError, match="9999"):
        migrations.upgrade()
    assert found() == "9999"


def test_four_upgrades_at_once_wait_for_each_other(empty_database: str, run_cli: RunCli) -> None:
    """Alembic keeps its context in module globals, so that concurrent upgrades are separate processes in real life."""
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda _: run_cli(["db", "upgrade"]), range(4)))
    assert [each.stdout for each in done] == [f"The database has schema {migrations.HEAD}.\n"] * 4
    assert found() == migrations.HEAD


@pytest.mark.parametrize("empty_database", ["sqlite"], indirect=True)
def test_four_commands_that_find_an_empty_home_make_one_database(empty_database: str, run_cli: RunCli) -> None:
    engine().dispose()
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda _: run_cli(["status"]), range(4)))
    assert [(each.returncode, each.stdout) for each in done] == [(0, "")] * 4
    assert found() == migrations.HEAD


def test_a_command_says_what_to_do_about_a_new_shared_database_and_then_works(
    postgres_server: Postgres, run_cli: RunCli
) -> None:
    environment = {"TIDEMILL_DATABASE_URL": postgres_server.database()}
    refused = run_cli(["status"], env=environment)
    assert refused.returncode != 0
    assert "tidemill db upgrade" in refused.stderr and "Traceback" not in refused.stderr
    assert run_cli(["db", "upgrade"], env=environment).returncode == 0
    assert run_cli(["status"], env=environment).returncode == 0


def test_a_path_with_a_percent_sign_is_a_path(monkeypatch: pytest.MonkeyPatch, embedded_home: Path) -> None:
    monkeypatch.setattr(migrations, "__file__", "/srv/100%/migrations/__init__.py")
    with reading() as connection:
        assert migrations.configuration(connection).get_main_option("script_location") == "/srv/100%/migrations"
