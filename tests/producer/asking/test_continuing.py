"""A prompt becomes the next turn of its dialogue: the same one while it is not answered, a new one after that."""

from pathlib import Path
from typing import Any, Unpack

import pytest
from sqlalchemy import select

from tests.conftest import UseEnvironment
from tests.rows import (
    add_batch,
    add_jobs,
    answer,
    batch_row,
    change_batch,
    dialogue,
    failure,
    job_row,
    put,
    set_batch,
    set_job,
    success,
    take,
    take_one,
)
from tidemill import ask
from tidemill.models.answers import Answer, Message
from tidemill.models.database import reading
from tidemill.models.errors import InputError, OptionError
from tidemill.models.options import AskOptions, Options
from tidemill.models.scope import Scope
from tidemill.models.settings import settings
from tidemill.models.tables import jobs
from tidemill.producer.asking import assistants
from tidemill.producer.asking.estimate import estimate
from tidemill.producer.asking.prompts import Prompts, order_for
from tidemill.producer.batches.order import Order
from tidemill.producer.batches.stored_rows import latest_turn
from tidemill.producer.batches.submit import open_batch, submit

MODEL = "gpt-4"  # takes 8,192 tokens
JSON_SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}, "strict": True}}
FLAT = {"type": "json_schema", "name": "x", "schema": {"type": "object"}}


@pytest.fixture(autouse=True)
def _own_server(database: str, use_environment: UseEnvironment) -> None:
    """Its models have no dates of OpenAI's."""
    use_environment({"OPENAI_BASE_URL": "http://localhost:8000/v1"})


@pytest.fixture
def root() -> int:
    """A dialogue of one turn."""
    options = Options(MODEL, system="Be kind.", temperature=0.5, params={"seed": 1}, rpm=100)
    add_batch("root", options=options.to_json(), provider=settings().provider)
    (job_id,) = add_jobs(1, "root")
    put(success(take_one(job_id)))
    return job_id


def order(
    dialogue_id: int,
    prompt: str | None = "and then?",
    input_: str | None = None,
    *,
    new: bool = False,
    **options: Unpack[AskOptions],
) -> Order:
    return order_for(prompt, input_, options, dialogue=dialogue_id, new=new)


def submitted(turns: Order) -> tuple[str, list[int]]:
    """The batch of an order that was submitted, and its open jobs."""
    opened = open_batch(turns)
    submit(opened)
    open_ids = select(jobs.c.id).where(jobs.c.batch_id == opened.batch_id, jobs.c.state == "queued").order_by(jobs.c.id)
    with reading() as connection:
        return opened.batch_id, list(connection.scalars(open_ids))


def answer_turn(job_id: int) -> None:
    job = take_one(job_id)
    spoken = (Message("user", job.request["prompt"]), Message("assistant", "well"))
    put(success(job, answer=Answer(MODEL, "stop", spoken, job.dialogue_id)))


# --- which turn it is ---


def test_the_same_prompt_is_the_same_turn_until_it_is_answered_and_then_a_new_one(root: int) -> None:
    batch, (turn,) = submitted(order(root))
    assert job_row(turn).dialogue_id == root
    assert submitted(order(root)) == (batch, [turn])  # open
    put(failure(take_one(turn)))
    assert submitted(order(root)) == (batch, [turn])  # failed
    answer_turn(turn)
    again, (next_turn,) = submitted(order(root))
    assert again != batch and next_turn > turn
    assert submitted(order(turn)) == (again, [next_turn])  # any turn names the dialogue


def test_another_prompt_another_dialogue_and_no_dialogue_are_other_turns(root: int) -> None:
    plain = Order(Options(MODEL), Prompts(["and then?"]))  # a frame without a name, which is known by its rows
    batches = {submitted(plain)[0]}
    batches.add(submitted(order(root, model=MODEL))[0])
    batches.add(submitted(order(root, "why?"))[0])
    (other,) = add_jobs(1, "root", prefix="other")
    put(success(take_one(other)))
    batches.add(submitted(order(other))[0])
    assert len(batches) == 4


def test_a_turn_that_failed_is_a_new_one_once_others_were_answered(root: int) -> None:
    _, (failed,) = submitted(order(root, "one"))
    put(failure(take_one(failed)))
    _, (other,) = submitted(order(root, "two"))
    answer_turn(other)
    _, (again,) = submitted(order(root, "one"))
    assert again > other  # so that it is asked with what was said meanwhile
    assert job_row(failed).state == "failed"


