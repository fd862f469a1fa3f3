"""Without a broker a worker claims due jobs by itself: whenever there is room for enough of them, and by the clock."""

from functools import partial

from tidemill.models.database import transact
from tidemill.models.due import unsend_all
from tidemill.worker.rounds import Rounds
from tidemill.worker.runner import Runner

LOOK_SECONDS = 0.5
"""Jobs become due without a sign: their retry's time comes, a hold's probe, or another process has stored them."""

_SENT_SECONDS = 60.0


def own_claims(runner: Runner) -> Rounds:
    """The rounds that bring the runner its jobs."""

    def claim() -> None:
        while room := runner.free:
            runner.expects_more = _fill(runner, room)
            if not runner.expects_more:
                break

    def unsend() -> None:
        for scope in tuple(runner.scopes):
            transact(partial(unsend_all, scope=scope))

    return Rounds("claims", {claim: LOOK_SECONDS, unsend: _SENT_SECONDS}, runner.hungry)


def _fill(runner: Runner, room: int) -> bool:
    """Fill the room, to equal parts for those who wait: the first one's thousands must not keep the others.

    Returns whether more may be due: somebody's part is full.
    """
    scopes = tuple(runner.scopes)
    part = -(-room // len(scopes))
    return max(runner.admit_due(scope, part) for scope in scopes) >= part
