"""What is the same question, and at which server: across formats, spellings, versions and addresses."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from sqlalchemy import select, update

from tests.rows import MODEL, batch_row, count, put, success, take
from tidemill import ask, migrations
from tidemill.models import settings as settings_module
from tidemill.models.database import reading, writing
from tidemill.models.errors import InputError
from tidemill.models.options import Options
from tidemill.models.tables import batches, jobs
from tidemill.producer.asking.prompts import Prompts
from tidemill.producer.batches.keys import Prepared
from tidemill.producer.batches.order import Order
from tidemill.producer.batches.submit import OpenBatch, open_batch, submit
from tidemill.producer.intake.tables import ReadOptions, read

OPTIONS = Options(model=MODEL)
HI = {"role": "user", "content": "Hi"}
IH = {"content": "Hi", "role": "user"}
BODY = {"model": "m", "messages": [HI], "temperature": 0.0}
LINE = {"custom_id": "x", "method": "POST", "url": "/v1/chat/completions", "body": BODY}


def digests(source: Any, **how: Any) -> list[str]:
    return [
        Prepared.of(row).digest
        for chunk in read(source, ReadOptions(**how), on_bad_row=lambda _sentence: None)
        for row in chunk
    ]


def submitted(source: Any, **values: Any) -> OpenBatch:
    how = ReadOptions(template=values.pop("template", None))
    opened = open_batch(Order(rows=Prompts(source, how), **({"options": OPTIONS} | values)))
    submit(opened)
    return opened


def stored_keys() -> list[str]:
    with reading() as connection:
        return list(connection.scalars(select(jobs.c.key).order_by(jobs.c.id)))


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Name another server."""

    def name(url: str) -> None:
        monkeypatch.setenv("OPENAI_BASE_URL", url)
        settings_module.settings.cache_clear()

    return name


# --- by value ---


@pytest.mark.parametrize(
    ("one", "other", "how"),
    [
        ([LINE], [{**LINE, "body": {"temperature": 0, "messages": [IH], "model": "m"}}], {}),
        ([{"messages": [HI]}], [{"messages": [{**IH, "name": None}]}], {}),
        ([{"prompt": "a\r\nb"}], [{"prompt": "a\nb"}], {}),
        ([{"custom_id": 7, "prompt": "a"}], [{"custom_id": 7.0, "prompt": "a"}], {}),
        ([{"custom_id": "7", "prompt": "a"}], [{"custom_id": "7.0", "prompt": "a"}], {}),
        ([{"custom_id": None, "prompt": "a"}], [{"prompt": "a"}], {}),
        ([{"y": 2019, "prompt": "a"}], [{"y": 2019.0, "prompt": "a"}], {"template": "{y}: {prompt}"}),
        ([{"d": {"a": 1, "b": 2}}], [{"d": {"b": 2.0, "a": 1}}], {"template": "{d}"}),
        ([{"n": 5}], [{"n": 5.0}], {"column": "n"}),
        ([{"prompt": "a", "other": 1}], [{"prompt": "a", "other": 2, "more": 3}], {}),
    ],
)
def test_what_has_the_same_values_is_the_same_row(one: Any, other: Any, how: Any) -> None:
    assert digests(one, **how) == digests(other, **how)


@pytest.mark.parametrize(
    ("one", "other", "how"),
    [
        ([{"custom_id": "7", "prompt": "a"}], [{"custom_id": "07", "prompt": "a"}], {}),
        ([{"v": "1.1"}], [{"v": "1.10"}], {"template": "{v}"}),
        ([{"v": "1"}], [{"v": "1.0"}], {"template": "{v}"}),
        ([{"v": True}], [{"v": 1}], {"template": "{v}"}),
        ([LINE], [{**LINE, "body": {**BODY, "temperature": 0.5}}], {}),
    ],
)
def test_what_has_other_values_is_another_row(one: Any, other: Any, how: Any) -> None:
    assert digests(one, **how) != digests(other, **how)


