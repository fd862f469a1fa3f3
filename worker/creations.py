"""A reply that is lost leaves a creation in doubt: it may be at the provider or not, and a second one costs money.

So nothing is asked for again before it was looked for. `create` is the whole order of things, for any owner; what is
known lies in `models.creations`, so that it goes on from there after any crash. `end_duplicates` looks for what turned
up later than anybody could wait for it.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar

from sqlalchemy import Connection

from tidemill.models import creations
from tidemill.models.creations import Creations, Owner, Place
from tidemill.models.database import writing
from tidemill.models.provider import CallError
from tidemill.models.settings import settings

LOOK_AGAIN_SECONDS = 2.0
DUPLICATE_SECONDS = 1_800.0
"""How long after a second request what the first one made may turn up."""

NO_SUCH_ENDPOINT = (404, 405, 501)
_CERTAIN = ("connect", "request", "store")
"""Kinds of errors after which nothing can have been created; so it is after a refusal."""

Remote = Mapping[str, Any]
"""An object as the provider describes it; it has an "id"."""

Send = Callable[[str], Awaitable[Remote]]
Find = Callable[[str], AsyncIterator[Remote]]

Result = Literal["created", "in doubt", "unknown", "unwanted", "not now"]
"""How far a creation has come.

created: it is there and recorded. in doubt: it may still turn up; look again. unknown: the server lists nothing in
which it could be found. unwanted, not now: it is not there, and was not sent.
"""

_P = ParamSpec("_P")
_T = TypeVar("_T")


class LookError(Exception):
    """Looking for a creation in doubt has failed; it is in doubt as before."""

    def __init__(self, error: CallError) -> None:
        super().__init__(error.message)
        self.error = error


@dataclass(frozen=True, slots=True)
class Recipe:
    """How something is created at the provider for an owner, and found there again."""

    owner: Owner
    place: Place
    send: Send
    """Ask for it once, with a token that can be seen in it. Raises CallError."""
    find: Find
    """Everything at the provider that came of a token. Raises CallError."""
    keep: Callable[[Connection, Remote], None]
    """What else is to be written when it is there, in the transaction that records it."""
    is_harmless: bool = False
    """Whether a second one would harm nobody."""


async def create(recipe: Recipe, known: Creations, *, is_wanted: bool, may_call: Callable[[], bool]) -> Result:
    """Have something at the provider, which may be there already.

    Args:
        known: what `creations.load` knows of the owner.
        is_wanted: whether to ask for it if it is not there.
        may_call: whether this worker still owns it, and a call is still wanted; asked last before sending.

    Raises:
        CallError: it could not be created; where that is certain, it is not in doubt.
        LookError: it is in doubt, and could not be looked for.
        LostError: the owner is somebody else's by now.
    """
    creation = known.get(recipe.place)
    remote = None
    if creation is not None and creation.doubt_seconds is not None:
        try:
            remote = await anext(_made(recipe, known, creation.token), None)
        except CallError as error:
            if error.status not in NO_SUCH_ENDPOINT:
                raise LookError(error) from None
            if not recipe.is_harmless:
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
        remote = await _sent(recipe, token)
    await write(_record, recipe, remote)
    return "created"


async def end_duplicates(
    recipe: Recipe, known: Creations, *, age_seconds: float, end: Callable[[Remote], Awaitable[None]]
) -> None:
    """Have `end` called with every other thing that an earlier request made after all.

    Args:
        age_seconds: since it was created; after a while nothing else turns up.

    Raises:
        CallError: looking, or `end`, has failed in a way that may pass.
    """
    creation = known.get(recipe.place)
    if creation is None or creation.sends < 2 or age_seconds > DUPLICATE_SECONDS:
        return
    try:
        for remote in [each async for each in _made(recipe, known, creation.token)]:
            if remote["id"] != creation.remote_id:
                await end(remote)
    except CallError as error:
        if not is_final(error):
            raise


def is_refusal(error: CallError) -> bool:
    """Whether the server has understood, and did nothing."""
    return error.status is not None and 400 <= error.status < 500 and error.status not in (408, 409)


def is_final(error: CallError) -> bool:
    """Whether asking again would be answered the same."""
    return is_refusal(error) and error.status not in (401, 429)


async def write(act: Callable[Concatenate[Connection, _P], _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Let a function write in a transaction of its own, beside the event loop."""

    def run() -> _T:
        with writing() as connection:
            return act(connection, *args, **kwargs)

    return await asyncio.to_thread(run)


async def _made(recipe: Recipe, known: Creations, token: str) -> AsyncIterator[Remote]:
    """What came of a token; what an earlier round has created may look the same where a server drops the token."""
    earlier = creations.earlier_ids(known, recipe.place)
    async for remote in recipe.find(token):
        if remote.get("id") not in {None, *earlier}:
            yield remote


async def _sent(recipe: Recipe, token: str) -> Remote:
    try:
        return await recipe.send(token)
    except CallError as error:
        if error.kind in _CERTAIN or (error.kind == "status" and is_refusal(error)):
            await write(creations.withdraw, recipe.owner, recipe.place)
        raise


def _record(connection: Connection, recipe: Recipe, remote: Remote) -> None:
    creations.record(connection, recipe.owner, recipe.place, str(remote["id"]))
    recipe.keep(connection, remote)
