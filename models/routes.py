"""A route is how a question reaches the provider and its answer comes back; it decides the price and the wait."""

from typing import Literal, NamedTuple, get_args

RouteName = Literal["online", "flex", "batch", "2h", "8h"]


class Route(NamedTuple):
    """One way to the provider."""

    tier: str
    """The tier whose price it has, as `models.cost.price` takes it; empty: the standard one."""
    is_upstream: bool
    """Whether rows are handed to the provider, by its Batch API or in the background, and no worker waits for each."""
    place: str = ""
    """Where such rows are, in words."""


_IN_BACKGROUND = "the provider, in the background"

ROUTES: dict[str, Route] = {
    "online": Route("", is_upstream=False),
    "flex": Route("flex", is_upstream=False),
    "batch": Route("batch", is_upstream=True, place="the provider's Batch API"),
    "2h": Route("2h", is_upstream=True, place=_IN_BACKGROUND),
    "8h": Route("8h", is_upstream=True, place=_IN_BACKGROUND),
}
assert tuple(ROUTES) == get_args(RouteName)

ONLINE, FLEX, BATCH = "online", "flex", "batch"
WINDOWS = ("2h", "8h")
"""Routes by which each row is a response in the background, which the server may take so long for."""

AUTO = "auto"
"""Not a route: the cheapest one that is done in time, which is chosen once it is known how many rows there are."""

UPSTREAM = tuple(name for name, route in ROUTES.items() if route.is_upstream)
NOT_LIVE = (*UPSTREAM, AUTO)
"""What batches may have as their route whose rows no worker calls one by one: not now, or not yet."""
