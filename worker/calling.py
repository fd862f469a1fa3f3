"""A job of any kind gets from its worker what it needs to call the provider."""

from collections.abc import Awaitable, Callable
from typing import NamedTuple, Protocol

from tidemill.models.claims import Claimed
from tidemill.models.options import Options
from tidemill.models.provider import Provider
from tidemill.models.routes import ONLINE
from tidemill.models.settling import Settlement
from tidemill.worker.limits import Limiter


class Calling(NamedTuple):
    """The way to the provider.

    `bucket` names the rate budget without the model. `may_call` says just before a call whether it is
    still wanted.
    """

    provider: Provider
    limiter: Limiter
    bucket: str
    may_call: Callable[[], bool]
    route: str = ONLINE
    """That of the job's batch."""
    seconds_left: float | None = None
    """Until the batch's deadline; None: it has none."""


class Work(Protocol):
    """Runs one claimed job of a kind, or one step of it; never raises for what the provider does."""

    def __call__(self, job: Claimed, options: Options, calling: Calling) -> Awaitable[Settlement]: ...
