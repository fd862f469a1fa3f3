"""The report says to a beginner what was read, what will be learned, what it costs and what to fix."""

from array import array
from pathlib import Path

import pytest

from tests.conftest import UseEnvironment
from tidemill.producer.training.dataset_report import Bar, lengths
from tidemill.producer.training.datasets import DatasetOptions, build
from tidemill.producer.training.examples import Example, Place


def examples(count: int = 20) -> list[Example]:
    return [
        Example(
            Place("t.csv", number + 2, "row"),
            {
                "messages": [
                    {"role": "system", "content": "Be kind."},
                    {"role": "user", "content": f"question {number}"},
                    {"role": "assistant", "content": f"This is the answer to {number}."},
                ]
            },
        )
        for number in range(count)
    ]


def test_it_shows_an_example_the_parts_the_price_and_what_to_do(tmp_path: Path) -> None:
    text = build(examples(200), DatasetOptions(validation=0.1, epochs=2), tmp_path).report.text()
    for words in (
        "the first example, t.csv row 2",
        "  system     Be kind.",
        "  assistant  This is the answer to 0.",
        "the model learns to reply like this",
        "training    180 examples, 5,220 tokens",
        "validation  20 examples",
        "1 epoch, which reads each example once: 5,220 tokens, $0.026",
        "2 epochs: 10,440 tokens, $0.052",
        "nothing to fix",
    ):
        assert words in text


def test_findings_are_grouped_with_the_first_places_and_a_remedy(tmp_path: Path) -> None:
    faulty = [Example(Place("t.csv", number), {"messages": []}) for number in range(100, 107)]
    text = build([*examples(60), *faulty], DatasetOptions(), tmp_path).report.text()
    assert "WHAT WAS FOUND: 7 errors\n" in text
    assert "error: example without messages (7 times) -> give it a question and a reply" in text
    assert "t.csv line 104: there are no messages\n      and 2 more" in text
    assert "line 105" not in text


def test_what_was_found_of_a_person_is_never_shown(tmp_path: Path) -> None:
    rows = examples(20)
    rows[7].body["messages"][1]["content"] = "I am jane.doe@example.com"
    report = build(rows, DatasetOptions(), tmp_path).report
    assert "t.csv row 9: holds what looks like an e-mail address" in report.text()
    assert "jane" not in report.text()
    assert "jane" not in str(report.to_json())


@pytest.mark.parametrize(("count", "epochs"), [(10, 10), (20, 5), (40, 3), (5_000, 3)])
def test_epochs_are_assumed_by_the_number_of_examples(tmp_path: Path, count: int, epochs: int) -> None:
    report = build(examples(count), DatasetOptions(), tmp_path).report
    assert report.assumed_epochs == epochs
    assert f"this is for {epochs}." in report.text()


def test_an_unknown_price_is_never_0(tmp_path: Path) -> None:
    report = build(examples(20), DatasetOptions(model="a-model-of-my-own"), tmp_path).report
    assert "unknown price" in report.text()
    assert "$" not in report.text()
    assert (report.to_json()["epoch_usd"], report.to_json()["assumed_usd"]) == (None, None)


def test_a_price_of_one_s_own_goes_first(tmp_path: Path, use_environment: UseEnvironment) -> None:
    prices = tmp_path / "prices.toml"
    prices.write_text('["gpt-4.1-mini"]\ninput = 1.0\noutput = 1.0\ntraining = 1000.0\n')
    use_environment({"TIDEMILL_PRICES": str(prices)})
    report = build(examples(20), DatasetOptions(), tmp_path).report
    assert report.epoch_usd == pytest.approx(report.train.tokens / 1_000)


def test_bars_are_of_one_round_width_and_the_last_is_open() -> None:
    summed = lengths(array("I", [*range(100, 200), 5_000]))
    assert summed is not None
    assert (summed.shortest, summed.middle, summed.longest) == (100, 150, 5_000)
    assert summed.bars == [
        *(Bar(least, least + 19, 20) for least in range(100, 200, 20)),
        *(Bar(200, None, 1),),
    ]
    assert lengths(array("I")) is None
    assert lengths(array("I", [0])) is not None


def test_for_scripts_each_finding_has_its_place_with_the_unit(tmp_path: Path) -> None:
    rows = [*examples(20), Example(Place("", 7, "dialogue"), {"messages": []})]
    findings = build(rows, DatasetOptions(), tmp_path).report.to_json()["findings"]
    assert [(each["code"], each["file"], each["line"], each["unit"]) for each in findings] == [
        ("no_messages", "", 7, "dialogue"),
        ("few", None, None, None),
    ]
