"""Foreign files are worked on several at a time, each by a child that they can only take down with them.

What a child is, and how it is spoken to, is in models/child.py.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Self, TypeAlias

from tidemill.models.child import Child, Parent, limit_memory
from tidemill.models.errors import TidemillError

Frame: TypeAlias = tuple[Any, bytes]
"""A JSON value and bytes: what is sent to a child and comes back."""

ITEM_SECONDS = 5.0
"""A child that takes longer over one item is killed."""
MEMORY_BYTES = 256 * 2**20
"""Address space that a child may use beyond what it has when it is ready."""


class Children:
    """Turns items into results in child processes, one item at a time in each; they start when there is work for them.

    `make` is a function of some module. The child calls it with `settings`; it returns the function from item to
    result. Close this object: that ends every child at once, whatever it is doing.
    """

    def __init__(self, count: int, make: Callable[..., Callable[[Any, bytes], Frame]], *settings: object) -> None:
        imports = (f"from {each.__module__} import {each.__name__}" for each in (serve, make))
        self._code = f"{'; '.join(imports)}; {serve.__name__}({make.__name__})"
        self._settings = settings
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="children")
        self._lock = threading.Lock()
        self._living: set[Child] = set()
        self._idle: list[Child] = []
        self._closed = False

    def submit(self, head: object, body: bytes = b"") -> Future[Frame]:
        """Send an item without waiting. The future has the result, or raises what became of the child.

        Raises (from the future):
            TimeoutError: the child took longer than `ITEM_SECONDS`, and was killed.
            EOFError: the child died of the item.
            TidemillError: no child can be started.
        """
        return self._threads.submit(self._work, head, body)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill the children and wait until they are gone; open items get no result. May be called again."""
        with self._lock:
            self._closed = True
            for child in self._living:
                child.kill()
        self._threads.shutdown(cancel_futures=True)
        for child in list(self._living):
            self._end(child)

    def _work(self, head: object, body: bytes) -> Frame:
        with self._lock:
            child = self._idle.pop() if self._idle else None
        if child is not None and not child.is_alive:  # it died while it was idle
            self._end(child)
            child = None
        child = child or self._start()
        try:
            child.send(head, body, seconds=ITEM_SECONDS)
            result = child.receive(ITEM_SECONDS)
        except (TimeoutError, EOFError):
            self._end(child)
            raise
        self._idle.append(child)
        return result

    def _start(self) -> Child:
        with self._lock:
            if self._closed:
                raise EOFError
            child = Child(self._code)
            self._living.add(child)
        try:
            child.wait_until_ready(self._settings)
        except TidemillError:
            self._end(child)
            raise
        return child

    def _end(self, child: Child) -> None:
        child.end()
        with self._lock:
            self._living.discard(child)


def serve(make: Callable[..., Callable[[Any, bytes], Frame]]) -> None:
    """Be the child: receive settings and then items, and send a result for each."""
    parent = Parent(2 * ITEM_SECONDS)
    work = make(*parent.settings)
    limit_memory(MEMORY_BYTES)
    parent.say_ready()
    while True:
        parent.send(*work(*parent.receive()))