def test_a_turn_that_is_open_is_the_same_one_whatever_was_answered(root: int) -> None:
    _, (first,) = submitted(order(root, "one"))
    batch, (second,) = submitted(order(root, "two"))
    answer_turn(first)
    assert submitted(order(root, "two")) == (batch, [second])


def test_rows_of_a_file_continue_where_they_broke_off_and_are_new_once_all_are_answered(
    root: int, tmp_path: Path
) -> None:
    path = tmp_path / "turns.txt"
    path.write_text("one\ntwo\nthree\n")
    batch, turns = submitted(order(root, None, str(path)))
    assert [job_row(turn).request["prompt"] for turn in turns] == ["one", "two", "three"]
    answer_turn(turns[0])
    put(failure(take_one(turns[1])))
    assert submitted(order(root, None, str(path))) == (batch, turns[1:])
    answer_turn(turns[1])
    answer_turn(turns[2])
    again, new_turns = submitted(order(root, None, str(path)))
    assert again != batch and len(new_turns) == 3


def test_new_asks_another_turn_at_once(root: int) -> None:
    batch, _ = submitted(order(root))
    assert submitted(order(root, new=True))[0] != batch


def test_python_asks_the_same_turns(root: int) -> None:
    batch = ask(["and then?"], dialogue=root)
    assert submitted(order(root))[0] == batch.id
    assert batch.scope == Scope(batch.id, 1, root)


# --- how it is asked ---


def test_a_turn_is_asked_as_the_dialogue_began_but_for_what_is_said(root: int) -> None:
    options = order(root, temperature=0.0, params={"user": "ann"}).options
    assert options == Options(
        MODEL, temperature=0.0, params={"seed": 1, "user": "ann"}, rpm=100, dialogue=root
    )  # its instructions are in its messages


def test_a_dialogue_that_a_batch_line_began_keeps_the_lines_model() -> None:
    add_batch("lines")
    (job_id,) = add_jobs(1, "lines")
    set_job(job_id, request={"url": "/v1/responses", "body": {"model": "gpt-4o", "input": "q"}})
    put(success(take_one(job_id)))
    options = order(job_id).options
    assert (options.model, options.endpoint) == ("gpt-4o", "responses")


@pytest.mark.parametrize(
    ("url", "body", "continued"),
    [
        (
            "/v1/chat/completions",
            {"temperature": 0.5, "max_completion_tokens": 9, "tools": [1], "n": 1, "response_format": JSON_SCHEMA},
            {"temperature": 0.5, "max_tokens": 9, "schema": {"type": "object"}, "params": {"tools": [1], "n": 1}},
        ),
        (
            "/v1/responses",
            {"reasoning": {"effort": "low"}, "max_output_tokens": 9, "text": {"format": FLAT}, "instructions": "Hi."},
            {"reasoning_effort": "low", "max_tokens": 9, "schema": {"type": "object"}},
        ),
        (
            "/v1/responses",
            {"reasoning": {"effort": "low", "summary": "auto"}, "previous_response_id": "r", "temperature": "hot"},
            {"params": {"reasoning": {"effort": "low", "summary": "auto"}, "temperature": "hot"}},
        ),
    ],
)
def test_a_dialogue_that_a_batch_line_began_is_asked_with_the_lines_tools_and_options(
    url: str, body: dict[str, Any], continued: dict[str, Any]
) -> None:
    add_batch("lines")
    (job_id,) = add_jobs(1, "lines")
    set_job(job_id, request={"url": url, "body": {"model": "gpt-4o", "messages": [], "input": "q"} | body})
    put(success(take_one(job_id)))
    endpoint = "responses" if "responses" in url else "chat"
    unread: dict[str, Any] = (
        {"input": "q"} if endpoint == "chat" else {"messages": []}
    )  # no field of this endpoint: sent as it was
    expected = {"params": {}, **continued}
    expected["params"] = unread | expected["params"]
    assert order(job_id).options == Options("gpt-4o", endpoint, dialogue=job_id, **expected)


def test_a_prompt_after_a_tool_call_says_what_the_model_waits_for(
    root: int, capsys: pytest.CaptureFixture[str]
) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    (turn,) = submitted(order(root))[1]
    said = Message.of({"role": "assistant", "content": None, "tool_calls": [call]})
    put(success(take_one(turn), answer=Answer(MODEL, "tool_calls", (Message("user", "q"), said), root)))
    order(root)
    assert "the model waits for what weather (call_1) gave" in capsys.readouterr().err


