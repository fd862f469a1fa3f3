"""A lost reply leaves a creation in doubt: it may be at the provider or not, and a second one costs money.

So nothing is sent again before it was looked for. `create` has the whole order of steps, for any owner. What is known
is in `models.creations`, so that it continues from there after any crash. `end_duplicates` looks for what turned up too
late.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Concatenate, Literal, ParamSpec, TypeVar

from sqlalchemy import Connection

from tidemill.models import creations
from tidemill.models.creations import Creations, Owner, Place
from tidemill.models.database import transact
from tidemill.models.json_types import RemoteObject
from tidemill.models.provider import CallError
from tidemill.models.settings import settings

_CONFLICT = 409
LOOK_AGAIN_SECONDS = 2.0
DUPLICATE_SECONDS = 1_800.0
"""How long after a second request the creation of the first one may turn up."""

NO_SUCH_ENDPOINT = (404, 405, 501)
_CERTAIN = ("connect", "local", "request", "store")
"""Kinds of errors after which nothing can have been created; a rejection is certain, too."""

Send = Callable[[str], Awaitable[RemoteObject]]
Find = Callable[[str], AsyncIterator[RemoteObject]]

Result = Literal["created", "in doubt", "unknown", "unwanted", "not now"]
"""How far a creation has come.

created: it is there and recorded. in doubt: it may still turn up; look again. unknown: the server has no list in
which to look for it. unwanted, not now: it is not there, and was not sent.
"""

_P = ParamSpec("_P")
_T = TypeVar("_T")


class LookError(Exception):
    """Looking for a creation has failed; it is still in doubt."""

    def __init__(self, error: CallError) -> None:
        super().__init__(error.message)
        self.error = error


@dataclass(frozen=True, slots=True)
class Recipe:
    """How something is created at the provider for an owner, and looked for."""

    owner: Owner
    place: Place
    send: Send
    """Create it once, with a token that is visible in it. Raises CallError."""
    find: Find
    """Everything at the provider with this token. Raises CallError."""
    keep: Callable[[Connection, RemoteObject], None]
    """Write what else follows from it, in the transaction that records it."""
    is_harmless: bool = False
    """Whether a second one does no harm."""


async def create(recipe: Recipe, known: Creations, *, is_wanted: bool, may_call: Callable[[], bool]) -> Result:
    """Create something at the provider, unless it is there already.

    Args:
        known: what `creations.load` knows of the owner.
        is_wanted: whether to create it if it is not there.
        may_call: whether this worker still owns it and a call is still wanted; called just before sending.

    Raises:
        CallError: it could not be created; it is in doubt unless the error is certain.
        LookError: it is in doubt, and could not be looked for.
        LostError: the owner is another worker's by now.
    """
    creation = known.get(recipe.place)
    remote = None
    if creation is not None and creation.doubt_seconds is not None:
        try:
            remote = await anext(_find_created(recipe, known, creation.token), None)
        except CallError as error:
            if error.status not in NO_SUCH_ENDPOINT:
                raise LookError(error) from None
            if not recipe.is_harmless and creation.doubt_seconds >= settings().doubt_seconds:  # it may have been a slip
                return "unknown"
        if remote is None and creation.doubt_seconds < settings().doubt_seconds:
            return "in doubt"
    if remote is None:
        if not is_wanted:
            return "unwanted"
        token = await write(creations.intend, recipe.owner, recipe.place)
        if not may_call():
            await write(creations.withdraw, recipe.owner, recipe.place)
            return "not now"
        remote = await _send(recipe, token)
    await write(_record, recipe, remote)
    return "created"


async def end_duplicates(
    recipe: Recipe, known: Creations, *, age_seconds: float, end: Callable[[RemoteObject], Awaitable[None]]
) -> None:
    """Call `end` with everything else that an earlier request has created after all.

    Args:
        age_seconds: time since it was created; after a while nothing else turns up.

    Raises:
        CallError: looking, or `end`, has failed in a way that may pass.
    """
    creation = known.get(recipe.place)
    if creation is None or creation.sends < 2 or age_seconds > DUPLICATE_SECONDS:
        return
    try:
        for remote in [each async for each in _find_created(recipe, known, creation.token)]:
            if remote["id"] != creation.remote_id:
                await end(remote)
    except CallError as error:
        if not is_no_cancel(error):
            raise


def is_rejection(error: CallError) -> bool:
    """Whether the server has understood and certainly done nothing."""
    return error.status is not None and 400 <= error.status < 500 and error.status not in (408, 409)


def has_created_nothing(error: CallError) -> bool:
    """Whether it is certain that the server has nothing of it."""
    return error.kind in _CERTAIN or (error.kind == "status" and is_rejection(error))


def is_final(error: CallError) -> bool:
    """Whether the same request would get the same answer again."""
    return is_rejection(error) and error.status not in (401, 429)


def is_no_cancel(error: CallError) -> bool:
    """Whether it is of no use to ask for this cancel again; 409 says that what was to be cancelled has ended."""
    return is_final(error) or error.status == _CONFLICT


async def write(act: Callable[Concatenate[Connection, _P], _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Run a function in a transaction of its own, on a thread beside the event loop; as `database.transact`."""
    return await asyncio.to_thread(transact, lambda connection: act(connection, *args, **kwargs))


async def _find_created(recipe: Recipe, known: Creations, token: str) -> AsyncIterator[RemoteObject]:
    """What is at the provider with this token; if the server drops tokens, earlier rounds look the same."""
    earlier = creations.earlier_ids(known, recipe.place)
    async for remote in recipe.find(token):
        if remote.get("id") not in {None, *earlier}:
            yield remote


async def _send(recipe: Recipe, token: str) -> RemoteObject:
    try:
        return await recipe.send(token)
    except CallError as error:
        if has_created_nothing(error):
            await write(creations.withdraw, recipe.owner, recipe.place)
        else:
            await write(creations.doubt, recipe.owner, recipe.place)  # sending may have taken minutes
        raise


def _record(connection: Connection, recipe: Recipe, remote: RemoteObject) -> None:
    creations.record(connection, recipe.owner, recipe.place, str(remote["id"]))
    recipe.keep(connection, remote)