def test_one_table_in_every_format_is_the_same_rows(tmp_path: Path) -> None:
    frame = pd.DataFrame({"custom_id": [7, 8], "year": [2019, 2020], "prompt": ["a\nb", "ü"]})
    frame.to_csv(tmp_path / "t.csv", index=False, lineterminator="\r\n")
    (tmp_path / "t.csv").write_bytes((tmp_path / "t.csv").read_bytes().replace(b"a\nb", b"a\r\nb"))
    frame.to_csv(tmp_path / "t.tsv", index=False, sep="\t")
    frame.to_json(tmp_path / "t.jsonl", orient="records", lines=True)
    frame.to_json(tmp_path / "t.json", orient="records")
    frame.to_excel(tmp_path / "t.xlsx", index=False)
    frame.to_parquet(tmp_path / "t.parquet")
    arrow = frame.convert_dtypes(dtype_backend="pyarrow")
    floats = frame.astype({"custom_id": float, "year": float})
    categories = frame.astype({"prompt": "category", "year": object})
    sources = [frame, arrow, floats, categories, *tmp_path.iterdir()]
    assert len({tuple(digests(each, template="{year}: {prompt}")) for each in sources}) == 1


# --- of version 0.1 ---


OLD: dict[str, tuple[list[Any], list[str]]] = {
    "plain": (["Why?"], ["2718c84c2f13412e85182ac7"]),
    "line ends": (["a\r\nb"], ["8c14dec00f2779830f1f2efd"]),
    "batch lines": ([LINE], ["b9b53ce60087219c102fed09"]),
    "ids": (
        [{"custom_id": 7.0, "prompt": "a"}, {"custom_id": None, "prompt": "b"}],
        ["f72a7da67f44a17db7fa7cf3", "4b17e6ac340e6e3b4a1d6fc7"],
    ),
    "a template": (
        [{"y": 2019.0, "n": "a"}, {"y": None, "n": "b"}],
        ["fe54ca2e8d077617532ca66d", "87df0a4631f763f110e06c97"],
    ),
    "two spellings": (
        [{"messages": [HI]}, {"messages": [HI]}, {"messages": [IH]}],
        ["992a3daf841613236ad0a018", "992a3daf841613236ad0a018-2", "83b28a25a297e6baea385388"],
    ),
}
"""Rows, and the keys that version 0.1 stored for them."""

WARM = Options(MODEL, temperature=0.0)


def make_old(batch_id: str, old_keys: list[str]) -> list[int]:
    """Change a batch to what version 0.1 would have stored; the ids of its jobs."""
    with writing() as connection:
        rows = select(jobs.c.id).where(jobs.c.batch_id == batch_id).order_by(jobs.c.position)
        ids = list(connection.scalars(rows))
        for prefix in ("x", ""):  # some of the old keys are keys of today for other rows
            for job_id, old in zip(ids, old_keys, strict=True):
                connection.execute(update(jobs).where(jobs.c.id == job_id).values(key=prefix + old))
        old_hash = WARM.question_hash("ask", spelled=True)
        of_batch = update(batches).where(batches.c.id == batch_id)
        connection.execute(of_batch.values(question_hash=old_hash, provider="API.openai.com:443"))
    return ids


@pytest.mark.usefixtures("database")
def test_rows_that_version_0_1_has_stored_are_not_asked_again() -> None:
    for number, (case, (rows, old_keys)) in enumerate(OLD.items()):
        how: dict[str, Any] = {"source_name": f"{case}.csv" if number % 2 else None, "options": WARM}
        template = "{y} {n}" if case == "a template" else None
        first = submitted(rows, template=template, new=True, **how)
        ids = make_old(first.batch_id, old_keys)
        migrations.ensure()
        assert batch_row(first.batch_id).provider == "api.openai.com/v1"
        put(*map(success, take(ids)))
        order = Order(rows=Prompts(rows, ReadOptions(template=template)), **how)
        assert order.rows.estimate(order).to_json()["done"] == len(rows), case
        for _ in range(2):
            again = submitted(rows, template=template, **how)
            assert (again.batch_id, again.tally.rows, again.tally.answered) == (first.batch_id, *[len(rows)] * 2)
            assert count(jobs, jobs.c.batch_id == first.batch_id) == len(rows)


