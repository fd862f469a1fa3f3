"""Examples become files with nothing lost, nothing split that belongs together, and the same bytes every time."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tidemill.producer.training.datasets import Dataset, DatasetOptions, build
from tidemill.producer.training.examples import BadRow, Example, Place


def example(number: int, prompt: str, reply: str, **message: Any) -> Example:
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": reply} | message]
    return Example(Place("t.csv", number, "row"), {"messages": messages})


def questions(count: int, copies: int = 1) -> Iterator[Example]:
    for number in range(count):
        yield example(number + 2, f"question {number // copies}", f"the answer to {number} is long enough.")


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def prompts(path: Path) -> list[str]:
    return [each["messages"][0]["content"] for each in lines(path)]


def places_of(dataset: Dataset) -> dict[str, list[str]]:
    findings = dataset.report.findings
    return {code: [str(each.place) for each in findings.kept[code]] for code in findings.counts}


def make(folder: Path, examples: Iterable[Example | BadRow], **options: Any) -> Dataset:
    folder.mkdir(exist_ok=True)
    return build(examples, DatasetOptions(**options), folder)


def test_every_example_is_in_one_part_in_the_order_of_the_input(tmp_path: Path) -> None:
    dataset = make(tmp_path, questions(200), validation=0.1)
    assert dataset.validation is not None
    train, check = prompts(dataset.train.path), prompts(dataset.validation.path)
    assert (len(train), len(check)) == (180, 20) == (dataset.train.examples, dataset.validation.examples)
    for part in (train, check):
        assert part == sorted(part, key=lambda prompt: int(prompt.split()[1]))
    assert set(train) | set(check) == {f"question {number}" for number in range(200)}
    for part_of in (dataset.train, dataset.validation):
        assert part_of.sha256 == hashlib.sha256(part_of.path.read_bytes()).hexdigest()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["train.jsonl", "validation.jsonl"]


def test_the_same_prompt_is_never_on_both_sides(tmp_path: Path) -> None:
    dataset = make(tmp_path, questions(300, copies=3), validation=0.2)
    assert dataset.validation is not None
    assert dataset.validation.examples == 60
    assert not set(prompts(dataset.train.path)) & set(prompts(dataset.validation.path))


def test_the_split_is_the_seed_s_and_the_data_s_alone(tmp_path: Path) -> None:
    once = make(tmp_path / "a", questions(200), validation=0.1)
    again = make(tmp_path / "b", questions(200), validation=0.1)
    other = make(tmp_path / "c", questions(200), validation=0.1, seed=1)
    assert once.train.sha256 == again.train.sha256 != other.train.sha256
    # On every machine and in every version: who trains again must get the same files.
    assert once.train.sha256.startswith("089d73a96d6ea7c3")


def test_a_small_share_takes_at_least_one_and_one_prompt_cannot_be_split(tmp_path: Path) -> None:
    small = make(tmp_path / "a", questions(12), validation=0.01)
    assert small.validation is not None
    assert small.validation.examples == 1
    single = make(tmp_path / "b", questions(12, copies=12), validation=0.1)
    assert single.validation is None
    assert "no_split" in places_of(single)
    two = make(tmp_path / "c", questions(12, copies=6), validation=0.1)
    assert two.validation is not None
    assert two.validation.examples == 6


def test_faulty_examples_are_in_no_file_and_stop_unless_they_are_skipped(tmp_path: Path) -> None:
    bad: list[Example | BadRow] = [
        example(50, "p", ""),
        BadRow(Place("t.csv", 51, "row"), "is broken"),
        example(52, "p\ud83d", "a reply."),
    ]
    dataset = make(tmp_path / "a", [*questions(20), *bad])
    assert dataset.train.examples == 20
    assert places_of(dataset).keys() == {"empty_text", "bad_row", "bad_text", "few"}
    assert dataset.report.findings.bad_rows == 3
    assert dataset.report.stops()
    assert not make(tmp_path / "b", [*questions(20), *bad], skip_bad_rows=True).report.stops()


def test_fewer_than_ten_examples_stop_it_even_if_bad_rows_are_skipped(tmp_path: Path) -> None:
    assert not make(tmp_path, questions(10)).report.stops()
    dataset = make(tmp_path, questions(9), skip_bad_rows=True)
    assert places_of(dataset) == {"too_few": ["None"]}
    assert dataset.report.stops()


def test_nothing_at_all_is_said_as_well(tmp_path: Path) -> None:
    dataset = make(tmp_path, [], validation=0.5)
    assert (dataset.train.examples, dataset.validation) == (0, None)
    assert "too few" in dataset.report.text()
    json.dumps(dataset.report.to_json())


def test_duplicates_and_contradictions_name_both_places(tmp_path: Path) -> None:
    rows = [
        *questions(20),
        example(30, "question 3 ", "the answer to 3 is long enough."),
        example(31, "question 4", "another answer to four."),
        example(32, "question 5", "an answer not to give.", weight=0),
        example(33, "Question 6", "for the capital letter, another answer."),
    ]
    dataset = make(tmp_path, rows)
    whats = {each.code: each.what for each in dataset.report.findings}
    assert places_of(dataset) | {"few": []} == {
        "duplicate": ["t.csv row 30"],
        "conflict": ["t.csv row 31"],
        "teaches_nothing": ["t.csv row 32"],
        "few": [],
    }
    assert (whats["duplicate"], whats["conflict"]) == ("the same as row 5", "row 6 replies differently")
    assert not dataset.report.stops()
    assert dataset.report.stops(strict=True)


def test_of_many_replies_to_a_prompt_each_later_one_is_named_once_beside_the_first(tmp_path: Path) -> None:
    replies = ("one.", "one.", "two.", "three.", "two.", "one.", "four.")
    rows = [*questions(20), *(example(30 + n, "which?", reply) for n, reply in enumerate(replies))]
    findings = make(tmp_path, rows).report.findings
    assert [(each.place and each.place.line, each.what) for each in findings.kept["conflict"]] == [
        (32, "row 30 replies differently"),
        (33, "row 30 replies differently"),
        (36, "row 30 replies differently"),
    ]
    assert [(each.place and each.place.line, each.what) for each in findings.kept["duplicate"]] == [
        (31, "the same as row 30"),
        (34, "the same as row 32"),
        (35, "the same as row 30"),
    ]


def test_prompts_that_differ_in_their_indentation_are_two(tmp_path: Path) -> None:
    code = [example(30, "if a:\n    b()\nc()", "yes, it is."), example(31, "if a:\n    b()\n    c()", "no, it is not.")]
    assert places_of(make(tmp_path, [*questions(50), *code])) == {}


def test_only_what_has_a_reply_to_learn_counts_towards_the_ten(tmp_path: Path) -> None:
    rows = [*questions(3), *(example(40 + n, f"q {n}", f"nothing to say, {n}.", weight=0) for n in range(12))]
    report = make(tmp_path, rows).report
    assert report.stops()
    sentence = "there are 3 examples to learn from; 12 more examples teach nothing (weight 0)"
    assert [each.what for each in report.findings.kept["too_few"]] == [sentence]
    assert "12 of them teach nothing (weight 0)" in report.text()
    assert report.to_json()["train"]["teaching"] == 3
    one = make(tmp_path, questions(1)).report
    assert [each.what for each in one.findings.kept["too_few"]] == ["there is 1 example to learn from"]


def unrolled(dialogues: int) -> Iterator[Example]:
    """The same dialogues at one, two and three turns."""
    for dialogue in range(dialogues):
        messages = [{"role": "system", "content": "Be kind."}]
        for turn in range(3):
            messages += [{"role": "user", "content": f"turn {turn} of {dialogue}?"}]
            messages += [{"role": "assistant", "content": f"reply {turn} of {dialogue}, at length."}]
            yield Example(Place("t.jsonl", 3 * dialogue + turn + 1), {"messages": list(messages)})


def test_a_dialogue_at_each_of_its_turns_is_on_one_side(tmp_path: Path) -> None:
    dataset = make(tmp_path, unrolled(40), validation=0.2)
    assert dataset.validation is not None
    train, check = (
        {each["messages"][1]["content"] for each in lines(part.path)} for part in (dataset.train, dataset.validation)
    )
    assert (len(train), len(check)) == (32, 8)
    assert not train & check


def test_a_validation_file_leaks_by_the_beginning_of_a_dialogue_too(tmp_path: Path) -> None:
    rows = list(unrolled(20))
    dataset = build(rows[:30] + rows[31:-1], DatasetOptions(), tmp_path, validation=[rows[30], rows[-1]])
    assert places_of(dataset)["leak"] == ["t.jsonl line 31", "t.jsonl line 60"]
    assert {each.what for each in dataset.report.findings.kept["leak"]} == {
        "it begins with the same question as one in the training part"
    }


def test_of_many_findings_the_first_thousand_are_kept_and_all_are_counted(tmp_path: Path) -> None:
    rows = (example(number + 2, "the same question", "the same answer, always.") for number in range(3_000))
    findings = make(tmp_path, rows).report.findings
    assert findings.counts["duplicate"] == 2_999
    assert len(findings.kept["duplicate"]) == 1_000
    assert findings.kept["duplicate"][0].place == Place("t.csv", 3, "row")


def test_a_validation_file_is_kept_apart_and_leaks_are_places_of(tmp_path: Path) -> None:
    check = [example(2, "QUESTION 7", "seven, of course."), example(3, "something new", "a new reply.")]
    dataset = build(questions(20), DatasetOptions(), tmp_path, validation=check)
    assert dataset.validation is not None
    assert (dataset.train.examples, dataset.validation.examples) == (20, 2)
    assert places_of(dataset)["leak"] == ["t.csv row 2"]
    assert "conflict" not in places_of(dataset)


def test_a_long_reply_without_an_end_looks_cut_off_and_a_short_one_does_not(tmp_path: Path) -> None:
    cut = [
        example(40, "p", "This is a reply that goes on and on for very much longer than the others and then it st" * 3)
    ]
    assert places_of(make(tmp_path, [*questions(20), *cut]))["cut_off"] == ["t.csv row 40"]
    assert "cut_off" not in places_of(make(tmp_path, [*questions(20), example(41, "p", "No full stop here")]))


def test_replies_without_a_full_stop_at_any_length_have_a_style(tmp_path: Path) -> None:
    rows = [example(number, f"q {number}", "word " * (10 + number)) for number in range(60)]
    assert "cut_off" not in places_of(make(tmp_path, rows))


def test_labels_are_neither_short_nor_cut_off(tmp_path: Path) -> None:
    labels = [example(number, f"review {number}", ("positive", "negative")[number % 2]) for number in range(60)]
    assert places_of(make(tmp_path, labels)) == {}


def test_a_stub_among_long_replies_and_one_reply_for_all_are_places_of(tmp_path: Path) -> None:
    long = [
        example(n, f"q {n}", f"{n}. " + "This is a reply with a good number of words in it. " * 3) for n in range(60)
    ]
    assert places_of(make(tmp_path, [*long, example(99, "p", "No")])) == {"short_reply": ["t.csv row 99"]}
    assert places_of(make(tmp_path, [example(n, f"q {n}", "Hello there.") for n in range(60)])) == {
        "same_replies": ["None"]
    }


def test_an_example_beyond_the_model_s_context_is_an_error(tmp_path: Path) -> None:
    long = [*questions(60), example(99, "p", "word " * 66_000)]
    assert places_of(make(tmp_path, long)) == {"too_long": ["t.csv row 99"]}
    assert "too_long" not in places_of(make(tmp_path, long, model="a-model-of-my-own"))


def test_tokens_are_those_of_content_roles_and_format(tmp_path: Path) -> None:
    rows = [example(number, "hello world", "hello world") for number in range(10)]
    assert make(tmp_path, rows).train.tokens == 10 * (2 + 2 + 2 * 4 + 3)
