"""Several processes run the tests; this says what they share out as one piece, and in which order.

A piece runs in one process, and so makes the fixtures of its module or session once. Long pieces go first, so that no
process works on alone in the end. (xdist's own groups are not used: its marks do nothing with pytest 9.2.)
"""

from xdist.scheduler import LoadScopeScheduling

STATE_MACHINE = "tests/models/test_state_machine.py"
"""Computes for a minute."""

SLOW_FIRST = ("tests/chaos", "tests/flows", STATE_MACHINE, "tests/house", "tests/worker", "tests/simulator_test")
ONE_BY_ONE = ("tests/chaos", "tests/flows")
AS_A_WHOLE = ("tests/flows/test_installed.py", "tests/flows/test_looking.py")
FLEET = "[shared"
"""In the name of each test that needs the fleet of tests/flows, which is started once a process."""


def piece(test: str) -> str:
    """What a test is shared out with, by its node id: most often its module; tests that take seconds go alone."""
    module = test.partition("::")[0]
    if module.startswith(ONE_BY_ONE) and module not in AS_A_WHOLE:
        return "fleet" if FLEET in test else test.partition("[")[0]
    return module


def turn(test: str) -> tuple[int, bool]:
    """Sorts what takes long to the front: first chaos, then what uses the fleet, then the other flows."""
    place = next((place for place, start in enumerate(SLOW_FIRST) if test.startswith(start)), len(SLOW_FIRST))
    return place, piece(test) != "fleet"


class Schedule(LoadScopeScheduling):  # type: ignore[misc]  # xdist is not typed
    """Gives the next piece to whoever has nearly done with theirs."""

    def _split_scope(self, nodeid: str) -> str:
        return piece(nodeid)
