"""Which route is the cheapest that is done in time is decided here, once for a batch, from a few plain facts."""

import re
from typing import NamedTuple

from tidemill.models.deadlines import margin_seconds
from tidemill.models.durations import in_words
from tidemill.models.routes import BATCH, FLEX, ONLINE
from tidemill.models.server_names import host_of

FEW_ROWS = 50
"""Fewer rows than these are not worth waiting for, if nobody has said that there is time."""

_FLEX_HOST = "api.openai.com"
_FLEX_MODEL = re.compile(r"(ft:)?(o3|o4-mini|gpt-(?P<version>\d+(\.\d+)?))(?!\d)")
_FLEX_VERSIONS = 5.0, 6.2
"""Of GPT: from the first of these on, and below the second, at which flex is wound down."""


class Facts(NamedTuple):
    """What the choice depends on."""

    rows: int
    """That are open, as far as is known."""
    seconds_left: float | None
    """Until the deadline; None: there is none."""
    has_batch_api: bool
    takes_flex: bool
    batch_seconds: float
    """In which nine of ten batches are done at the provider's Batch API."""


class Choice(NamedTuple):
    """A route, and why it is chosen: the end of a sentence."""

    route: str
    reason: str


def choose(facts: Facts) -> Choice:
    """The cheapest route that is done in time; batch and flex cost the same."""
    left = facts.seconds_left
    if left is None and facts.rows < FEW_ROWS:
        return Choice(ONLINE, "so few rows are not worth waiting for, and no deadline says that there is time")
    usual = f"9 of 10 batches there are done within {in_words(facts.batch_seconds)}"
    slow = "the server has no Batch API"
    if facts.has_batch_api:
        time = None if left is None else left - margin_seconds(left)
        if time is None or facts.batch_seconds <= time:
            return Choice(BATCH, usual)
        slow = f"{usual}, and the deadline leaves {in_words(time)} for that"
    if facts.takes_flex:
        return Choice(FLEX, slow)
    return Choice(ONLINE, f"{slow}, and the model is not known to be served at flex")


def takes_flex(model: str, server: str) -> bool:
    """Whether a model is known to be served at flex, at half the price, by a server (a name as of `server_names`).

    Whoever asks for flex where this says no learns it from the server: at worst a row is paid in full.
    """
    return host_of(server) == _FLEX_HOST and not refuses_flex(model, server) and bool(_FLEX_MODEL.match(_bare(model)))


def refuses_flex(model: str, server: str) -> bool:
    """Whether it is known beforehand that a model is not served at flex."""
    is_ours = _FLEX_MODEL.match(_bare(model)) if host_of(server) == _FLEX_HOST else None
    version = is_ours["version"] if is_ours else None
    return version is not None and not _FLEX_VERSIONS[0] <= float(version) < _FLEX_VERSIONS[1]


def _bare(model: str) -> str:
    return model.lower().removeprefix("openai/")
