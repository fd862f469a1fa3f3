"""A file that grows while rows end has, to the byte, what one that is written at the end has."""

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
from tidemill.producer.batches import answer_file, row_orders, stored_rows
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


def statuses_in(path: Path) -> list[str]:
    """Of the rows that a reader finds now; every line must be whole."""
    return [json.loads(line)["status"] for line in path.read_text().splitlines()] if path.exists() else []


def test_the_first_rows_are_there_up_to_one_that_may_change(folder: Path) -> None:
    ids = batch_of(6)
    path = folder / "out.jsonl"
    path.write_text("older")
    with AnswerFile("b", 1, str(path)) as file:
        file()
        assert written(file) == 0
        end(ids[1:2])
        file()
        assert path.read_text() == "older"  # the first row is open
        end(ids[:1], failure)
        file()
        assert statuses_in(path) == ["failed", "succeeded"]
        put(*map(success, take(ids[2:4])))
        file()
        assert len(statuses_in(path)) == 2  # not judged
        judge()
        file()
        assert len(statuses_in(path)) == 4
        end(ids[4:])
        assert file.finish() == 6
    assert statuses_in(path) == ["failed", *["succeeded"] * 5]
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


def test_while_the_input_is_read_lines_come_that_name_their_columns_and_no_table(
    folder: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    end(batch_of(2, read_at=None, columns=[]))
    with writing() as connection:
        connection.execute(update(jobs).values(columns={"n": 1}))
    paths = [str(folder / "out.csv"), str(folder / "out.jsonl"), "-"]
    with ExitStack() as stack:
        files = [stack.enter_context(AnswerFile("b", 1, path)) for path in paths]
        look(files)
        assert list(map(written, files)) == [0, 2, 2]
        shown = capsysbinary.readouterr().out
        assert b'"n":' in shown
        assert shown == (folder / "out.jsonl").read_bytes()
        set_batch(read_at=now(), columns=["n"])
        assert [file.finish() for file in files] == [2, 2, 2]
    Batch("b").save(folder / "after.jsonl")
    assert (folder / "out.jsonl").read_bytes() == (folder / "after.jsonl").read_bytes()
    set_batch(submission=2, read_at=None)
    with AnswerFile("b", 2, "-") as file:  # rows of an earlier submission may be anywhere
        file()
        assert written(file) == 0


def test_what_fails_during_a_run_is_tried_again_at_its_end(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = batch_of(3)
    end(ids)
    folder = folder / "gone"
    with AnswerFile("b", 1, str(folder / "out.jsonl")) as file:
        file()  # there is no folder
        assert written(file) == 0
        folder.mkdir()
        with monkeypatch.context() as away:
            away.setattr(row_orders, "pages", away_database)
            file()
        assert file.finish() == 3
    with pytest.raises(InputError, match="does not exist"), AnswerFile("b", 1, str(folder / "no" / "a.csv")) as file:
        file()
        file.finish()


def away_database(*_args: object, **_options: object) -> None:
    raise DatabaseError("away")


def test_a_run_that_is_stopped_leaves_what_has_ended_where_a_file_can_grow(folder: Path) -> None:
    ids = batch_of(4)
    end(ids[:1])
    for rows, ending in enumerate(ENDINGS, 1):
        with pytest.raises(KeyboardInterrupt), AnswerFile("b", 1, str(folder / f"out{ending}")) as file:
            file()
            assert written(file) == rows
            end(ids[rows : rows + 1])  # a call that was in flight
            raise KeyboardInterrupt
    assert sorted(each.name for each in folder.iterdir()) == ["out.csv", "out.jsonl"]
    assert [len((folder / f"out{ending}").read_text().splitlines()) for ending in (".csv", ".jsonl")] == [4, 2]


def numbers_in(path: Path) -> list[int]:
    return [int(json.loads(line)["custom_id"].removeprefix("id-r")) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("change", ["nothing", "a failed row is tried again and succeeds"])
def test_rows_may_come_in_the_order_in_which_they_end_and_stay_in_it(
    change: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_orders, "_PROBED_ROWS", 2)
    ids = batch_of(7)
    path = folder / "out.jsonl"
    with AnswerFile("b", 1, str(path), order="finished") as file:
        for some, settlement in (([5, 3], success), ([1], failure), ([6], success)):
            end([ids[each] for each in some], settlement)
            file(Batch("b").progress())
        assert numbers_in(path) == [3, 5, 1, 6]
        CHANGES[change](ids)
        end([each for each in ids if job_row(each).state == "queued"])
        assert file.finish() == 7
    assert numbers_in(path) == [3, 5, 1, 6, 0, 2, 4]
    assert statuses_in(path).count("failed") == (change == "nothing")


def test_a_look_for_rows_that_ended_asks_about_few(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_orders, "_PROBED_ROWS", 2)
    monkeypatch.setattr(answer_file, "_LOOK_SECONDS", -1.0)
    ids = batch_of(7)
    end(ids[4:])
    with AnswerFile("b", 1, str(folder / "out.jsonl"), order="finished") as file:
        for rows in (0, 0, 2, 3, 3):
            file(Batch("b").progress())
            assert written(file) == rows


def put_another(path: Path) -> None:
    other = path.with_name("other")
    other.write_text("mine")
    other.replace(path)


CHANGED_BY_OTHERS: dict[str, Callable[[Path], object]] = {
    "gone": Path.unlink,
    "longer": lambda path: path.write_text(f"{path.read_text()}mine\n"),
    "another": put_another,
}


@pytest.mark.parametrize("change", CHANGED_BY_OTHERS)
def test_a_file_that_others_have_changed_is_written_anew(change: str, folder: Path) -> None:
    ids = batch_of(2)
    path = folder / "out.jsonl"
    end(ids[:1])
    with AnswerFile("b", 1, str(path)) as file:
        file()
        CHANGED_BY_OTHERS[change](path)
        end(ids[1:])
        file()
        file.finish()
    assert statuses_in(path) == ["succeeded"] * 2


def test_two_that_write_the_same_file_never_mix_their_rows(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ids = batch_of(2)
    path = folder / "out.csv"
    end(ids[:1])
    with AnswerFile("b", 1, str(path)) as first, AnswerFile("b", 1, str(path)) as second:
        look([first, second])
        before = path.read_bytes()
        end(ids[1:])
        second()
        assert path.read_bytes() == before
        first()
        whole = path.read_bytes()
        assert whole.startswith(before)
        assert [second.finish(), first.finish()] == [2, 2]
        assert path.read_bytes() == whole
    assert "out.csv is being written by another command" in capsys.readouterr().err


def test_a_look_writes_no_longer_than_it_may(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_rows, "_FIRST_ROWS", 2)
    monkeypatch.setattr(answer_file, "_LOOK_SECONDS", -1.0)
    end(batch_of(5))
    with AnswerFile("b", 1, str(folder / "out.csv")) as file:
        file()
        assert written(file) == 2
        file()
        assert written(file) == 4
