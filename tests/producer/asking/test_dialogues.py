"""Every dialogue can be looked up, found by its words, and taken along, whatever characters it holds."""

import json
from pathlib import Path

import pytest
from sqlalchemy import update

from tests.conftest import RunCli
from tests.rows import MODEL, add_batch, add_jobs, answer, failure, put, success, take, take_one
from tidemill.models.answers import Answer, Message
from tidemill.models.database import writing
from tidemill.models.errors import InputError
from tidemill.models.tables import dialogues as dialogue_table
from tidemill.producer.asking import dialogues
from tidemill.producer.batches.batch import Batch
from tidemill.producer.batches.stored_rows import rows_of
from tidemill.producer.screen import display

pytestmark = pytest.mark.usefixtures("database")

Captured = pytest.CaptureFixture[str]
UGLY = "nul \x00 and half \ud83d, 100% of_it"


def answered(*texts: str, batch_id: str = "b") -> list[int]:
    """A batch with these replies; the ids of their dialogues."""
    add_batch(batch_id)
    claimed = take(add_jobs(len(texts), batch_id))
    put(
        *(
            success(job, answer=answer(text, f"question {i}"))
            for i, (job, text) in enumerate(zip(claimed, texts, strict=True))
        )
    )
    return [job.id for job in claimed]


def judge(dialogue_id: int, sentiment: str) -> None:
    with writing() as connection:
        connection.execute(
            update(dialogue_table)
            .where(dialogue_table.c.id == dialogue_id)
            .values(sentiment=sentiment, sentiment_score=0.5, language="en")
        )


def listed(
    capsys: Captured, words: str | None = None, batch: str | None = None, sentiment: str | None = None
) -> list[int]:
    dialogues.show_list(words, dialogues.Filters(batch, sentiment), 50, as_json=True)
    return [each["id"] for each in json.loads(capsys.readouterr().out)]


