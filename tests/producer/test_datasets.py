"""Examples become files with nothing lost, nothing parted that belongs together, and the same bytes every time."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from producer.datasets import Dataset, How, build
from producer.examples import Bad, Example, Place


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


def found(dataset: Dataset) -> dict[str, list[str]]:
    findings = dataset.report.findings
    return {code: [str(each.place) for each in findings.kept[code]] for code in findings.counts}


def make(folder: Path, examples: Iterable[Example | Bad], **how: Any) -> Dataset:
    folder.mkdir(exist_ok=True)
    return build(examples, How(**how), folder)


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
    # On every machine and in every version: whoever trains again must get the same files.
    assert once.train.sha256.startswith("089d73a96d6ea7c3")


def test_a_small_share_takes_at_least_one_and_one_prompt_cannot_be_split(tmp_path: Path) -> None:
    small = make(tmp_path / "a", questions(12), validation=0.01)
    assert small.validation is not None
    assert small.validation.examples == 1
    single = make(tmp_path / "b", questions(12, copies=12), validation=0.1)
    assert single.validation is None
    assert "no_split" in found(single)
    two = make(tmp_path / "c", questions(12, copies=6), validation=0.1)
    assert two.validation is not None
    assert two.validation.examples == 6


def test_faulty_examples_are_in_no_file_and_stop_unless_they_are_skipped(tmp_path: Path) -> None:
    bad: list[Example | Bad] = [
        example(50, "p", ""),
        Bad(Place("t.csv", 51, "row"), "is broken"),
        example(52, "p\ud83d", "a reply."),
    ]
    dataset = make(tmp_path / "a", [*questions(20), *bad])
    assert dataset.train.examples == 20
    assert found(dataset).keys() == {"empty_text", "bad_row", "bad_text", "few"}
    assert dataset.report.findings.bad_rows == 3
    assert dataset.report.stops()
    assert not make(tmp_path / "b", [*questions(20), *bad], skip_bad_rows=True).report.stops()


def test_fewer_than_ten_examples_stop_it_even_if_bad_rows_are_skipped(tmp_path: Path) -> None:
    assert not make(tmp_path, questions(10)).report.stops()
    dataset = make(tmp_path, questions(9), skip_bad_rows=True)
    assert found(dataset) == {"too_few": ["None"]}
    assert dataset.report.stops()


def test_nothing_at_all_is_said_as_well(tmp_path: Path) -> None:
    dataset = make(tmp_path, [], validation=0.5)
    assert (dataset.train.examples, dataset.validation) == (0, None)
    assert "too few" in dataset.report.text()
    json.dumps(dataset.report.to_json())


def test_duplicates_and_contradictions_name_both_places(tmp_path: Path) -> None:
    rows = [
        *questions(20),
        example(30, "Question 3 ", "the answer to 3 is long enough."),
        example(31, "question 4", "another answer to four."),
        example(32, "question 5", "an answer not to give.", weight=0),
    ]
    dataset = make(tmp_path, rows)
    whats = {each.code: each.what for each in dataset.report.findings}
    assert found(dataset) | {"few": []} == {
        "duplicate": ["t.csv row 30"],
        "conflict": ["t.csv row 31"],
        "teaches_nothing": ["t.csv row 32"],
        "few": [],
    }
    assert (whats["duplicate"], whats["conflict"]) == ("the same as row 5", "row 6 replies differently")
    assert not dataset.report.stops()
    assert dataset.report.stops(strict=True)


def test_of_many_findings_the_first_thousand_are_kept_and_all_are_counted(tmp_path: Path) -> None:
    rows = (example(number + 2, "the same question", "the same answer, always.") for number in range(3_000))
    findings = make(tmp_path, rows).report.findings
    assert findings.counts["duplicate"] == 2_999
    assert len(findings.kept["duplicate"]) == 1_000
    assert findings.kept["duplicate"][0].place == Place("t.csv", 3, "row")


def test_a_validation_file_is_kept_apart_and_leaks_are_found(tmp_path: Path) -> None:
    check = [example(2, "QUESTION 7", "seven, of course."), example(3, "something new", "a new reply.")]
    dataset = build(questions(20), How(), tmp_path, validation=check)
    assert dataset.validation is not None
    assert (dataset.train.examples, dataset.validation.examples) == (20, 2)
    assert found(dataset)["leak"] == ["t.csv row 2"]
    assert "conflict" not in found(dataset)


def test_a_long_reply_without_an_end_looks_cut_off_and_a_short_one_does_not(tmp_path: Path) -> None:
    cut = [
        example(40, "p", "This is a reply that goes on and on for very much longer than the others and then it st" * 3)
    ]
    assert found(make(tmp_path, [*questions(20), *cut]))["cut_off"] == ["t.csv row 40"]
    assert "cut_off" not in found(make(tmp_path, [*questions(20), example(41, "p", "No full stop here")]))


def test_replies_without_a_full_stop_at_any_length_have_a_style(tmp_path: Path) -> None:
    rows = [example(number, f"q {number}", "word " * (10 + number)) for number in range(60)]
    assert "cut_off" not in found(make(tmp_path, rows))


def test_labels_are_neither_short_nor_cut_off(tmp_path: Path) -> None:
    labels = [example(number, f"review {number}", ("positive", "negative")[number % 2]) for number in range(60)]
    assert found(make(tmp_path, labels)) == {}


def test_a_stub_among_long_replies_and_one_reply_for_all_are_found(tmp_path: Path) -> None:
    long = [
        example(n, f"q {n}", f"{n}. " + "This is a reply with a good number of words in it. " * 3) for n in range(60)
    ]
    assert found(make(tmp_path, [*long, example(99, "p", "No")])) == {"short_reply": ["t.csv row 99"]}
    assert found(make(tmp_path, [example(n, f"q {n}", "Hello there.") for n in range(60)])) == {
        "same_replies": ["None"]
    }


def test_an_example_beyond_the_model_s_context_is_refused(tmp_path: Path) -> None:
    long = [*questions(60), example(99, "p", "word " * 66_000)]
    assert found(make(tmp_path, long)) == {"too_long": ["t.csv row 99"]}
    assert "too_long" not in found(make(tmp_path, long, model="a-model-of-my-own"))


def test_tokens_are_those_of_content_roles_and_format(tmp_path: Path) -> None:
    rows = [example(number, "hello world", "hello world") for number in range(10)]
    assert make(tmp_path, rows).train.tokens == 10 * (2 + 2 + 2 * 4 + 3)
