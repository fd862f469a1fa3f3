"""What somebody else has put into our queue is dropped with one line in the log, and the worker goes on.

A broker is often shared: another program's messages, a typo with redis-cli, an attacker's pickle. Celery would stop for
some of them and print the others, with all that is in them.
"""

import logging
from collections.abc import Callable
from functools import cache
from logging import WARNING
from typing import Any

import kombu
from celery.worker.consumer import Consumer as CeleryConsumer

from tidemill.models.lines import note
from tidemill.models.text import one_line

log = logging.getLogger(__name__)

_UNREADABLE = (ValueError, TypeError, LookupError, AttributeError)
"""What Celery and kombu raise for a message that is not as they write it."""


def log_dropped(why: str) -> None:
    """A message was taken from the queue and will not be looked at again."""
    note(WARNING, "dropped", f"A message that is not ours was dropped: {why}.")


class Consumer(CeleryConsumer):
    """Celery's, for which only messages of our tasks are worth more than a line."""

    def create_task_handler(self, *arguments: Any, **options: Any) -> Callable[[Any], None]:
        """As Celery's, but for a message at which that would stop."""
        handle = super().create_task_handler(*arguments, **options)

        def handle_or_drop(message: Any) -> None:
            try:
                handle(message)
            except _UNREADABLE as error:
                self.on_decode_error(message, error)

        return handle_or_drop

    def on_decode_error(self, message: Any, exc: BaseException) -> None:
        """The body is no JSON, or says that it is something else."""
        self._drop(message, f"it cannot be read ({type(exc).__name__})")

    def on_unknown_message(self, body: object, message: Any) -> None:
        """It is no message of Celery's."""
        self._drop(message, "it names no task")

    def on_unknown_task(self, body: object, message: Any, exc: BaseException) -> None:
        """It is for another program of Celery's."""
        self._drop(message, f"it names the task {one_line(str(exc), 60)}")

    def on_invalid_task(self, body: object, message: Any, exc: BaseException) -> None:
        """It has no arguments, or is encoded in a way that we do not accept."""
        self._drop(message, f"it is no call of a task ({type(exc).__name__})")

    def _drop(self, message: Any, why: str) -> None:
        log_dropped(why)
        message.reject_log_error(log, self.connection_errors)  # type: ignore[attr-defined]  # the stubs lack it


class Connection(kombu.Connection):
    """kombu's, but over Redis an entry of the queue that is not JSON of kombu's own does not end the worker."""

    def get_transport_cls(self) -> Any:
        """The class that speaks to the broker."""
        transport = super().get_transport_cls()
        return _redis_transport() if transport.__module__ == "kombu.transport.redis" else transport


@cache
def _redis_transport() -> Any:
    from kombu.transport import redis  # imported here, because redis-py takes long, and RabbitMQ needs none of it

    class Channel(redis.Channel):
        def _brpop_read(self, **options: Any) -> bool | None:
            try:
                return bool(super()._brpop_read(**options))  # type: ignore[misc]  # the stubs lack it
            except _UNREADABLE as error:
                log_dropped(f"it cannot be read ({type(error).__name__})")
                return True

    return type("Transport", (redis.Transport,), {"Channel": Channel})
