"""What `describe` takes in Python: paths, or a table of them; a misspelt option is found before anything is read."""

from typing import Any

import pandas as pd
import polars as pl
import pytest

import tidemill
from tests.conftest import UseEnvironment
from tidemill import errors

ADDRESS = "https://pictures.example/cat.png"


@pytest.fixture(autouse=True)
def _with_key(embedded_home: object, use_environment: UseEnvironment) -> None:
    use_environment({"OPENAI_API_KEY": "test-key"})


@pytest.mark.parametrize(
    ("source", "options"),
    [
        (ADDRESS, {}),
        ([ADDRESS], {}),
        (pd.Series([ADDRESS], index=["cat"]), {}),
        (pd.DataFrame({"place": [ADDRESS]}, index=["cat"]), {"column": "place"}),
        (pl.DataFrame({"place": [ADDRESS]}), {"column": "place"}),
        (pl.Series([ADDRESS]), {}),
        ([{"path": ADDRESS}], {}),
    ],
)
def test_paths_and_tables_of_them_are_described(source: Any, options: dict[str, Any]) -> None:
    batch = tidemill.describe(source, **options)
    assert [row[options.get("column", "path")] for row in batch.rows()] == [ADDRESS]
    assert list(batch.to_frame().index) == (["cat"] if isinstance(source, pd.Series | pd.DataFrame) else [0])


def test_a_file_that_ends_as_a_table_is_one(tmp_path: Any) -> None:
    table = tmp_path / "pictures.csv"
    table.write_text(f"path\n{ADDRESS}\n", "utf-8")
    assert [row["path"] for row in tidemill.describe(table).rows()] == [ADDRESS]


def test_what_cannot_work_is_said_in_one_sentence() -> None:
    with pytest.raises(errors.OptionError, match=r"^presett='tags': there is no such option; did you mean preset\?$"):
        tidemill.describe(ADDRESS, presett="tags")  # type: ignore[call-arg]
    with pytest.raises(errors.OptionError, match=r"^max_side=1: it must be a whole number from 32 to"):
        tidemill.describe(ADDRESS, max_side=1)
    with pytest.raises(errors.InputError, match="has no column with the usual name for paths"):
        tidemill.describe(pd.DataFrame({"a": ["x"]}))
