"""A file that is written while rows end has, to the byte, what one that is written at the end has."""

import json
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from tests.rows import MODEL, add_batch, add_jobs, change_batch, failure, job_row, put, set_batch, success, take
from tidemill.models.answers import Answer, Message
from tidemill.models.clock import now
from tidemill.models.database import writing
from tidemill.models.errors import DatabaseError, InputError
from tidemill.models.tables import dialogues, jobs
from tidemill.producer.batches import answer_file, stored_rows
from tidemill.producer.batches.answer_file import AnswerFile
from tidemill.producer.batches.batch import Batch

pytestmark = pytest.mark.usefixtures("database")

CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
CALLING = Answer(MODEL, "tool_calls", (Message.of({"role": "assistant", "content": None, "tool_calls": [CALL]}),))
ENDINGS = (".jsonl", ".csv", ".parquet")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where nothing else is."""
    path = tmp_path / "answers"
    path.mkdir()
    return path


def batch_of(rows: int, **values: Any) -> list[int]:
    """A batch whose input has been read to its end; ids of its jobs."""
    add_batch(**{"read_at": now(), "columns": ["n"]} | values)
    return add_jobs(rows)


def judge() -> None:
    with writing() as connection:
        connection.execute(update(dialogues).where(dialogues.c.sentiment.is_(None)).values(sentiment="neutral"))


def end(ids: list[int], settlement: Callable[..., Any] = success, **values: Any) -> None:
    put(*(settlement(job, **values) for job in take(ids)))
    judge()


def submit_again() -> None:
    set_batch(submission=2, columns=["m"])
    with writing() as connection:
        connection.execute(update(jobs).values(submission=2, columns={"m": 1}))


def look(files: Iterable[AnswerFile]) -> None:
    for file in files:
        file()


def written(file: AnswerFile) -> int:
    """How many rows are written so far."""
    return file._rows


def test_the_first_rows_are_written_up_to_one_that_may_change(folder: Path) -> None:
    ids = batch_of(6)
    path = folder / "out.jsonl"
    path.write_text("older")
    with AnswerFile("b", 1, str(path)) as file:
        file()
        assert written(file) == 0
        end(ids[1:2])
        file()
        assert written(file) == 0  # the first one is open
        end(ids[:1], failure)
        file()
        assert written(file) == 2
        put(*map(success, take(ids[2:4])))
        file()
        assert written(file) == 2  # not judged
        judge()
        file()
        assert written(file) == 4
        assert path.read_text() == "older"
        end(ids[4:])
        assert file.finish() == 6
    statuses = [json.loads(line)["status"] for line in path.read_text().splitlines()]
    assert statuses == ["failed", *["succeeded"] * 5]
    assert [each.name for each in folder.iterdir()] == ["out.jsonl"]


def try_again(ids: list[int], *settlement: Callable[..., Any], **values: Any) -> None:
    change_batch("retry")
    end(ids[1:2], *settlement, **values)


CHANGES: dict[str, Callable[[list[int]], None]] = {
    "nothing": lambda ids: None,
    "a failed row is tried again and succeeds": try_again,
    "a failed row is tried again and fails": lambda ids: try_again(ids, failure, error="another reason"),
    "the same rows are submitted again": lambda ids: submit_again(),
    "a tool is called": lambda ids: end(ids[3:4], answer=CALLING),
}


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_happens_meanwhile_the_file_is_that_of_the_end(change: str, folder: Path) -> None:
    ids = batch_of(5)
    with ExitStack() as stack:
        files = [stack.enter_context(AnswerFile("b", 1, str(folder / f"ahead{each}"))) for each in ENDINGS]
        end(ids[:1])
        end(ids[1:2], failure)
        end(ids[2:3], text='=1,"a"\u2028\0\n\ud800')
        look(files)
        assert list(map(written, files)) == [3, 3, 3]
        CHANGES[change](ids)
        look(files)
        end([each for each in ids if job_row(each).state == "queued"])
        assert [file.finish() for file in files] == [5, 5, 5]
    for ending in ENDINGS:
        Batch("b").save(folder / f"after{ending}")
        ahead, after = ((folder / f"{name}{ending}").read_bytes() for name in ("ahead", "after"))
        assert ahead == after
        assert (b"tool_calls" in after) == (change == "a tool is called")


def test_nothing_is_written_while_the_input_is_read_and_nothing_to_stdout_before_the_end(folder: Path) -> None:
    ids = batch_of(1, read_at=None)
    end(ids)
    files = [AnswerFile("b", 1, str(folder / "out.csv")), AnswerFile("b", 1, "-")]
    look(files)
    assert list(map(written, files)) == [0, 0]
    assert list(folder.iterdir()) == []


def test_what_fails_during_a_run_is_tried_again_at_its_end(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = batch_of(3)
    end(ids)
    folder = folder / "gone"
    with AnswerFile("b", 1, str(folder / "out.jsonl")) as file:
        file()  # there is no folder
        assert written(file) == 0
        folder.mkdir()
        with monkeypatch.context() as away:
            away.setattr(answer_file, "pages", away_database)
            file()
        assert file.finish() == 3
    with pytest.raises(InputError, match="does not exist"), AnswerFile("b", 1, str(folder / "no" / "a.csv")) as file:
        file()
        file.finish()


def away_database(*_args: object, **_options: object) -> None:
    raise DatabaseError("away")


def test_a_run_that_is_stopped_leaves_no_file(folder: Path) -> None:
    end(batch_of(3))
    for ending in ENDINGS:
        with pytest.raises(KeyboardInterrupt), AnswerFile("b", 1, str(folder / f"out{ending}")) as file:
            file()
            assert written(file) == 3
            raise KeyboardInterrupt
    assert list(folder.iterdir()) == []


def test_a_look_writes_no_longer_than_it_may(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_rows, "_FIRST_ROWS", 2)
    monkeypatch.setattr(answer_file, "_LOOK_SECONDS", -1.0)
    end(batch_of(5))
    with AnswerFile("b", 1, str(folder / "out.csv")) as file:
        file()
        assert written(file) == 2
        file()
        assert written(file) == 4