def test_what_a_preset_asks_of_a_picture_is_not_asked_of_the_next_turns() -> None:
    options = Options(MODEL, prompt="Tags?", schema={"type": "object"}, detail="low", max_side=512)
    add_batch("pictures", kind="describe", options=options.to_json())
    (job_id,) = add_jobs(1, "pictures")
    put(success(take_one(job_id)))
    assert order(job_id).options == Options(MODEL, detail="low", dialogue=job_id)


def test_a_dialogue_continues_with_the_assistant_that_brought_its_last_instructions(root: int) -> None:
    assistants.add("pirate", "Arr. " * 50, None, {})
    changed = order_for("and then?", None, {}, assistant="pirate", dialogue=root)
    _, (turn,) = submitted(changed)
    job = take_one(turn)
    shown = Message("system", "Arr. " * 50)
    put(success(job, answer=Answer(MODEL, "stop", (shown, *answer("well", "and then?").messages), root)))
    continued = order(turn, "and now?")
    assert (continued.assistant_id, continued.options.system) == (changed.assistant_id, None)
    replaced = estimate(order(root, system="Be kind.")).input_tokens
    assert estimate(order(root)).input_tokens - replaced > 50  # not both of the instructions are counted


# --- what cannot be asked ---


def test_a_dialogue_that_is_not_there_is_said() -> None:
    with pytest.raises(InputError, match=r"There is no dialogue 7\. `tidemill dialogues list` shows"):
        order(7)
    with pytest.raises(InputError, match=r"There is no dialogue 1000000000000000000000000000000\."):
        ask(["x"], dialogue=10**30)


@pytest.mark.parametrize("value", [True, "17", 1.0])
def test_what_is_no_number_of_a_dialogue_is_an_error(value: Any) -> None:
    with pytest.raises(InputError, match=f"dialogue is {value!r}; it must be the whole number of a dialogue"):
        ask(["x"], dialogue=value)


def test_trimming_is_for_dialogues() -> None:
    with pytest.raises(OptionError, match="trim='oldest': it is about the turns of a dialogue"):
        order_for("x", None, {"trim": "oldest"}, name=None)


def test_a_dialogue_too_long_for_its_model_is_an_error_with_the_counts_unless_it_is_trimmed(root: int) -> None:
    _, (turn,) = submitted(order(root))
    job = take_one(turn)
    put(success(job, answer=Answer(MODEL, "stop", answer("long " * 5_000).messages, root)))
    with pytest.raises(
        InputError, match=r"5,0\d\d tokens so far; .* leave 4,000 for the answer, and gpt-4 takes 8,192"
    ):
        order(root, max_tokens=4_000)
    assert order(root, max_tokens=1_000).options.max_tokens == 1_000
    assert order(root, max_tokens=4_000, trim="oldest").options.trim == "oldest"
    assert order(root, max_tokens=4_000, model="gpt-6-luna").options.model == "gpt-6-luna"
    assert estimate(order(root)).input_tokens > 5_000  # a dry run counts what was said


@pytest.mark.parametrize(("change", "why"), [("pause", "which is paused"), ("move", "which is for other.test")])
def test_an_open_turn_that_nobody_will_answer_is_said(root: int, change: str, why: str) -> None:
    batch, _ = submitted(order(root, "left open"))
    if change == "pause":
        change_batch("pause", batch)
    else:
        set_batch(batch, provider="other.test")
    with pytest.raises(InputError, match=f"open turn in the batch {batch}, {why}: .*`tidemill cancel {batch}`"):
        order(root)
    change_batch("cancel", batch)
    assert order(root).options.dialogue == root


@pytest.mark.parametrize("database", ["postgres"], indirect=True)
def test_an_open_turn_for_another_server_is_waited_for_where_workers_serve_it(
    root: int, use_environment: UseEnvironment
) -> None:
    batch, _ = submitted(order(root, "left open"))
    set_batch(batch, provider="other.test")
    use_environment({"TIDEMILL_BROKER_URL": "redis://127.0.0.1:1/0"})
    assert order(root).options.dialogue == root


def test_the_batch_and_its_dialogues_are_named_after_what_they_continue(root: int) -> None:
    batch, (turn,) = submitted(order(root))
    assert batch.startswith(f"dialogue-{root}-")
    assert batch_row(batch).options["dialogue"] == root
    answer_turn(turn)
    assert dialogue(turn) == [("user", "and then?"), ("assistant", "well")]
    assert latest_turn(batch) == turn
    assert take([turn]) == []
