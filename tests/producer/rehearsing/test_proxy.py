"""What stands between workers and a server passes bytes on, or does to them what it is told."""

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest
from sqlalchemy import make_url

from tests.waiting import limit, wait_until
from tidemill.producer.rehearsing.proxy import HOST, Proxy, broker, database


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    """A proxy before a server that sends back whatever it gets."""
    with socket.create_server((HOST, 0)) as server:
        threading.Thread(target=_echo, args=(server,), daemon=True).start()
        with Proxy(server.getsockname()[:2]) as opened:
            yield opened


def _echo(server: socket.socket) -> None:
    with suppress(OSError):
        while True:
            connection, _ = server.accept()
            threading.Thread(target=_send_back, args=(connection,), daemon=True).start()


def _send_back(connection: socket.socket) -> None:
    with suppress(OSError), connection:
        while chunk := connection.recv(100):
            connection.sendall(chunk)


def connected(proxy: Proxy) -> socket.socket:
    return socket.create_connection((HOST, proxy.port), timeout=limit())


def says(connection: socket.socket, text: bytes) -> bytes:
    connection.sendall(text)
    return connection.recv(100)


def is_refused(proxy: Proxy) -> bool:
    try:
        with connected(proxy) as connection:
            return says(connection, b"x") != b"x"
    except ConnectionError:
        return True


def test_it_passes_on_what_is_said(proxy: Proxy) -> None:
    with connected(proxy) as one, connected(proxy) as other:
        assert (says(one, b"1"), says(other, b"2"), says(one, b"3")) == (b"1", b"2", b"3")


def test_a_cut_breaks_connections_with_a_reset_and_refuses_new_ones_until_it_is_open(proxy: Proxy) -> None:
    with connected(proxy) as connection:
        assert says(connection, b"1") == b"1"
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
    wait_until(lambda: is_refused(proxy), "new ones are refused")
    proxy.open()
    wait_until(lambda: not is_refused(proxy), "new ones are served")


def test_a_silenced_connection_stays_dead_and_does_not_even_end(proxy: Proxy) -> None:
    with connected(proxy) as connection:
        assert says(connection, b"1") == b"1"
        proxy.silence()
        with connected(proxy) as late:
            late.settimeout(0.3)
            with pytest.raises(TimeoutError):
                says(late, b"2")
        proxy.open()
        wait_until(lambda: not is_refused(proxy), "new ones are served")
        proxy.cut()
        connection.settimeout(0.3)
        with pytest.raises(TimeoutError):
            says(connection, b"3")


def test_what_is_slow_comes_late_and_whole(proxy: Proxy) -> None:
    with connected(proxy) as connection:
        proxy.slow()
        assert says(connection, b"1") == b"1"


def test_a_server_that_is_not_there_is_a_reset() -> None:
    with socket.create_server((HOST, 0)) as server:
        port = server.getsockname()[1]
    with Proxy((HOST, port)) as proxy:
        assert is_refused(proxy)


@pytest.mark.parametrize(
    ("url", "target", "through"),
    [
        (
            "postgresql://u:p%40@db.example:5433/t?sslmode=verify-full",
            ("db.example", 5433),
            "postgresql://u:p%40@db.example:9/t?hostaddr=127.0.0.1&sslmode=verify-full",
        ),
        ("postgres://db/t", ("db", 5432), "postgresql://db:9/t?hostaddr=127.0.0.1"),
        (
            "postgresql://u@/t?host=/run/pg",
            "/run/pg/.s.PGSQL.5432",
            "postgresql://u@/t?host=%2Frun%2Fpg&hostaddr=127.0.0.1&port=9",
        ),
    ],
)
def test_postgres_is_reached_through_it_under_its_own_name(url: str, target: object, through: str) -> None:
    route = database(url)
    assert route is not None
    assert (route[0], make_url(route[1](9))) == (target, make_url(through))


@pytest.mark.parametrize(
    ("url", "target", "through"),
    [
        ("redis://u:p@queue:6380/2", ("queue", 6380), "redis://u:p@127.0.0.1:9/2"),
        ("redis+socket:///run/redis.sock?virtual_host=3", "/run/redis.sock", "redis://127.0.0.1:9/3"),
        ("amqp://u:p@queue//vhost", ("queue", 5672), "amqp://u:p@127.0.0.1:9//vhost"),
    ],
)
def test_a_broker_is_reached_through_it(url: str, target: object, through: str) -> None:
    route = broker(url)
    assert route is not None
    assert (route[0], route[1](9)) == (target, through)


@pytest.mark.parametrize("url", ["rediss://queue", "amqps://queue"])
def test_a_broker_whose_certificate_would_not_fit_is_left_alone(url: str) -> None:
    assert broker(url) is None


@pytest.mark.parametrize("url", ["sqlite:///t.db", "postgresql://one,two/t", "postgresql:///t"])
def test_a_database_whose_address_is_not_known_is_left_alone(url: str) -> None:
    assert database(url) is None
