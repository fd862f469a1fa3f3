"""The broker carries job ids and nothing else, and all dealings with it are here.

This module has the Celery app (below both sides, so that app and tasks never form a circle) and sends job ids. No
prompt, no picture and no key is ever in a message.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

import orjson
from celery import Celery
from kombu.common import maybe_declare
from kombu.exceptions import OperationalError as BrokerLost

from tidemill.models import urls
from tidemill.models.errors import BrokerError, SettingsError
from tidemill.models.json_types import JsonObject
from tidemill.models.messages import Connection
from tidemill.models.servers import Server, read_url, reason_of
from tidemill.models.settings import settings

QUEUE = "tidemill."
"""Begins the queue's name; its rest is the provider, since no worker may call another one's."""

_TRY_SECONDS = 4
"""How long a check waits for one reply."""

TASK = "tidemill.run"
"""The one task: it gets job ids, and looks up the kind of the jobs itself."""

_BROKER_OPTIONS: dict[str, JsonObject] = {
    "redis": {
        "visibility_timeout": 600,
        "socket_timeout": 30,
        "socket_connect_timeout": 5,
        "socket_keepalive": True,
        "health_check_interval": 25,
    },
    "amqp": {"confirm_publish": True},
}


def queue_name() -> str:
    """The queue of the configured provider's jobs."""
    return QUEUE + settings().provider


def _configuration(server: Server) -> dict[str, Any]:
    is_amqp = server.kind == "amqp"
    return {
        "broker_url": server.celery_url,
        "broker_use_ssl": server.celery_tls,
        "broker_transport_options": _BROKER_OPTIONS.get(server.kind, {}),  # without a broker, only checks use the app
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_connection_timeout": 4,
        "broker_pool_limit": 8,
        "task_default_queue": queue_name(),
        "task_default_queue_type": "quorum" if is_amqp else "classic",
        "worker_detect_quorum_queues": is_amqp,
        "task_ignore_result": True,
        "task_store_errors_even_if_ignored": False,
        # The database is the truth: a message may be lost, a claim may not.
        "task_acks_late": False,
        "task_serializer": "json",
        "accept_content": ["json"],
        "task_publish_retry": False,
        "worker_consumer": "tidemill.models.messages:Consumer",
        "worker_prefetch_multiplier": 1,
        "worker_pool": "threads",
        "worker_concurrency": 2,
        "worker_disable_rate_limits": True,
        "worker_enable_remote_control": False,
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
        "worker_send_task_events": False,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "enable_utc": True,
        "timezone": "UTC",
    }


class _Celery(Celery):
    """An app that only our settings configure: not the CELERY_BROKER_URL of somebody's own project, whose environment
    we may have been started in; nor, by its `loader` and `fixups`, that project's own modules.
    """

    def connection_for_read(self, url: str | None = None, **options: Any) -> Any:
        """As Celery's, on our broker."""
        return super().connection_for_read(url or settings().broker.celery_url, **options)

    def connection_for_write(self, url: str | None = None, **options: Any) -> Any:
        """As Celery's, on our broker."""
        return super().connection_for_write(url or settings().broker.celery_url, **options)


@cache
def app() -> Celery:
    """The process's Celery app, configured from the settings."""
    celery = _Celery("tidemill", set_as_current=False, loader="app", fixups=[])
    celery.amqp.Connection = Connection
    celery.config_from_object(_configuration(settings().broker))  # and so no CELERY_CONFIG_MODULE is looked for
    return celery


def forget_app() -> None:
    """Have the next use make a new app: the settings name another broker or provider."""
    if app.cache_info().currsize:
        app().close()
        app.cache_clear()


def _begin_anew() -> None:
    """A fork shares no connection with its parent."""
    app.cache_clear()


os.register_at_fork(after_in_child=_begin_anew)


def send(messages: Iterable[Sequence[int]]) -> None:
    """Send messages of job ids.

    Raises:
        BrokerError: the broker did not take them; what it took before may arrive twice, which is harmless.
    """
    with _channel() as channel:
        # A broker drops messages without a queue, and this may be its first use, before any worker.
        maybe_declare(app().amqp.queues[queue_name()], channel)
        producer = app().amqp.Producer(channel, auto_declare=False)
        for ids in messages:
            app().send_task(TASK, args=(list(ids),), producer=producer, ignore_result=True, argsrepr="ids")


