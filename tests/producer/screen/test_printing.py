"""Whatever strangers wrote, a terminal shows it and does nothing else; a script gets the exact value."""

import io
import json
import logging
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.models.lines import Lines
from tidemill.models.text import printable, printable_json
from tidemill.producer.screen.display import say
from tidemill.producer.screen.printing import JsonLines, print_entries, print_json, print_line, print_table, print_text
from tidemill.producer.screen.tables import Column

ACTS = "\x1b]0;pwned\x07\x9b31m\u202egpj.exe\u2066\x7f\r\x08\u200b\ufeff\U000e0041\ud800\u2028"
HARMFUL = set(ACTS) - set("]0;pwned31mgpj.exe")

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters()), inner, max_size=3),
    max_leaves=8,
)


def harmless(text: str) -> bool:
    return not HARMFUL & set(text)


@given(json_values)
def test_json_keeps_its_value(value: Any) -> None:
    for ascii_only in (True, False):
        text = json.dumps(value, ensure_ascii=ascii_only)
        assert json.loads(printable_json(text)) == value
        assert harmless(printable_json(text))


def test_a_line_break_of_windows_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    print_line("a\r\nb\tc")
    assert capsys.readouterr().out == "a\nb\tc\n"


@pytest.mark.parametrize("err", [False, True])
def test_nothing_that_is_printed_acts(capsys: pytest.CaptureFixture[str], err: bool) -> None:
    print_line(f"photo{ACTS}.jpg", err=err)
    print_json({ACTS: [ACTS, "ü 🦀"]}, err=err)
    captured = capsys.readouterr()
    shown = captured.err if err else captured.out
    assert harmless(shown)
    assert "ü 🦀" in shown
    assert json.loads(shown.splitlines()[1]) == {ACTS: [ACTS, "ü 🦀"]}


def test_tables_and_sentences_do_not_act(capsys: pytest.CaptureFixture[str]) -> None:
    print_table((Column("id", 1), Column("prompt", 2, is_text=True)), [(ACTS, ACTS)])
    say(f"photo{ACTS}.jpg is damaged")
    captured = capsys.readouterr()
    assert harmless(captured.out) and harmless(captured.err)


@pytest.mark.parametrize("is_terminal", [False, True])
def test_a_models_text_is_exact_in_a_pipe_and_harmless_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, is_terminal: bool
) -> None:
    class Stream(io.StringIO):
        def isatty(self) -> bool:
            return is_terminal

    text = ACTS.replace("\ud800", "")
    stream = Stream(newline="")
    monkeypatch.setattr(sys, "stdout", stream)
    print_text(text)
    shown = stream.getvalue()
    assert shown == (printable(text) if is_terminal else text) + "\n"
    assert harmless(shown) is is_terminal


def test_lines_of_json_are_exact_and_harmless(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, "utf-8")
    monkeypatch.setattr(sys, "stdout", stream)
    text = ACTS.replace("\ud800", "")
    out = JsonLines()
    out.write(b'{"plain":1}\n{"more":2}\n')
    out.write((json.dumps({"reply": text}, ensure_ascii=False) + "\n").encode())
    out.flush()
    written = raw.getvalue().decode()
    assert harmless(written)
    assert [json.loads(line) for line in written.splitlines()] == [{"plain": 1}, {"more": 2}, {"reply": text}]


def test_a_log_line_stays_one_line_whatever_is_in_it() -> None:
    record = logging.LogRecord("x", logging.WARNING, "f", 1, "failed: %s", (f"no\n2026 INFO forged {ACTS}",), None)
    line = Lines("%(levelname)s %(message)s").format(record)
    assert line.startswith("WARNING failed: no\\n2026 INFO forged \\x1b")
    assert harmless(line) and "\n" not in line


def test_an_entry_goes_on_below_where_it_began_and_is_one_line_in_a_pipe(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = [("began", "one two three four five six"), ("", "x" * 30), ("", ACTS)]
    print_entries(entries)
    piped = capsys.readouterr().out
    assert piped.splitlines()[0] == "began  one two three four five six"
    assert harmless(piped)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "24")
    print_entries(entries)
    shown = capsys.readouterr().out.splitlines()
    assert shown[:2] == ["began  one two three", "       four five six"]
    assert "x" * 30 in "".join(shown), "what cannot be broken stays whole"
