"""Under asyncio nothing may block the loop, so what waits or reads runs on a thread, and ends when its task does."""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from functools import partial, wraps
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def off_the_loop(function: Callable[P, T]) -> Callable[P, Coroutine[Any, Any, T]]:
    """The same function for asyncio: it runs on a thread, and the loop goes on meanwhile."""

    @wraps(function)
    async def on_a_thread(*args: P.args, **options: P.kwargs) -> T:
        return await asyncio.to_thread(function, *args, **options)

    on_a_thread.__name__ = f"a{function.__name__}"
    return on_a_thread


async def until(work: Callable[[], T], stopped: threading.Event) -> T:
    """Run on a thread what `stopped` stops; if the task is cancelled, set it, and wait until the work has stopped."""
    running = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        stopped.set()
        await asyncio.wait([running])
        if not running.cancelled():
            running.exception()  # it was stopped, so that nobody asks for it
        raise


async def each_of(pages: Callable[[threading.Event], Iterator[list[T]]]) -> AsyncIterator[T]:
    """What an iterator of pages yields, one by one.

    Args:
        pages: is called with the event that stops the iterator.
    """
    stopped = threading.Event()
    iterator = pages(stopped)
    try:
        while (page := await until(partial(next, iterator, None), stopped)) is not None:
            for item in page:
                yield item
    finally:
        stopped.set()
        await until(partial(deque, iterator, 0), stopped)