def queue_is_empty() -> bool:
    """True when no message of ours waits in the broker.

    Raises:
        BrokerError: the broker does not answer.
    """
    with _channel() as channel:
        declared: Any = app().amqp.queues[queue_name()](channel).queue_declare()  # the stubs take it for a name
        return int(declared.message_count) == 0


def remove_queue() -> None:
    """Remove our queue, and what of it nobody acknowledged, from the broker. Only when its workers have ended for ever.

    Raises:
        BrokerError: the broker does not answer.
    """
    name = app().conf.task_default_queue
    with _channel() as channel:
        queue: Any = app().amqp.queues[name](channel)
        queue.declare()
        queue.delete()
        if hasattr(channel, "unacked_key"):  # Redis: one table for all queues, which others would fill ours from again
            for tag, message in channel.client.hscan_iter(channel.unacked_key):
                if orjson.loads(message)[2] == name:
                    channel.client.hdel(channel.unacked_key, tag)
                    channel.client.zrem(channel.unacked_index_key, tag)


@contextmanager
def _channel() -> Iterator[Any]:
    """A channel of a pooled connection; errors of the broker's client become a sentence."""
    pooled: Any = app().pool
    with _sentences(), pooled.acquire(block=True) as connection:
        yield connection.default_channel


@contextmanager
def _sentences() -> Iterator[None]:
    """Errors of the broker's client become a sentence."""
    try:
        yield
    except Exception as error:
        if not _is_transport_error(error):
            raise
        raise BrokerError(
            f"The broker {shown_url()} does not answer ({reason_of(error)}). "
            "Start it or fix TIDEMILL_BROKER_URL; the jobs are stored and run once it answers."
        ) from error


def _is_transport_error(error: Exception) -> bool:
    """Whether the broker is the cause; which exceptions mean that depends on the transport."""
    connection = app().connection_for_write()
    return isinstance(error, (BrokerLost, OSError, *connection.connection_errors, *connection.channel_errors))


def shown_url() -> str:
    """The broker's address without its password."""
    return urls.shown_url(settings().broker_url)


def check() -> None:
    """Try the broker.

    Raises:
        BrokerError: it does not answer, or not to us; the text says why.
        SettingsError: it is no server that can be a broker.
    """
    with _sentences():
        _try(settings().broker, shown_url(), "TIDEMILL_BROKER_URL")


def refuse_unsupported() -> None:
    """Raise SettingsError for a server that can never be a broker. One that does not answer may answer later."""
    with suppress(BrokerError):
        check()


def check_limits() -> None:
    """Try the Redis of the shared limits, if it is another one than the broker. Errors as for `check`."""
    url = settings().limits_url
    if not url:
        return
    shown = urls.shown_url(url)
    try:
        _try(read_url(url, "limits"), shown, "TIDEMILL_LIMITS_URL")
    except BrokerLost as error:
        raise BrokerError(
            f"The Redis of the shared limits {shown} does not answer ({reason_of(error)}). "
            "Start it or fix TIDEMILL_LIMITS_URL; until then each worker process keeps limits of its own."
        ) from None


def _try(server: Server, shown: str, variable: str) -> None:
    url, tls = server.celery_url, server.celery_tls
    options = _BROKER_OPTIONS[server.kind] | ({"socket_timeout": _TRY_SECONDS} if server.kind == "redis" else {})
    # False rather than None, which would mean the broker's TLS
    with app().connection_for_write(url, ssl=tls or False, transport_options=options) as connection:
        connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0, timeout=_TRY_SECONDS)
        if server.kind != "redis":
            return
        channel: Any = connection.default_channel  # the stubs do not know Redis' own
        mode = _mode(channel.client)
    if mode not in {"", "standalone"}:
        raise SettingsError(
            f"{variable}: {shown} belongs to Redis {mode.capitalize()}, which is not supported. Name one Redis server."
        )


def _mode(client: Any) -> str:
    """standalone, cluster or sentinel; "" where the server does not tell, since a user may lack the right."""
    try:
        told = client.info("server")
    except Exception:  # noqa: BLE001  # whatever the client raises; the connection itself is tried already
        return ""
    return str(told.get("redis_mode") or told.get("server_mode") or "")  # Valkey has another name for it
