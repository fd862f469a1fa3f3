"""A run knows no kind: rows of one that nobody has heard of are submitted, shown and written like any others."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import pytest
from sqlalchemy import select

from tests.rows import MODEL, batch_row, count, put, success, take
from tidemill.models.database import reading
from tidemill.models.errors import InputError
from tidemill.models.options import Options
from tidemill.models.tables import batches, jobs
from tidemill.producer.batches import run
from tidemill.producer.batches.ends import Ends
from tidemill.producer.batches.order import Order
from tidemill.producer.intake.tables import Row

pytestmark = pytest.mark.usefixtures("database")


class TenCents(NamedTuple):
    """What anything costs here."""

    rows: int

    def text(self) -> str:
        return f"{self.rows} for ten cents"

    def to_json(self) -> dict[str, Any]:
        return {"rows": self.rows, "usd": 0.1}


@dataclass(frozen=True)
class Riddles:
    """Rows of a kind that this project does not have."""

    kind: ClassVar[str] = "riddle"
    texts: Sequence[str]
    is_one: bool = False
    is_partial: bool = False
    files: Sequence[Path] = ()

    def chunks(self, _options: Options, _on_note: Callable[[str], None]) -> Iterator[list[Row]]:
        yield [Row(None, {"text": text}, {"riddle": text}, line) for line, text in enumerate(self.texts, 1)]

    def estimate(self, _order: Order) -> TenCents:
        return TenCents(len(self.texts))


def carry_out(rows: Riddles, **how: Any) -> None:
    defaults: dict[str, Any] = {"output": None, "window": None, "detach": False, "dry_run": False, "as_json": False}
    run.carry_out(Order(Options(MODEL), rows), **(defaults | how))


def answer_all() -> None:
    with reading() as connection:
        ids = list(connection.scalars(select(jobs.c.id)))
    put(*map(success, take(ids)))


def test_a_dry_run_is_what_the_rows_say_and_stores_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    carry_out(Riddles(["a", "b"]), dry_run=True)
    assert capsys.readouterr().out == "2 for ten cents\n"
    carry_out(Riddles(["a", "b"]), dry_run=True, as_json=True)
    assert json.loads(capsys.readouterr().out) == {"rows": 2, "usd": 0.1}
    assert count(batches) == 0


def test_rows_of_any_kind_are_stored_followed_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    carry_out(Riddles(["a", "b"]), detach=True, as_json=True)
    batch_id = json.loads(capsys.readouterr().out)["batch"]
    assert batch_row(batch_id).kind == "riddle"
    answer_all()
    output = tmp_path / "out.jsonl"
    carry_out(Riddles(["a", "b"]), output=str(output))
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [(row["text"], row["status"], row["reply"]) for row in rows] == [
        ("a", "succeeded", "because"),
        ("b", "succeeded", "because"),
    ]
    assert "2 rows: 2 succeeded" in capsys.readouterr().err


def test_the_answer_of_one_row_is_printed_alone_unless_more_is_done_with_it(capsys: pytest.CaptureFixture[str]) -> None:
    carry_out(Riddles(["a"], is_one=True), detach=True)
    answer_all()
    capsys.readouterr()
    carry_out(Riddles(["a"], is_one=True))
    assert capsys.readouterr().out == "because\n"
    ended: list[str] = []
    carry_out(Riddles(["a"], is_one=True), after=[lambda batch: ended.append(batch.id)])
    assert len(ended) == 1
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"row_order": "finished"}, "--order finished is about the rows of a file"),
        ({"detach": True, "ends": Ends(max_wait_seconds=60)}, "--detach waits for nothing"),
        ({"detach": True, "ends": Ends(fail_fast=True)}, "--detach waits for nothing"),
        ({"detach": True, "output": "answers.jsonl"}, "later `tidemill results BATCH -o ...` writes the answers"),
    ],
)
def test_what_would_be_ignored_is_refused(how: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        carry_out(Riddles(["a", "b"]), **how)
    assert count(jobs) == 0


def test_a_file_that_the_rows_are_read_from_is_never_written(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text("precious")
    with pytest.raises(InputError, match="is the input itself"):
        carry_out(Riddles(["a"], files=[tmp_path / "gone.jsonl", path]), output=str(path))
    assert path.read_text() == "precious"