@pytest.mark.usefixtures("embedded_home")
def test_contents_that_come_again_in_later_chunks_are_found_too() -> None:
    rows = [{"messages": [HI]}, *({"prompt": f"p {i}"} for i in range(40)), {"messages": [HI]}]
    first = submitted(rows)
    with writing() as connection:
        for key in stored_keys():
            if "-2" in key or key == stored_keys()[0]:
                old = "992a3daf841613236ad0a018" + key[24:]
                connection.execute(update(jobs).where(jobs.c.key == key).values(key=old))
    again = submitted(rows)
    assert (again.batch_id, count(jobs)) == (first.batch_id, len(rows))


@pytest.mark.usefixtures("embedded_home")
def test_answered_already_counts_the_rows_of_this_input() -> None:
    first = submitted(["a", "b", "c"], source_name="p.txt")
    put(*map(success, take([1, 2])))
    assert submitted(["a", "x", "y", "z"], source_name="p.txt").tally.answered == 1
    assert submitted(["a", "b"], source_name="p.txt").batch_id == first.batch_id


# --- at which server ---


ANOTHER = [
    ("http://a.test:8000/v1", "http://a.test:8001/v1"),
    ("http://c.test:8000/v1", "http://d.test:8000/v1"),
    ("http://e.test/v1", "http://e.test/vllm/v1"),
]


@pytest.mark.usefixtures("embedded_home")
def test_another_server_is_another_batch_and_it_is_said(at: Callable[[str], None]) -> None:
    for here, there in ANOTHER:
        for source_name in (f"{here}.csv", None):
            rows, notes = [f"a {here}", f"b {here}"], list[str]()
            at(here)
            first = submitted(rows, source_name=source_name, new=True)
            at(there)
            second = submitted(rows, source_name=source_name, on_bad_row=notes.append)
            assert (second.batch_id == first.batch_id, second.resumed) == (False, source_name is None)
            assert batch_row(first.batch_id).provider == here.removeprefix("http://")
            told = [each for each in notes if "--moved-from" in each and here.removeprefix("http://") in each]
            assert bool(told) is not second.resumed
            assert submitted(rows, source_name=source_name).batch_id == second.batch_id
            at(here)
            assert submitted(rows, source_name=source_name).batch_id == first.batch_id


@pytest.mark.usefixtures("embedded_home")
def test_a_server_that_has_moved_takes_its_batch_along(at: Callable[[str], None]) -> None:
    for number, moved_from in enumerate(("a.test:8000/v1", "http://A.test:8000/v1/", "a.test:8000")):
        source_name = f"{number}.csv" if number else None
        rows, how = [f"a {number}", f"b {number}"], {"source_name": source_name}
        at("http://a.test:8000/v1")
        first = submitted(rows, **how)
        answered, waiting = (row.id for row in rows_of(first.batch_id))
        put(*map(success, take([answered])))
        at("http://b.test:9000/v1")
        begun = submitted(rows, **how)
        order = Order(OPTIONS, Prompts(rows), source_name=source_name, moved_from=moved_from)
        assert order.rows.estimate(order).to_json()["done"] == 1
        assert batch_row(first.batch_id).provider == "a.test:8000/v1"
        for again in (moved_from, moved_from, None):
            moved = submitted(rows, moved_from=again, **how)
            assert (moved.batch_id, moved.tally.answered) == (first.batch_id, 1)
        assert batch_row(first.batch_id).provider == batch_row(begun.batch_id).provider == "b.test:9000/v1"
        assert [job.id for job in take([waiting])] == [waiting]


def rows_of(batch_id: str) -> list[Any]:
    with reading() as connection:
        return list(connection.execute(select(jobs.c.id).where(jobs.c.batch_id == batch_id).order_by(jobs.c.position)))