def test_a_message_is_shown_found_and_exported_whole(capsys: Captured, tmp_path: Path) -> None:
    call = {"id": "call_é", "type": "function", "function": {"name": "weather", "arguments": '{"at": "Oslo"}'}}
    asked = {"role": "user", "content": [{"type": "text", "text": "Is it cold?"}], "name": "ann"}
    called = {"role": "assistant", "content": None, "tool_calls": [call], "response_items": [1]}
    add_batch()
    (job,) = take(add_jobs(1))
    put(success(job, answer=Answer(MODEL, "tool_calls", (Message.of(asked), Message.of(called)))))
    assert listed(capsys, "weather Oslo") == listed(capsys, "COLD call_é") == [job.id]
    dialogues.show(job.id, as_json=False)
    shown = capsys.readouterr().out
    assert "user:\nIs it cold?\n" in shown and 'assistant:\nweather({"at": "Oslo"})\n' in shown
    assert " unknown" in shown  # there is nothing to judge, and nobody tries
    dialogues.export("-", dialogues.Filters())
    (exported,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert exported["messages"] == [asked, {"role": "assistant", "content": None, "tool_calls": [call]}]
    Batch("b").save(tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_text().splitlines()[0].endswith(",error,tool_calls")
    ((row,),) = rows_of("b")
    assert (json.loads(row["reply"]), row["tool_calls"]) == ([call], [call])


def test_dialogues_are_listed_newest_first_up_to_a_limit(capsys: Captured) -> None:
    ids = answered("one", "two", "three")
    assert listed(capsys) == ids[::-1]
    dialogues.show_list(None, dialogues.Filters(), 2, as_json=True)
    assert len(json.loads(capsys.readouterr().out)) == 2


def test_all_words_must_be_in_a_dialogue_in_any_case_and_any_turn(capsys: Captured) -> None:
    first, second = answered("The SKY is blue", "The sea is blue")
    assert listed(capsys, "blue") == [second, first]
    assert listed(capsys, "sky Blue") == [first]
    assert listed(capsys, "question sky") == [first]  # one in the question, one in the answer
    assert listed(capsys, "green") == []


def test_a_search_goes_from_part_to_part_and_says_how_far_it_is(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    blue = [job for batch in ("a", "b") for job in answered("blue", "blue", "grey", batch_id=batch)[:2]]
    monkeypatch.setattr(dialogues, "_SEARCHED_AT_ONCE", 2)
    monkeypatch.setattr(display, "PLAIN_SECONDS", 0.0)
    dialogues.show_list("BLUE", dialogues.Filters(), 50, as_json=True)
    shown = capsys.readouterr()
    assert [each["id"] for each in json.loads(shown.out)] == blue[::-1]
    assert shown.err.splitlines() == [f"tidemill: {number} dialogues searched" for number in (2, 4, 6)]
    dialogues.show_list("blue", dialogues.Filters(), 3, as_json=True)
    assert [each["id"] for each in json.loads(capsys.readouterr().out)] == blue[:0:-1]
    assert listed(capsys, "blue", batch="a") == blue[1::-1]


def test_signs_of_a_pattern_are_only_characters(capsys: Captured) -> None:
    first, _second = answered("100% of_it", "1000 ofxit")
    assert listed(capsys, "0%") == [first]
    assert listed(capsys, "f_i") == [first]
    assert listed(capsys, "' OR 1=1 --") == []


def test_unstorable_characters_are_found_and_shown_as_they_were(capsys: Captured) -> None:
    first, second = answered("nul \x00 inside", "a noncharacter \ufdd0 too")
    assert listed(capsys, "\x00") == [first]
    assert listed(capsys, "\ufdd0") == [second]
    dialogues.show(first, as_json=True)
    assert json.loads(capsys.readouterr().out)["messages"][-1]["content"] == "nul \x00 inside"


def test_half_a_pair_of_surrogates_reaches_a_script_as_valid_json(run_cli: RunCli) -> None:
    answered(UGLY)
    done = run_cli(["dialogues", "list", "--json"])
    assert done.returncode == 0, done.stderr
    (shown,) = json.loads(done.stdout)
    assert shown["messages"][-1]["content"] == UGLY


def test_dialogues_of_one_batch_or_one_sentiment(capsys: Captured) -> None:
    first, second = answered("a", "b")
    (other,) = answered("c", batch_id="other")
    judge(second, "positive")
    judge(other, "positive")
    assert listed(capsys, batch="other") == [other]
    assert listed(capsys, sentiment="positive") == [other, second]
    assert listed(capsys, sentiment="positive", batch="b") == [second]
    assert first not in listed(capsys, sentiment="positive")
    with pytest.raises(InputError, match="must be one of positive, negative, neutral, unknown"):
        listed(capsys, sentiment="happy")


def test_an_empty_list_says_why(capsys: Captured) -> None:
    dialogues.show_list(None, dialogues.Filters(), 5, as_json=False)
    assert "No dialogues yet." in capsys.readouterr().err
    answered("a")
    dialogues.show_list("zebra", dialogues.Filters(), 5, as_json=False)
    assert "No dialogue fits." in capsys.readouterr().err


def test_the_table_shows_question_and_answer_without_control_characters(capsys: Captured) -> None:
    answered("an answer \x1b[31mred\x1b[0m")
    dialogues.show_list(None, dialogues.Filters(), 5, as_json=False)
    out = capsys.readouterr().out
    assert "question 0" in out and "an answer" in out
    assert "\x1b" not in out


def test_one_dialogue_is_shown_with_its_calls_and_what_they_cost(capsys: Captured) -> None:
    add_batch()
    (job_id,) = add_jobs(1)
    put(failure(take_one(job_id), "retried", error="overloaded"))
    put(success(take_one(job_id), "because"))
    dialogues.show(job_id, as_json=False)
    out = capsys.readouterr().out
    for part in (
        f"dialogue {job_id}",
        "user:\nwhy?",
        "assistant:\nbecause",
        "10 + 5 tokens",
        "2 call(s)",
        "overloaded",
    ):
        assert part in out
    dialogues.show(job_id, as_json=True)
    shown = json.loads(capsys.readouterr().out)
    assert [call["outcome"] for call in shown["attempts"]] == ["retried", "succeeded"]
    assert (shown["custom_id"], shown["messages"][-1]) == ("id-r0", {"role": "assistant", "content": "because"})


def test_a_dialogue_that_does_not_exist_is_said() -> None:
    with pytest.raises(InputError, match="There is no dialogue 7"):
        dialogues.show(7, as_json=False)


def test_an_export_holds_every_dialogue_in_order_over_several_pages(tmp_path: Path) -> None:
    ids = answered(*(f"reply {i}" for i in range(1_100)))
    path = tmp_path / "all.jsonl"
    dialogues.export(str(path), dialogues.Filters())
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["id"] for line in lines] == ids
    assert [line["messages"][-1]["content"] for line in lines] == [f"reply {i}" for i in range(1_100)]
    assert [each.name for each in tmp_path.iterdir() if each.name.endswith("part")] == []


def test_an_export_keeps_every_character_and_one_line_each(tmp_path: Path) -> None:
    answered(UGLY, "two\nlines\u2028three")
    path = tmp_path / "all.jsonl"
    dialogues.export(str(path), dialogues.Filters("b"))
    first, second = (json.loads(line) for line in path.read_bytes().splitlines())
    assert first["messages"][-1]["content"] == UGLY
    assert second["messages"][-1]["content"] == "two\nlines\u2028three"


def test_an_export_to_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    answered("a")
    with pytest.raises(InputError, match=r"cannot be written: .*\. Choose another place with -o"):
        dialogues.export(str(tmp_path / "no such folder" / "x.jsonl"), dialogues.Filters())
