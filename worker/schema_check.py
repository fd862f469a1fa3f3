"""An answer is checked against its schema in a child process, because some schemas never come to an end.

`^(a+)+$` over forty letters takes longer than anybody waits, and Python cannot be interrupted over it: the whole worker
would stand still, its leases would run out, and other workers would take the jobs and stand still too. So a child does
it, which can be given up. Of our modules it imports only this one, models/schemas.py and what they stand on.
"""

import asyncio
import atexit
from concurrent.futures import ThreadPoolExecutor
from functools import cache

from tidemill.models.child import Child, Parent
from tidemill.models.errors import TidemillError
from tidemill.models.json_types import JsonObject
from tidemill.models.schemas import Complaint, complaint
from tidemill.models.text import dumps

CHILD = "from tidemill.worker.schema_check import serve; serve()"
START_SECONDS = 30.0
CHECK_SECONDS = 2.0
"""A child that takes longer over one answer is killed; it needs a thousandth of that."""
PATIENT_SECONDS = 10.0
"""The same in a second try: the machine may have been busy, and the answer was paid for."""


class Checker:
    """Checks in one child process, which starts with the first answer and is replaced when it is lost."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="schema")
        self._child: Child | None = None
        self._endless: set[str] = set()
        """Schemas over which both tries failed; later answers have one."""

    async def complaint(self, schema: JsonObject, text: str) -> Complaint | None:
        """As `models.schemas.complaint`; an answer that cannot be checked in time gets one too. Never raises."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._complaint, schema, text)

    def close(self) -> None:
        """End the child."""
        if self._child is not None:
            self._child.end()
            self._child = None

    def _complaint(self, schema: JsonObject, text: str) -> Complaint | None:
        key = dumps(schema)
        why = ""
        for seconds in (CHECK_SECONDS,) if key in self._endless else (CHECK_SECONDS, PATIENT_SECONDS):
            try:
                return self._checked(schema, text, seconds)
            except TimeoutError:
                why = f"it takes longer than {seconds:g} s: give it simpler patterns"
            except EOFError:
                why = "the process that does so ended over it"
            except TidemillError as error:
                return _unchecked(str(error))
        self._endless.add(key)
        return _unchecked(why)

    def _checked(self, schema: JsonObject, text: str, seconds: float) -> Complaint | None:
        """Raises TimeoutError, EOFError, and TidemillError where no child can start."""
        child = self._living_child()
        child.send([schema, text], seconds=seconds)
        why, _ = child.receive(seconds)
        return None if why is None else Complaint(*why)

    def _living_child(self) -> Child:
        """The child, ready. Raises TidemillError where none can start."""
        if self._child is None or not self._child.is_alive:
            self.close()
            self._child = Child(CHILD)
            self._child.wait_until_ready(seconds=START_SECONDS)
        return self._child


def _unchecked(why: str) -> Complaint:
    return Complaint(f"the reply cannot be checked against the schema ({why})", is_final=True)


@cache
def checker() -> Checker:
    """The one of this process."""
    made = Checker()
    atexit.register(made.close)
    return made


def serve() -> None:
    """Be the child: read schemas with texts, and send the complaints, until the parent is gone."""
    parent = Parent(2 * PATIENT_SECONDS)
    complaint({}, "{}")  # loads all that is needed
    parent.say_ready()
    while True:
        (schema, text), _ = parent.receive()
        parent.send(complaint(schema, text))
