"""Prompts are the rows of an order, typed or read from a file; their batch is found again by the one or the other."""

from pathlib import Path

import pytest

from tests.rows import MODEL
from tidemill.models.errors import InputError
from tidemill.models.options import Options
from tidemill.producer.asking.prompts import Prompts, order_for
from tidemill.producer.batches.order import Order, Rows
from tidemill.producer.intake.tables import ReadOptions

OPTIONS = Options(MODEL)


def asked(rows: Rows) -> list[str]:
    return [row.request["prompt"] for chunk in rows.chunks(OPTIONS, lambda _note: None) for row in chunk]


def test_one_that_was_typed_is_told_alone_and_a_file_never_is(tmp_path: Path) -> None:
    path = tmp_path / "one.txt"
    path.write_text("Why?\n")
    typed, read = Prompts(["Why?"]), Prompts(str(path))
    assert asked(typed) == asked(read) == ["Why?"]
    assert (typed.kind, typed.is_one, read.is_one, Prompts(["a", "b"]).is_one) == ("ask", True, False, False)


def test_a_limit_leaves_some_out() -> None:
    rows = Prompts(["a", "b", "c"], ReadOptions(limit=2))
    assert asked(rows) == ["a", "b"]
    assert rows.is_partial and not Prompts(["a"]).is_partial


def test_the_file_that_is_read_is_named_and_a_pipe_is_none() -> None:
    assert Prompts("a.txt").files == Prompts(Path("a.txt")).files == [Path("a.txt")]
    assert Prompts("-").files == Prompts(["a.txt"]).files == []


def test_a_bad_row_of_a_small_file_is_found_before_the_first_row_comes(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "a"}\n' * 100 + "{nonsense\n")
    with pytest.raises(InputError, match="line 101"):
        next(Prompts(path).chunks(OPTIONS, lambda _note: None))


@pytest.mark.usefixtures("database")
def test_the_order_of_a_prompt_is_known_by_it_and_that_of_a_file_by_its_path(tmp_path: Path) -> None:
    first, same, other = (order_for(prompt, None, {}) for prompt in ("a", "a", "b"))
    assert first.source_name == same.source_name != other.source_name
    of_file = order_for(None, str(tmp_path / "p.txt"), {})
    assert (of_file.name, of_file.source_name) == ("p", str(tmp_path / "p.txt"))
    assert order_for(None, "-", {}).source_name is None
    assert order_for(None, "-", {}, name="mine").source_name == "mine"


@pytest.mark.parametrize(("prompt", "input_"), [(None, None), ("a", "p.txt")])
def test_a_prompt_or_a_file_is_asked_and_never_both_or_none(prompt: str | None, input_: str | None) -> None:
    with pytest.raises(InputError, match="Give a prompt, or a file" if prompt is None else "and the file p.txt"):
        order_for(prompt, input_, {})


@pytest.mark.usefixtures("database")
def test_a_dry_run_prices_them() -> None:
    order = Order(OPTIONS, Prompts(["a", "b"]))
    assert order.rows.estimate(order).text().startswith(f"2 rows for {MODEL}: 0 done, 2 to send")