@pytest.mark.usefixtures("embedded_home")
def test_what_cannot_have_moved_is_refused_and_nothing_is_stored(at: Callable[[str], None]) -> None:
    at("http://a.test/v1")
    submitted(["a"])
    at("http://b.test/v1")
    with pytest.raises(InputError, match=r"no batch of these questions.*servers with batches: a.test/v1"):
        submitted(["other"], moved_from="a.test")
    with pytest.raises(InputError, match="names no host"):
        submitted(["a"], moved_from="http://")
    with pytest.raises(InputError, match="drop one"):
        ask(["a"], moved_from="a.test", new=True)
    assert count(batches) == 1


@pytest.mark.usefixtures("embedded_home")
def test_json_lines_of_another_order_of_keys_are_the_same_batch(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps(LINE))
    first = submitted(path)
    path.write_text(json.dumps({name: LINE[name] for name in reversed(LINE)}))
    assert submitted(path).batch_id == first.batch_id
    assert count(jobs) == 1


# --- beside the right prompts ---


PEOPLE = pd.DataFrame({"prompt": ["a", "b", "c", "a", "d"], "n": range(5)})
INDEXES: dict[str, Any] = {
    "a range": pd.RangeIndex(5),
    "not from 0": pd.RangeIndex(10, 60, 10),
    "unsorted": pd.Index([3, 1, 4, 0, 2]),
    "repeated": pd.Index([7, 7, 8, 8, 9]),
    "text, named": pd.Index(list("vwxyz"), name="letter"),
    "days": pd.date_range("2026-01-01", periods=5, tz="UTC"),
    "levels": pd.MultiIndex.from_product([["x"], range(5)], names=["one", "two"]),
    "categories": pd.CategoricalIndex(list("ababc")),
}


def answered(source: Any, **how: Any) -> pd.DataFrame:
    """Ask, and answer each prompt with itself in capitals."""
    batch = ask(source, **how)
    with reading() as connection:
        waiting = list(connection.scalars(select(jobs.c.id).where(jobs.c.state == "queued")))
    put(*(success(job, job.request["prompt"].upper()) for job in take(waiting)))
    return batch.to_frame()


@pytest.mark.usefixtures("embedded_home")
@pytest.mark.parametrize("part", ["whole", "filtered", "sorted"])
def test_answers_have_the_index_of_their_frame(part: str) -> None:
    for index in INDEXES.values():
        whole = PEOPLE.set_axis(index)
        parts = {
            "whole": whole,
            "filtered": whole[whole["n"] % 3 > 0],
            "sorted": whole.sort_values("n", ascending=False),
        }
        frame = parts[part].copy()
        answers = answered(frame, new=True)
        pd.testing.assert_index_equal(answers.index, frame.index)
        frame["reply"] = answers["reply"]
        assert list(frame["reply"]) == [prompt.upper() for prompt in frame["prompt"]]
        assert list(answers["n"]) == list(frame["n"])


@pytest.mark.usefixtures("embedded_home")
def test_a_batch_that_went_on_with_another_part_keeps_each_part_apart() -> None:
    whole = PEOPLE.set_axis(pd.Index(list("vwxyz")))
    first = ask(whole)
    second = ask(whole.iloc[::-1].iloc[:3])
    assert second.id == first.id
    with reading() as connection:
        ids = list(connection.scalars(select(jobs.c.id)))
    put(*(success(job, job.request["prompt"].upper()) for job in take(ids)))
    assert first.to_frame()["reply"].to_dict() == dict(zip("vwxyz", "ABCAD", strict=True))
    assert second.to_frame()["reply"].to_dict() == {"z": "D", "y": "A", "x": "C"}
    named = [ask(part, name="people") for part in (whole, whole.iloc[3:])]
    put(*(success(job, job.request["prompt"].upper()) for job in take(list(range(6, 20)))))
    assert [list(each.to_frame().index) for each in named] == [list("vwxyz"), list("yz")]


@pytest.mark.usefixtures("embedded_home")
def test_rows_left_out_leave_their_labels_out() -> None:
    frame = pd.DataFrame({"prompt": ["a", None, "b", "c"]}, index=[10, 20, 30, 40])
    assert answered(frame, skip_bad_rows=True, limit=2)["reply"].to_dict() == {10: "A", 30: "B"}
    assert answered(frame["prompt"].dropna())["reply"].to_dict() == {10: "A", 30: "B", 40: "C"}
