"""What a server has is asked for once, by commands, which have no event loop."""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from tidemill.models.json_types import JsonObject
from tidemill.models.options import Options, Transport
from tidemill.models.provider import CallError, Provider
from tidemill.models.settings import Settings

_MOST_SECONDS = 60.0
"""The longest wait for a reply that somebody waits for at the terminal."""

_T = TypeVar("_T")


def list_models(settings: Settings) -> list[JsonObject]:
    """Every model that the server lists.

    The client is the one that runs use, so that what keeps them from the server shows here, too.

    Raises:
        CallError: as for `Provider.list_all`.
        SettingsError: as for `Provider`.
    """
    return _list_all(settings, "models", transport=Options(settings.model).transport)


def has_batch_api(settings: Settings) -> bool | None:
    """Whether the server has a Batch API of OpenAI's shape; None where it does not say so now."""

    async def look(provider: Provider) -> bool | None:
        try:
            async for _ in provider.pages("/batches", limit=1):
                break
            return True
        except CallError as error:
            return False if error.status in (400, 404, 405, 410, 422, 501) or error.kind == "malformed" else None

    async def ask(provider: Provider) -> bool | None:
        first = await look(provider)
        return await look(provider) if first is False else first  # one such answer may be a slip

    with ThreadPoolExecutor(1) as thread:  # the caller's may have a loop of its own, as in a notebook
        return thread.submit(lambda: asyncio.run(_once(settings, ask, transport="http"))).result()


def list_assistants(settings: Settings) -> list[JsonObject]:
    """Every assistant that the server keeps; most servers have none and answer 404. Errors as for `list_models`."""
    return _list_all(settings, "assistants", transport="http", beta="assistants=v2")


def _list_all(settings: Settings, what: str, *, transport: Transport, beta: str | None = None) -> list[JsonObject]:
    return asyncio.run(_once(settings, lambda provider: provider.list_all(what), transport=transport, beta=beta))


async def _once(
    settings: Settings, ask: Callable[[Provider], Awaitable[_T]], *, transport: Transport, beta: str | None = None
) -> _T:
    """What a provider answers that is there for this one question."""
    timeout_seconds = min(settings.timeout_seconds, _MOST_SECONDS)
    provider = Provider.of(settings, transport, 1, timeout_seconds=timeout_seconds, beta=beta)
    try:
        return await ask(provider)
    finally:
        await provider.aclose()
