"""Several inputs are one: their rows come file by file, and the same command finds their batch again."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tidemill.models.errors import InputError
from tidemill.producer.intake import compressed
from tidemill.producer.intake.sources import Files, files_of
from tidemill.producer.intake.tables import ReadOptions, Row, read


def rows(source: Any, notes: list[str] | None = None, **how: Any) -> list[Row]:
    say = (list[str]() if notes is None else notes).append
    chunks = read(source, ReadOptions(**how), on_bad_row=say, on_note=say)
    return [row for chunk in chunks for row in chunk]


def prompts(source: Any, notes: list[str] | None = None, **how: Any) -> list[str]:
    return [row.request["prompt"] for row in rows(source, notes, **how)]


@pytest.fixture(name="folder")
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "sub").mkdir(parents=True)
    (tmp_path / "data/part10.jsonl").write_text('{"question": "ten", "custom_id": 1}\n')
    (tmp_path / "data/part2.csv").write_text("prompt,custom_id,topic\ntwo,1,x\n")
    (tmp_path / "data/part1.json").write_text('["one", "one more"]')
    return tmp_path


def test_files_are_read_in_natural_order_each_with_columns_of_its_own(folder: Path) -> None:
    every = rows("data/*")
    assert [row.request["prompt"] for row in every] == ["one", "one more", "two", "ten"]
    assert [row.custom_id for row in every] == [None, None, "1", "1"]
    assert [sorted(row.columns) for row in every] == [["prompt"], ["prompt"], ["prompt", "topic"], ["question"]]
    assert prompts(Files(("data/part2.csv", "data/part1*", "./data/part2.csv"))) == ["two", "one", "one more", "ten"]
    assert prompts([Path("data/part10.jsonl"), Path("data/part2.csv")], limit=2) == ["ten", "two"]


def test_a_sentence_names_the_file_that_it_is_about(folder: Path) -> None:
    (folder / "data/part3.jsonl").write_text('{"prompt": "three"}\n{nonsense\n')
    with pytest.raises(InputError, match=r"^data/part3\.jsonl line 2: is not valid JSON"):
        rows("data/*")
    (folder / "data/part3.jsonl").write_text("")
    notes: list[str] = []
    assert len(rows("data/*", notes)) == 4
    assert notes == ["data/part3.jsonl is empty: it holds no prompt; it is left out."]
    with pytest.raises(InputError, match=r"nothing/\*\.csv fits no file"):
        rows("nothing/*.csv")
    with pytest.raises(InputError, match="http://\\*\\*\\* is no usable address"):
        Files(("http://[::1/a.csv",))
    with pytest.raises(InputError, match="cannot be one of several inputs"):
        Files(("a.csv", "-"))
    (folder / "literal[1].csv").write_text("prompt\nbrackets\n")
    assert prompts("literal[1].csv") == ["brackets"]


def test_a_batch_is_known_by_what_was_typed(folder: Path) -> None:
    def known(*patterns: str) -> str | None:
        return Files(patterns).known_by

    assert known("data/part2.csv") == str(folder / "data/part2.csv")
    assert known("-") is None
    assert known("data/*.csv") == f"files\n{folder}/data/*.csv"
    assert known("data/part2.csv", "x.csv") == f"files\n{folder}/data/part2.csv\n{folder}/x.csv"
    assert known("https://me:canary@host/a.csv?key=canary") == "https://host/a.csv"
    unclear = known("s3://bucket/a@b.csv"), known("s3://bucket/c@b.csv"), known("s3://bucket/b.csv")
    assert len({*unclear}) == 3
    assert [Files((each,)).name for each in ("data/*.csv", "s3://bucket/a.csv", "s3://b/in/*", "**/*.csv")] == [
        *("data", "a", "in", folder.name),
    ]
    (folder / "a[1].csv").touch()
    assert Files(("a[1].csv",)).name == "a[1]"
    assert files_of(["a"]) is files_of([{}]) is files_of(pd.DataFrame()) is None


@pytest.mark.parametrize("output", ["data/out.csv", "./data/../data/new.csv", "part2.csv", "memory://b/in/out.csv"])
def test_an_output_that_would_be_an_input_of_the_next_run_is_refused(folder: Path, output: str) -> None:
    (folder / "part2.csv").symlink_to(folder / "data/part2.csv")
    files = Files(("data/*.csv", "data/part2.csv", "memory://b/in/*"))
    with pytest.raises(InputError, match=r"is the input itself|would be an input of the next run"):
        files.check_output(output)
    for good in ("-", "data/out.jsonl", "out.csv", "data/sub/out.csv", "memory://b/out/out.csv"):
        files.check_output(good)


def test_strings_in_a_json_list_are_prompts_and_a_mixed_list_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('["one", "two", {"prompt": "three"}]')
    with pytest.raises(InputError, match=r"a\.json row 3: is a JSON object, and the first is a string"):
        rows(path)
    assert prompts(path, skip_bad_rows=True) == ["one", "two"]


def test_a_sheet_is_chosen_by_name_or_number(tmp_path: Path) -> None:
    path, notes = tmp_path / "a.xlsx", list[str]()
    with pd.ExcelWriter(path) as book:
        for name in ("first", "2024"):
            pd.DataFrame({"prompt": [f"of {name}"]}).to_excel(book, sheet_name=name, index=False)
    assert prompts(path, notes) == ["of first"]
    assert notes == [f"{path} is read from its first sheet, 'first'; --sheet names another one: '2024'."]
    assert prompts(path, sheet="2024") == prompts(path, sheet="2") == ["of 2024"]
    with pytest.raises(InputError, match="has no sheet '3'; its sheets are: 'first', '2024'"):
        rows(path, sheet="3")
    (tmp_path / "a.csv").write_text("prompt\nx\n")
    with pytest.raises(InputError, match="is read as CSV, and --sheet is about workbooks"):
        rows(tmp_path / "a.csv", sheet="2")


@pytest.mark.parametrize("ending", list(compressed.COMPRESSED))
def test_what_is_compressed_is_read_as_what_is_in_it(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.csv{ending}"
    with path.open("wb") as file, compressed.packing(file, path) as packed:
        packed.write(b"prompt\nwhy?\n" * 1000)
    assert prompts(path)[0] == "why?"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InputError, match="is no whole archive"):
        rows(path)
