"""A response in the background is answered at once with an id, and is done later whether or not anybody looks.

Wire: OpenAI's API reference. The windows of 2 and 8 hours are prices, not times: each takes `background_seconds`.
"""

from collections.abc import Callable

from tidemill.simulator.backgrounds import Background
from tidemill.simulator.faults import Answer
from tidemill.simulator.requests import MissingError, Request, as_json

ROUTE = "/v1/responses/{id}"


def _background(request: Request) -> Background:
    if (background := request.shelf.backgrounds.get(request.id)) is None:
        raise MissingError(f"Response with id '{request.id}' not found.")
    return background


def _show(request: Request) -> Answer:
    return as_json(_background(request).card(request.now))


def _cancel(request: Request) -> Answer:
    background = _background(request)
    if background.status == "queued":
        request.shelf.end_background(background, "cancelled")
    return as_json(background.card(request.now))


ROUTES: dict[str, Callable[[Request], Answer]] = {f"GET {ROUTE}": _show, f"POST {ROUTE}/cancel": _cancel}
