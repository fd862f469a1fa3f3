"""The list of models says when each ends: the server's own word first, then what is known of OpenAI's."""

from pathlib import Path
from typing import Any

import pytest

from tests.conftest import UseEnvironment
from tidemill.models.clock import now_after
from tidemill.models.database import transact
from tidemill.models.errors import TidemillError
from tidemill.models.settings import settings
from tidemill.models.tables import workers
from tidemill.producer.cli import doctor


@pytest.mark.parametrize(
    ("server", "model", "date"),
    [
        ("https://api.openai.com/v1", {"id": "gpt-4.1"}, "2027-01-14"),
        ("https://api.openai.com/v1", {"id": "ft:gpt-4.1:acme::x1", "shutdown_date": None}, "2027-01-14"),
        ("https://api.openai.com/v1", {"id": "gpt-4.1", "shutdown_date": "2027-02-01"}, "2027-02-01"),
        ("https://api.openai.com/v1", {"id": "gpt-6-luna"}, None),
        ("http://localhost:8000/v1", {"id": "gpt-4.1"}, None),
        ("http://localhost:8000/v1", {"id": "mine", "shutdown_date": "2027-02-01"}, "2027-02-01"),
    ],
)
def test_a_model_is_listed_with_the_day_of_its_end(
    use_environment: UseEnvironment, server: str, model: dict[str, Any], date: str | None
) -> None:
    use_environment({"OPENAI_BASE_URL": server})
    assert doctor._model(model)["shutdown_date"] == date


def test_a_home_that_cannot_be_is_told_by_every_check(tmp_path: Path, use_environment: UseEnvironment) -> None:
    (tmp_path / "file").touch()
    use_environment({"TIDEMILL_HOME": str(tmp_path / "file" / "home")})
    for name in ("database", "disk", "pictures"):
        check = doctor._check(name, doctor._CHECKS[name])
        assert not check["ok"]
        assert str(tmp_path / "file") in str(check["says"])


@pytest.mark.parametrize(
    ("listed", "is_there"),
    [
        (["gpt-6-luna"], True),
        (["gpt-6", "gpt-6-luna-2026-09-01"], True),
        (["models/gpt-6-luna"], True),
        (["gpt-6-luna:latest"], True),
        ([], True),
        (["gpt-6", "gpt-6-luna-mini", "gpt-6-luna:7b", "my-gpt-6-luna"], False),
    ],
)
def test_a_default_model_that_the_server_does_not_list_is_something_to_fix(listed: list[str], is_there: bool) -> None:
    if is_there:
        assert "http://gpu:8000/v1 answers and lists" in doctor.of_models(listed, "gpt-6-luna", "http://gpu:8000/v1")
        return
    with pytest.raises(TidemillError, match=r"TIDEMILL_MODEL to one that it lists, such as gpt-6, gpt-6-luna-mini, "):
        doctor.of_models(listed, "gpt-6-luna", "http://gpu:8000/v1")


def add_worker(name: str, provider: str | None, seconds_ago: float = 1) -> None:
    own = {"id": name, "host": "h", "machine": "m", "pid": 1, "provider": provider, "window": 2, "version": "0"}
    seen = {"started_at": now_after(-100), "seen_at": now_after(-seconds_ago)}
    transact(lambda connection: connection.execute(workers.insert().values(own | seen)))


def test_living_workers_are_counted_and_with_a_broker_there_must_be_one(
    database: str, use_environment: UseEnvironment
) -> None:
    assert doctor._workers() == "none needed: commands run a worker inside themselves; 0 alive at present"
    use_environment({"TIDEMILL_BROKER_URL": "redis://127.0.0.1:9/0"})
    own = settings().provider
    add_worker("gone", own, seconds_ago=500)
    with pytest.raises(TidemillError, match=r"no worker is alive for .+\. Start one: `tidemill worker`"):
        doctor._workers()
    add_worker("other", "elsewhere:80/v1")
    with pytest.raises(TidemillError, match="; 1 for other servers"):
        doctor._workers()
    add_worker("first", own)
    add_worker("second", own)
    assert doctor._workers() == f"2 alive for {own}; 1 for other servers"
