"""Postgres as people have it: behind a pooler, without rights, in another encoding, under a URL with a slip in it."""

from collections.abc import Callable, Iterator
from uuid import uuid4

import pytest
from sqlalchemy import make_url, text

from tests.conftest import RunCli, UseEnvironment
from tests.proxy import Proxy
from tests.rows import add_batch, add_jobs, count, put, success, take
from tests.servers import Postgres
from tidemill import migrations
from tidemill.models.database import reading, writing
from tidemill.models.errors import DatabaseError, SettingsError
from tidemill.models.tables import jobs
from tidemill.producer.cli import doctor

IDLE = "SELECT current_setting('idle_in_transaction_session_timeout')"

# --- a pooler ---


def idle_outside_of_transactions() -> str:
    """The session's own setting, which a pooler would hand to the next client."""
    with reading() as connection:
        driver = connection.connection.driver_connection
        assert driver is not None
        driver.rollback()
        (idle,) = driver.execute(IDLE).fetchone()
    return str(idle)


def test_a_frozen_process_loses_its_locks_with_its_lease(postgres_url: str, use_environment: UseEnvironment) -> None:
    use_environment({"TIDEMILL_DATABASE_URL": postgres_url})
    assert idle_outside_of_transactions() == "30s"


def test_behind_a_pooler_sessions_keep_nothing_of_ours(postgres_url: str, use_environment: UseEnvironment) -> None:
    with Proxy(postgres_url) as proxy:
        proxy.be_a_pooler()
        use_environment({"TIDEMILL_DATABASE_URL": proxy.url})
        with writing() as connection:
            assert connection.scalar(text(IDLE)) == "30s"
        assert idle_outside_of_transactions() == "0"


@pytest.mark.parametrize("pooler", [False, True])
def test_nothing_is_prepared_however_often_it_is_said(
    postgres_url: str, use_environment: UseEnvironment, pooler: bool
) -> None:
    with Proxy(postgres_url) as proxy:
        if pooler:
            proxy.be_a_pooler()
        use_environment({"TIDEMILL_DATABASE_URL": proxy.url})
        add_batch()
        for job in take(add_jobs(20)):
            put(success(job))
        assert count(jobs, jobs.c.state == "succeeded") == 20
        with reading() as connection:
            assert connection.scalar(text("SELECT count(*) FROM pg_prepared_statements")) == 0


# --- rights ---


@pytest.fixture
def stranger(postgres_server: Postgres, postgres_url: str) -> Iterator[Callable[..., str]]:
    """A function that lets a new user do these things only, and returns the URL for it."""
    name = f"stranger_{uuid4().hex[:8]}"
    postgres_server.execute(f"CREATE ROLE {name} LOGIN")
    owner = make_url(postgres_url)

    def grant(*rights: str, database: str = "") -> str:
        import psycopg

        with psycopg.connect(owner.render_as_string(hide_password=False), autocommit=True) as connection:
            for right in rights:
                connection.execute(f"GRANT {right} TO {name}".encode())
        url = make_url(postgres_server.url(database)) if database else owner
        return url.set(username=name).render_as_string(hide_password=False)

    yield grant
    postgres_server.execute(f"GRANT {name} TO CURRENT_USER")
    import psycopg

    with psycopg.connect(owner.render_as_string(hide_password=False), autocommit=True) as connection:
        connection.execute(f"DROP OWNED BY {name}".encode())
    postgres_server.execute(f"DROP ROLE {name}")


GRANT = r"Grant what the manual lists under"
TABLES = "ALL TABLES IN SCHEMA public"


def test_who_may_not_create_tables_is_told_so(
    postgres_server: Postgres, stranger: Callable[..., str], use_environment: UseEnvironment
) -> None:
    empty = make_url(postgres_server.database()).database or ""
    use_environment({"TIDEMILL_DATABASE_URL": stranger(database=empty)})
    with pytest.raises(DatabaseError, match=rf"permission denied for schema public\. {GRANT}"):
        migrations.upgrade()


@pytest.mark.parametrize(
    ("rights", "sentence"),
    [
        ((), f"permission denied for table alembic_version. {GRANT}"),
        ((f"SELECT ON {TABLES}",), f"permission denied for table .*{GRANT}"),
        ((f"SELECT, INSERT, UPDATE ON {TABLES}",), f"permission denied for table .*{GRANT}"),
        ((f"SELECT, INSERT, UPDATE, DELETE ON {TABLES}",), f"permission denied for sequence .*{GRANT}"),
    ],
)
def test_doctor_tells_a_missing_right_that_a_run_would_meet(
    stranger: Callable[..., str], use_environment: UseEnvironment, rights: tuple[str, ...], sentence: str
) -> None:
    use_environment({"TIDEMILL_DATABASE_URL": stranger(*rights)})
    with pytest.raises(DatabaseError, match=sentence):
        doctor._database()


def test_the_rights_that_the_manual_lists_are_enough(
    stranger: Callable[..., str], use_environment: UseEnvironment
) -> None:
    rights = (f"SELECT, INSERT, UPDATE, DELETE ON {TABLES}", "USAGE ON ALL SEQUENCES IN SCHEMA public")
    use_environment({"TIDEMILL_DATABASE_URL": stranger(*rights)})
    assert doctor._database() == f"PostgreSQL, shared, schema {migrations.HEAD}"
    add_batch()
    for job in take(add_jobs(2)):
        put(success(job))
    assert count(jobs, jobs.c.state == "succeeded") == 2


