"""A work that takes long says how far it is, and where no display shows it, a line does."""

import pytest

from tidemill.producer.screen import display
from tidemill.producer.screen.display import Ticker, ticked


def test_who_waits_long_is_told_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert list(ticked("abc", Ticker("written"))) == ["a", "b", "c"]
    assert capsys.readouterr().err == ""  # it took no time
    monkeypatch.setattr(display, "PLAIN_SECONDS", 0.0)
    assert list(ticked("ab", Ticker("looked at", "pictures"))) == ["a", "b"]
    assert capsys.readouterr().err == "tidemill: 1 picture looked at\ntidemill: 2 pictures looked at\n"
