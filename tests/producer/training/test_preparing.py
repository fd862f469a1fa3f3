"""Options of train that cannot work are refused before anything is read, and nothing is ever written over an input."""

from pathlib import Path

import pytest

from tidemill.models.errors import InputError
from tidemill.producer.training.columns import Columns
from tidemill.producer.training.datasets import DatasetOptions
from tidemill.producer.training.preparing import Source, train
from tidemill.producer.training.tuning import Terms


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = "".join(f"question {number},the answer to {number}.\n" for number in range(40))
    Path("qa.csv").write_text(f"question,answer\n{rows}")
    Path("in.jsonl").write_text('{"question": "a", "answer": "b"}\n')


def run(source: Source, options: DatasetOptions, export: str | None) -> None:
    train(source, options, Terms(), strict=False, dry_run=export is None, export=export, as_json=False)


QA = Source(["qa.csv"], Columns())


@pytest.mark.parametrize(
    ("source", "options", "export", "says"),
    [
        (Source(["nowhere.csv"], Columns()), DatasetOptions(), None, "nowhere.csv does not exist"),
        (QA, DatasetOptions(validation=1.0), None, "--val is 1"),
        (QA, DatasetOptions(validation=float("nan")), None, "--val is nan"),
        (QA, DatasetOptions(method="rlhf"), None, "supervised, dpo"),
        (Source(["qa.csv"], Columns(), validation="in.jsonl"), DatasetOptions(validation=0.1), None, "drop one"),
        (QA, DatasetOptions(), "qa.csv", "ends in .jsonl"),
        (Source(["in.jsonl"], Columns()), DatasetOptions(), "in.jsonl", "would be overwritten"),
        (Source(["."], Columns()), DatasetOptions(), "in.jsonl", "would be overwritten"),
        (Source(["qa.csv"], Columns(), negatives=["in.jsonl"]), DatasetOptions(), "./in.jsonl", "would be overwritten"),
        (Source(["qa.csv"], Columns(), validation="in.jsonl"), DatasetOptions(), "in.jsonl", "would be overwritten"),
        (QA, DatasetOptions(), "no/where.jsonl", "no/where.jsonl cannot be written"),
        (QA, DatasetOptions(validation=0.1), "-", "one part only"),
        (QA, DatasetOptions(validation=0.9), "out.jsonl", "1 error"),
    ],
)
def test_what_cannot_work_is_one_sentence(
    source: Source, options: DatasetOptions, export: str | None, says: str
) -> None:
    before = {each.name: each.read_bytes() for each in Path().iterdir()}
    with pytest.raises(InputError, match=says):
        run(source, options, export)
    assert {each.name: each.read_bytes() for each in Path().iterdir()} == before


def test_a_validation_file_in_the_folder_is_not_trained_on(capsys: pytest.CaptureFixture[str]) -> None:
    run(Source(["."], Columns(), validation="in.jsonl"), DatasetOptions(), None)
    report = capsys.readouterr().out
    assert "qa.csv: 40 rows · columns: question → answer\n" in report
    assert "in.jsonl: 1 row · columns: question → answer · to check with" in report
    assert "training    40 examples" in report
