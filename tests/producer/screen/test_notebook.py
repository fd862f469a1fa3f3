"""One wait of a process shows a bar, where somebody looks; the kernel's own is seen by tests/house/test_snippets.py."""

import pytest

from tidemill.producer.screen import notebook
from tidemill.producer.screen.display import ProgressBar, Quiet
from tidemill.producer.screen.notebook import display_here, is_notebook


def test_nobody_looks_at_a_pipe() -> None:
    assert not is_notebook()
    with display_here() as shown:
        assert type(shown) is Quiet


def test_of_several_waits_at_a_terminal_one_shows_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notebook, "is_lively", lambda _stream: True)
    for _ in range(2):
        with display_here() as first, display_here() as second:
            assert (type(first), type(second)) == (ProgressBar, Quiet)
    with pytest.raises(ZeroDivisionError), display_here():
        raise ZeroDivisionError
    with display_here() as shown:
        assert type(shown) is ProgressBar
