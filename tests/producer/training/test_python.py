"""Frames and rows are examples as files are, and a misspelt option of `train` is found before anything is read."""

from typing import Any

import pandas as pd
import polars as pl
import pytest

import tidemill
from tidemill import errors

pytestmark = pytest.mark.usefixtures("embedded_home")

ROWS = [{"question": f"What is {number} and 1?", "answer": f"It is {number + 1}."} for number in range(12)]


@pytest.mark.parametrize("source", [ROWS, pd.DataFrame(ROWS), pl.DataFrame(ROWS)], ids=["rows", "pandas", "polars"])
def test_a_frame_is_checked_and_named_as_one(source: Any, capsys: pytest.CaptureFixture[str]) -> None:
    report = tidemill.train(source, val=0.25, dry_run=True)
    assert "the frame: 12 rows" in report.text()
    assert "9 examples" in report.text()
    assert capsys.readouterr().out == ""


def test_what_cannot_work_is_said_in_one_sentence() -> None:
    with pytest.raises(errors.OptionError, match=r"^epoch=3: there is no such option; did you mean epochs\?$"):
        tidemill.train(ROWS, epoch=3)  # type: ignore[call-overload]
    with pytest.raises(errors.InputError, match="from_dialogues=True"):
        tidemill.train(ROWS, sentiment="positive")
    with pytest.raises(errors.InputError, match="1 error, see the report"):
        tidemill.train(ROWS[:1])
    with pytest.raises(errors.InputError, match="There is no fine-tune"):
        tidemill.fine_tune("gone")
