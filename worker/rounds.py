"""A worker's duties are done again and again on a few threads; one that fails must not end the others."""

import threading
import time
from collections.abc import Callable
from logging import ERROR, WARNING

from tidemill.models.database_errors import reason_of
from tidemill.models.errors import TidemillError
from tidemill.models.lines import Seldom, place_of

_FIRST_MOMENT_SECONDS = 0.5
"""A command that is over by then has no need of most duties."""

_AFTER_FAILURE_SECONDS = 2.0

Duty = Callable[[], object]


class Rounds:
    """A thread that does duties, each as often as it says.

    Args:
        name: of the thread.
        duties: each with the seconds between two times.
        urgent: when set, the first duty is due. It is from the start, while all others leave the first moment to it.
    """

    def __init__(self, name: str, duties: dict[Duty, float], urgent: threading.Event | None = None) -> None:
        self._duties = duties
        self._urgent = urgent or threading.Event()
        if urgent is not None:
            urgent.set()
        self._stopping = False
        self.finished = 0
        """Duties done so far, failed ones too: as long as it rises, the thread is not stuck."""
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Begin no more duties."""
        self._stopping = True
        self._urgent.set()

    def join(self, seconds: float) -> None:
        """Wait for the end of the present duty, but no longer than this."""
        self._thread.join(seconds)

    def _run(self) -> None:
        due_at = dict.fromkeys(self._duties, time.monotonic() + _FIRST_MOMENT_SECONDS)
        while not self._stopping:
            if self._urgent.is_set():
                self._urgent.clear()
                due_at[next(iter(self._duties))] = 0.0
            for duty, every in self._duties.items():
                if time.monotonic() >= due_at[duty] and not self._stopping:
                    done = try_duty(duty)
                    self.finished += 1
                    due_at[duty] = time.monotonic() + (every if done else _AFTER_FAILURE_SECONDS)
            self._urgent.wait(max(0.01, min(due_at.values()) - time.monotonic()))


_seldom = Seldom()
"""In an outage all duties fail alike."""


def try_duty(duty: Duty) -> bool:
    """Do a duty; one that fails logs a line, and must not end the others."""
    try:
        duty()
    except TidemillError as error:
        _seldom.note(WARNING, "trouble", str(error), about=str(error))
        return False
    except Exception as error:  # noqa: BLE001  # whatever it is, the others must go on
        sentence = f"maintenance: {place_of(error)}: {reason_of(error)}; it will be tried again; please report it"
        _seldom.note(ERROR, "defect", sentence, about=sentence)
        return False
    return True
