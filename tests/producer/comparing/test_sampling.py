"""A sample is the same few rows each time, asked with the change that was said and no other."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from tests.rows import MODEL, put, success, take
from tidemill import ask
from tidemill.models.errors import InputError
from tidemill.producer.asking import assistants
from tidemill.producer.batches.progress import resolve
from tidemill.producer.comparing.diff import Projection, Terms, diff
from tidemill.producer.comparing.pairing import pair
from tidemill.producer.comparing.sampling import Change, Sample, order_of

pytestmark = pytest.mark.usefixtures("database")


def texts(*prompts: str) -> list[dict[str, str]]:
    return [{"prompt": prompt} for prompt in prompts]


def answer(batch_id: str) -> None:
    put(*map(success, take(pair(batch_id, batch_id).ids[0].tolist())))


def answered(rows: list[dict[str, Any]], **options: Any) -> str:
    batch_id = ask(rows, new=True, **options).id
    answer(batch_id)
    return batch_id


def test_a_sample_is_the_same_each_time_and_a_larger_one_has_the_smaller() -> None:
    batch_id = ask(texts(*(f"question {n}" for n in range(60)))).id
    batch = resolve(batch_id)
    with pytest.raises(InputError, match="no row that was answered"):
        order_of(batch, Change({"model": "m"}), 5, 0)
    answer(batch_id)

    def chosen(rows: int, seed: int = 0) -> list[int]:
        sample = order_of(batch, Change({"model": "m"}), rows, seed).rows
        assert isinstance(sample, Sample)
        return list(sample.ids.tolist())

    assert chosen(10) == chosen(10) == sorted(chosen(10))
    assert set(chosen(10)) < set(chosen(20))
    assert chosen(10) != chosen(10, seed=1)
    assert len(chosen(100)) == 60


URL = "/v1/chat/completions"
RUDE, KIND, WHY = (
    {"role": role, "content": text} for role, text in (("system", "rude"), ("system", "kind"), ("user", "why"))
)


@pytest.mark.parametrize(
    ("row", "change", "request_"),
    [
        ({"prompt": "a", "n": 1.0}, Change({"model": "m"}), {"prompt": "a"}),
        ({"custom_id": "x", "prompt": "a"}, Change({}, None, "{custom_id}: {prompt}"), {"prompt": "x: a"}),
        ({"messages": [RUDE, WHY]}, Change({"model": "m"}), {"messages": [RUDE, WHY]}),
        ({"messages": [RUDE, WHY]}, Change({"system": "kind"}), {"messages": [WHY]}),
        ({"messages": [RUDE, WHY]}, Change({"system": ""}), {"messages": [WHY]}),
        (
            {"model": "old", "messages": [RUDE, WHY]},
            Change({"model": MODEL}),
            {"model": MODEL, "messages": [RUDE, WHY]},
        ),
        (
            {"model": "old", "messages": [RUDE, WHY]},
            Change({"system": "kind"}),
            {"model": "old", "messages": [KIND, WHY]},
        ),
        ({"model": "old", "messages": [RUDE, WHY]}, Change({"system": ""}), {"model": "old", "messages": [WHY]}),
    ],
)
def test_a_row_is_asked_with_the_change(row: dict[str, Any], change: Change, request_: Mapping[str, Any]) -> None:
    is_line = "model" in row
    batch = resolve(answered([{"method": "POST", "url": URL, "body": row} if is_line else row]))
    order = order_of(batch, change, 5, 0)
    ((asked,),) = order.rows.chunks(order.options, print)
    assert asked.request == ({"url": URL, "body": request_} if is_line else request_)
    assert order.options.system == (change.options.get("system") or None)


def test_an_assistant_changes_what_it_says_and_the_command_goes_first() -> None:
    batch = resolve(answered(texts("a"), system="rude", temperature=0.5, max_tokens=9, params={"seed": 7}))
    assistants.add("support", "kind", "its-model", {"temperature": 1.0})
    options = order_of(batch, Change({"model": "m", "params": {"top_p": 1}}, "support"), 5, 0).options
    assert (options.model, options.system, options.temperature, options.max_tokens) == ("m", "kind", 1.0, 9)
    assert options.params == {"seed": 7, "top_p": 1}


def test_what_a_sample_will_cost_is_said_and_nothing_sent(capsys: pytest.CaptureFixture[str]) -> None:
    batch = answered(texts(*(f"question {n}" for n in range(60))))
    change = Change({"model": "gpt-4o-mini", "max_tokens": 60})
    diff(batch, Terms(None, change, sample=8, dry_run=True))
    said = capsys.readouterr().out
    assert "8 of 60 rows for gpt-4o-mini: 8 calls." in said
    assert said.endswith("Nothing was sent.\n")
    diff(batch, Terms(None, change, sample=8, dry_run=True, as_json=True))
    told = json.loads(capsys.readouterr().out)
    assert (told["rows"], told["to_send"], told["most_output_tokens"], told["batch"]) == (8, 8, 480, None)
    assert 0 < told["likely_usd"] < told["most_usd"]


def test_a_batch_that_was_cheaper_by_its_route_is_not_shown_as_if_the_change_were_dearer() -> None:
    online = Projection(rows=100, sample=10, sample_usd=0.2, before_usd=2.0)
    assert online.text() == "With the change all rows would cost about $2.00; before, all 100 rows cost $2.00."
    by_batch = online._replace(before_usd=1.0, saved_usd=1.0)
    assert by_batch.text().endswith("all 100 rows cost $1.00, $1.00 less than online, where the sample was asked.")