def test_doctor_tells_that_a_database_takes_no_writes(
    postgres_server: Postgres, postgres_url: str, use_environment: UseEnvironment
) -> None:
    postgres_server.execute(f"ALTER DATABASE {make_url(postgres_url).database} SET default_transaction_read_only = on")
    use_environment({"TIDEMILL_DATABASE_URL": postgres_url})
    with pytest.raises(DatabaseError, match=r"read-only transaction\. Wait until it takes writes again"):
        doctor._database()


# --- what cannot work ---


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_only_a_database_in_utf8_can_keep_every_answer(
    postgres_server: Postgres, use_environment: UseEnvironment, encoding: str
) -> None:
    name = f"e{uuid4().hex[:8]}"
    postgres_server.execute(f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0")
    use_environment({"TIDEMILL_DATABASE_URL": postgres_server.url(name)})
    for act in (migrations.upgrade, migrations.ensure):
        with pytest.raises(
            DatabaseError, match=f"has the encoding {encoding}.*CREATE DATABASE tidemill ENCODING 'UTF8'"
        ):
            act()


def test_an_old_server_is_refused(
    postgres_url: str, use_environment: UseEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tidemill.models.postgres._OLDEST_VERSION", 99)
    use_environment({"TIDEMILL_DATABASE_URL": postgres_url})
    with pytest.raises(DatabaseError, match=r"is PostgreSQL \d+; tidemill needs 99 or newer\.$"):
        migrations.ensure()


@pytest.mark.parametrize("variable", [{"PGCLIENTENCODING": "LATIN1"}, {"PGOPTIONS": "-c client_encoding=LATIN1"}])
def test_what_libpq_reads_from_variables_changes_no_text(
    postgres_url: str, use_environment: UseEnvironment, variable: dict[str, str]
) -> None:
    use_environment({"TIDEMILL_DATABASE_URL": postgres_url, **variable})
    add_batch(name="naïve ≠ 朝 🌊")
    with reading() as connection:
        assert connection.scalar(text("SELECT name FROM batches")) == "naïve ≠ 朝 🌊"


@pytest.mark.parametrize(
    ("options", "kind", "sentence"),
    [
        ("ssl=require", SettingsError, r'invalid connection option "ssl"\. .* TLS is \?sslmode=require\.$'),
        ("prepare_threshold=0", SettingsError, 'invalid connection option "prepare_threshold"'),
        ("sslmode=bogus", DatabaseError, r'invalid sslmode value: "bogus"\. Fix the port, or what is behind the \?'),
        ("port=99999", DatabaseError, r'invalid port number: "99999"\. Fix the port'),
        ("connect_timeout=soon", DatabaseError, r"bad value for connect_timeout: 'soon'\. Fix the port"),
        ("service=nowhere", DatabaseError, r'definition of service "nowhere" not found\. Fix the port'),
        ("user=nobody_of_that_name", DatabaseError, 'role "nobody_of_that_name" does not exist. Fix user and password'),
    ],
)
def test_a_slip_in_the_url_s_options_is_told(
    postgres_url: str, use_environment: UseEnvironment, options: str, kind: type[Exception], sentence: str
) -> None:
    use_environment({"TIDEMILL_DATABASE_URL": f"{postgres_url.replace('postgres:@', '')}&{options}"})
    with pytest.raises(kind, match=sentence):
        migrations.ensure()


def test_a_schema_that_is_not_there_is_told(postgres_url: str, use_environment: UseEnvironment) -> None:
    use_environment({"TIDEMILL_DATABASE_URL": f"{postgres_url}&options=-csearch_path%3Dnowhere"})
    with pytest.raises(DatabaseError, match="has no tables of tidemill's yet"):
        migrations.ensure()
    with pytest.raises(DatabaseError, match=r"no schema has been selected to create in\. Create the schema that its"):
        migrations.upgrade()


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:hunter2@127.0.0.1:1/tidemill",
        "postgresql://127.0.0.1:1/tidemill?user=me&password=hunter2",
        "postgresql://me:x@hunter2#1@127.0.0.1:1/tidemill",
        "postgresql://me:hunter2?x@127.0.0.1:1/tidemill",
        "postgresql://me:hunter2@127.0.0.1:one/tidemill",
        "postgresql://me:hunter2@127.0.0.1:1/tidemill?sslmode=bogus",
        "postgresql://me:x@hunter2/1@127.0.0.1/tidemill",
        "me:hunter2@127.0.0.1/tidemill",
    ],
)
def test_a_password_is_never_shown(url: str, use_environment: UseEnvironment) -> None:
    use_environment({"TIDEMILL_DATABASE_URL": url})
    with pytest.raises((DatabaseError, SettingsError)) as raised:
        migrations.ensure()
    assert "hunter2" not in str(raised.value)
    assert "hunter2" not in doctor._shown("TIDEMILL_DATABASE_URL", url)


def test_a_command_that_postgres_refuses_ends_with_a_sentence_and_without_the_prompt(
    stranger: Callable[..., str], shared_environment: dict[str, str], run_cli: RunCli
) -> None:
    refused = {"TIDEMILL_DATABASE_URL": stranger(f"SELECT ON {TABLES}"), "TIDEMILL_BROKER_URL": "memory://"}
    done = run_cli(["ask", "my secret prompt"], shared_environment | refused)
    assert done.returncode == 2
    assert "permission denied for table" in done.stderr
    assert "Grant what the manual lists" in done.stderr
    for no in ("defect", "secret prompt", "INSERT", "Traceback"):
        assert no not in done.stderr + done.stdout
