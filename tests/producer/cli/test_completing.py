"""TAB asks the database what may stand there, and disturbs nobody's typing."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.conftest import UseEnvironment
from tidemill.models.database import transact
from tidemill.models.tables import assistants
from tidemill.producer.cli import completing
from tidemill.producer.costing.costs import GROUPINGS

LATEST = ("latest", "the newest batch")


def test_names_are_those_of_the_database_that_begin_as_typed(embedded_home: Path) -> None:
    common = {"options": {}, "created_at": datetime(2026, 11, 28, tzinfo=UTC)}
    rows = [{"name": name, **common} for name in ("support", "sales", "100%")]
    transact(lambda connection: connection.execute(assistants.insert().values(rows)))
    assert completing.assistant_names("s") == [("sales", ""), ("support", "")]
    assert completing.assistant_names("100%") == [("100%", "")]
    assert completing.assistant_names("%") == []


def test_what_costs_adds_up_by_is_offered() -> None:
    assert completing.groupings("") == list(GROUPINGS)
    assert completing.groupings("p") == ["provider"]


def test_no_database_is_made_for_a_look(tmp_path: Path, use_environment: UseEnvironment) -> None:
    use_environment({"TIDEMILL_HOME": str(tmp_path / "home")})
    assert completing.batch_ids("") == [LATEST]
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        {"TIDEMILL_WINDOW": "many"},
        {"TIDEMILL_DATABASE_URL": "mysql://localhost/x"},
        {"TIDEMILL_DATABASE_URL": "postgresql://127.0.0.1:1/x"},
    ],
)
def test_what_is_wrong_is_not_said_in_the_middle_of_a_line(
    wrong: dict[str, str], use_environment: UseEnvironment, capfd: pytest.CaptureFixture[str]
) -> None:
    use_environment(wrong)
    Path(".env").write_text("TIDEMILL_HOME=elsewhere\n")
    assert completing.batch_ids("") == [LATEST]
    assert completing.assistant_names("") == []
    assert capfd.readouterr() == ("", "")


def test_what_may_have_a_cap_is_a_batch_a_day_or_all(embedded_home: Path) -> None:
    assert [word for word, _ in completing.budget_names("")] == ["day", "fleet", "forgive", "latest"]
    assert [word for word, _ in completing.budget_names("f")] == ["fleet", "forgive", "latest"]
