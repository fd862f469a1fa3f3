"""Which rows of two batches are the same is found by what they are, on either database, and is said."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from sqlalchemy import select

from tests.rows import add_batch, failure, put, success, take
from tidemill import ask
from tidemill.models.database import reading
from tidemill.models.errors import InputError
from tidemill.models.tables import jobs
from tidemill.producer.comparing.diff import Terms, diff
from tidemill.producer.comparing.pairing import pair, side_by_side
from tidemill.producer.comparing.sampling import Change

pytestmark = pytest.mark.usefixtures("database")

Rows = Sequence[Mapping[str, Any]]


def stored(rows: Rows, **options: Any) -> str:
    return ask(list(rows), new=True, **options).id


def texts(*prompts: str) -> list[dict[str, str]]:
    return [{"prompt": prompt} for prompt in prompts]


def with_ids(ids: str, prompt: str) -> list[dict[str, str]]:
    return [{"custom_id": id_, "prompt": f"{prompt} {id_}"} for id_ in ids]


@pytest.mark.parametrize(
    ("a", "b", "way", "pairs", "only"),
    [
        (with_ids("xyz", "old"), with_ids("zxq", "new"), "custom_id", [(1, 2), (3, 1)], (1, 1)),
        (texts("a", "b", "c"), texts("c", "b"), "columns", [(2, 2), (3, 1)], (1, 0)),
        (texts("a", "b", "a", "a"), texts("a", "a", "b"), "columns", [(1, 1), (2, 3), (3, 2)], (1, 0)),
        ([{"n": 1, "prompt": "a"}], [{"prompt": "a", "n": 1.0}], "columns", [(1, 1)], (0, 0)),
        ([{"n": 1, "prompt": "a"}], [{"n": 2, "prompt": "a"}], "asked", [(1, 1)], (0, 0)),
        (texts("a", "b"), texts("c", "d"), "position", [(1, 1), (2, 2)], (0, 0)),
    ],
)
def test_rows_are_matched_in_the_way_that_matches_most(
    a: Rows, b: Rows, way: str, pairs: list[tuple[int, int]], only: tuple[int, int]
) -> None:
    first, second = stored(a), stored(b)
    matched = pair(first, second)
    assert (matched.way, matched.only, len(matched)) == (way, only, len(pairs))
    mirrored = {(b, a): (way, only[::-1]) for a, b in pairs}
    back = pair(second, first)
    assert dict.fromkeys(numbers(back.batches, back.ids), (back.way, back.only)) == mirrored
    assert numbers(matched.batches, matched.ids) == pairs


def numbers(batches: tuple[str, str], ids: Any) -> list[tuple[int, int]]:
    """The row numbers of pairs."""
    with reading() as connection:
        rows = connection.execute(select(jobs.c.id, jobs.c.position).where(jobs.c.batch_id.in_(batches)))
        position = {row.id: row.position + 1 for row in rows}
    return [(position[a], position[b]) for a, b in zip(*(each.tolist() for each in ids), strict=True)]


def test_answers_stand_side_by_side_with_what_was_asked() -> None:
    a = stored([{"prompt": "a", "n": 1}, {"prompt": "b", "n": 2}])
    b = stored([{"prompt": "a", "n": 1}, {"prompt": "b", "n": 2}], template="Is {prompt} so?")
    pairs = pair(a, b)
    jobs_a = take(pairs.ids[0].tolist())
    put(success(jobs_a[0]), failure(jobs_a[1]))
    (page,) = side_by_side(pairs)
    assert [each.asked for each in page] == [("a", "Is a so?"), ("b", "Is b so?")]
    assert [[answer.status for answer in each.answers] for each in page] == [
        ["succeeded", "queued"],
        ["failed", "queued"],
    ]
    assert (page[1].number, page[1].columns, page[1].custom_id) == (2, {"prompt": "b", "n": 2}, None)
    assert page[0].answers[0].text
    assert [each.number for each in next(side_by_side(pairs.at([1])))] == [2]


def test_what_cannot_be_compared_is_said_in_a_sentence() -> None:
    first, other = stored(texts("a", "b", "c")), stored(texts("d"))
    body = {"model": "m", "messages": [{"role": "user", "content": "a"}]}
    lines = stored([{"method": "POST", "url": "/v1/chat/completions", "body": body}])
    for batch_id in (first, lines):
        put(*map(success, take(pair(batch_id, batch_id).ids[0].tolist())))
    asking = {"model": "m"}
    cases: list[tuple[str, Terms, str]] = [
        (first, Terms("nowhere"), "There is no batch 'nowhere'"),
        (first, Terms(other), "have no row in common"),
        (first, Terms(first), f"Both are {first}"),
        (first, Terms(add_batch("t", kind="train")), "t is of the kind train"),
        (first, Terms(), "Name a second batch, or what to ask otherwise"),
        (first, Terms(other, Change(asking)), "Two batches are compared as they are"),
        (first, Terms(None, Change({}, None, "{nothing}")), "there is no column 'nothing'; there are 'prompt'"),
        (first, Terms(None, Change({"detail": "low"})), "is about pictures"),
        (lines, Terms(None, Change({"temperature": 1})), "only --model and --system can be changed"),
        (first, Terms(None, Change({}, "nobody")), "There is no assistant 'nobody'"),
        (first, Terms(other, output="page.pdf"), "name the comparison .html, .jsonl or .csv"),
        (first, Terms(other, output="nowhere/page.html"), "cannot be written"),
        (first, Terms(other, output="nowhere/page.csv"), "cannot be written"),
    ]
    for batch, terms, sentence in cases:
        with pytest.raises(InputError, match=sentence):
            diff(batch, terms)
