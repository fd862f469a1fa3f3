"""A scrape costs little and never fails, whatever becomes of the database."""

import http.client
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, event

from tests.conftest import UseEnvironment
from tests.rows import add_batch, add_jobs
from tests.waiting import limit
from tidemill.models.errors import SettingsError
from tidemill.models.settings import settings
from tidemill.worker import exporter
from tidemill.worker.exporter import Queue, TidemillCollector
from tidemill.worker.fleet import Fleet


def samples(collector: TidemillCollector) -> dict[tuple[str, ...], float]:
    """By name and the values of the labels."""
    found: Iterator[tuple[tuple[str, ...], float]] = (
        ((sample.name, *sample.labels.values()), sample.value)
        for family in collector.collect()
        for sample in family.samples
    )
    return dict(found)


@pytest.mark.usefixtures("database")
def test_however_many_scrape_the_database_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    add_batch("b")
    add_jobs(3, "b")
    asked: list[str] = []

    def note(*of: Any) -> None:
        asked.append(of[2])

    event.listen(Engine, "before_cursor_execute", note)
    collector = TidemillCollector(Fleet(), Queue())
    first = samples(collector)
    assert first["tidemill_queue_rows", settings().provider, "due"] == 3
    assert first["tidemill_database_up",] == 1
    statements = len(asked)
    assert samples(collector) == first
    assert 0 < len(asked) == statements
    monkeypatch.setattr(exporter, "FRESH_SECONDS", 0.0)
    samples(collector)
    assert len(asked) > statements
    event.remove(Engine, "before_cursor_execute", note)


def test_a_database_that_is_away_fails_no_scrape(use_environment: UseEnvironment) -> None:
    use_environment({"TIDEMILL_DATABASE_URL": "postgresql://someone@127.0.0.1:1/nowhere"})
    scraped = samples(TidemillCollector(Fleet(), Queue()))
    assert scraped["tidemill_database_up",] == 0
    assert not any(name.startswith("tidemill_queue") for name, *_ in scraped)
    assert scraped["tidemill_processes",] == 0


def test_more_providers_than_anybody_has_make_no_endless_list(embedded_home: object) -> None:
    for number in range(exporter._MOST_PROVIDERS + 5):
        add_batch(f"b{number}", provider=f"host{number}")
        add_jobs(1, f"b{number}")
    scraped = samples(TidemillCollector(Fleet(), Queue()))
    assert len({name[1] for name in scraped if name[0] == "tidemill_queue_rows"}) == exporter._MOST_PROVIDERS


@pytest.mark.usefixtures("embedded_home")
def test_the_port_says_how_the_fleet_is_and_one_that_is_taken_is_one_sentence() -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=f"The port {port} for metrics cannot be had: .*--metrics-port"):
            exporter.serve(port, Fleet())
    exporter.serve(port, Fleet())
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=limit())
    shown = {}
    for path in ("/healthz", "/metrics", "/else"):
        connection.request("GET", path)
        reply = connection.getresponse()
        shown[path] = (reply.status, reply.read().decode())
        connection.close()
    assert shown["/healthz"] == (503, "no worker has started yet\n")
    assert shown["/metrics"][0] == 200 and "tidemill_info" in shown["/metrics"][1]
    assert shown["/else"][0] == 404
