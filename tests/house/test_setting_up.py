"""`make` says what it does while it sets up, and is silent for no longer than ten seconds."""

import re
import sys

import pytest

from tests import step
from tests.house.sources import ROOT

MAKEFILE = (ROOT / "Makefile").read_text("utf-8")


def test_a_step_says_what_it_does_that_it_goes_on_and_how_it_ended(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(step, "TICK_SECONDS", 0.001)
    assert step.main("Doing it: a moment", sys.executable, "-c", "print('it'); raise SystemExit(3)") == 3
    first, *ticks = [line for line in capfd.readouterr().out.splitlines() if line != "it"]
    assert first == "· Doing it: a moment"
    assert ticks
    assert all(re.fullmatch(r"    \.\. \d+ s", each) for each in ticks)


def test_whatever_makes_or_fills_an_environment_is_a_step() -> None:
    recipes = [line for line in MAKEFILE.splitlines() if line.startswith("\t") and "touch" not in line]
    slow = [line for line in recipes if re.search(r"-m venv|\$\(PIP\)|\$\(UV\)|compileall", line)]
    assert len(slow) >= 8
    assert [line for line in slow if not re.match(r'\t+(\$\(STEP\)|\|\| \$\(PYTHON\) tests/step\.py) ".+"', line)] == []
