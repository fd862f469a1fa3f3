"""The list of models says when each ends: the server's own word first, then what is known of OpenAI's."""

from pathlib import Path
from typing import Any

import pytest

from tests.conftest import UseEnvironment
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
