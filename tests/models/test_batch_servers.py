"""Every server's words for a batch mean one thing, and what nobody knows loses no answer."""

from datetime import UTC, datetime
from typing import Any

import pytest

from tidemill.models.batch_servers import (
    BatchError,
    batch_of,
    batch_server,
    counts_of,
    errors_of,
    files_of,
    is_known_to_take,
    queue_limit_of,
    status_of,
    time_of,
    why_not,
)


@pytest.mark.parametrize(
    ("url", "name", "purpose", "window", "megabytes"),
    [
        ("https://api.openai.com/v1", "OpenAI", "batch", "24h", 200),
        ("https://ours.openai.azure.com/openai/v1/", "Azure", "batch", "24h", 200),
        ("https://ours.services.ai.azure.com/openai/v1/", "Azure", "batch", "24h", 200),
        ("https://api.groq.com/openai/v1", "Groq", "batch", "24h", 100),
        ("https://api.together.xyz/v1", "Together", "batch-api", "24h", 100),
        ("api.deepinfra.com/v1/openai", "DeepInfra", "batch", "24h", 200),
        ("https://API.novita.ai:443/openai/v1", "Novita", "batch", "48h", 200),
        ("http://127.0.0.1:8000/v1", "this server", "batch", "24h", 200),
        ("https://api.openai.com.example.org/v1", "this server", "batch", "24h", 200),
        ("https://notapi.groq.com/v1", "this server", "batch", "24h", 200),
    ],
)
def test_a_server_is_known_by_its_host(url: str, name: str, purpose: str, window: str, megabytes: int) -> None:
    server = batch_server(url)
    assert server is not None
    assert (server.name, server.purpose, server.windows[0]) == (name, purpose, window)
    assert server.most_bytes == megabytes * 1_000_000
    assert (server.price_factor == 0.8) == (name == "DeepInfra")


def test_what_cannot_go_by_batch_is_said() -> None:
    assert batch_server("https://openrouter.ai/api/v1") is None
    assert why_not("https://openrouter.ai/api/v1", "chat") == "OpenRouter has batches of another shape than OpenAI's"
    assert why_not("https://api.groq.com/openai/v1", "responses") == "Groq takes no batches for the endpoint responses"
    assert why_not("https://api.groq.com/openai/v1", "chat") is None
    assert why_not("http://localhost:8000/v1", "responses") is None
    assert is_known_to_take("https://api.openai.com/v1", "responses")
    assert is_known_to_take("http://localhost:8000/v1", "chat")
    assert not is_known_to_take("http://localhost:8000/v1", "responses")


@pytest.mark.parametrize(
    ("words", "status"),
    [
        ("validating", "validating"), ("VALIDATING", "validating"), ("NOT_STARTED", "validating"),
        ("in_progress", "in_progress"), ("IN_PROGRESS", "in_progress"), ("PROGRESS", "in_progress"),
        ("InProgress", "in_progress"), ("in-progress", "in_progress"), ("finalizing", "finalizing"),
        ("cancelling", "cancelling"), ("canceling", "cancelling"), ("completed", "completed"),
        ("COMPLETED", "completed"), ("FAILED", "failed"), ("expired", "expired"), ("EXPIRED", "expired"),
        ("TIMEOUT_EXCEEDED", "expired"), ("CANCELLED", "cancelled"), ("canceled", "cancelled"),
        ("awaiting_capacity", "in_progress"), ("", "in_progress"), (None, "in_progress"), (7, "in_progress"),
        ({"a": 1}, "in_progress"),
    ],
)  # fmt: skip
def test_a_status_is_read_in_any_words(words: object, status: str) -> None:
    assert status_of({"status": words}) == status
    assert status_of({}) == "in_progress"


@pytest.mark.parametrize(
    ("remote", "counts"),
    [
        ({"request_counts": {"total": 9, "completed": 4, "failed": 1}}, (9, 4, 1)),
        ({"request_counts": {"total": None, "completed": None, "failed": None}}, (None, None, None)),
        ({"request_counts": None}, (None, None, None)),
        ({"request_counts": None, "progress": 75.0}, (10, 7, None)),
        ({"progress": "12.5"}, (10, 1, None)),
        ({"progress": 400}, (10, 10, None)),
        ({"progress": float("inf")}, (None, None, None)),
        ({"progress": float("nan")}, (None, None, None)),
        ({"total": 9, "completed": 4, "failed": 0}, (9, 4, 0)),
        ({"request_counts": {"total": "9", "completed": -1, "failed": True}}, (9, None, None)),
        ({"request_counts": "many"}, (None, None, None)),
        ({}, (None, None, None)),
    ],
)
def test_counts_are_what_the_server_says_or_nothing(remote: dict[str, Any], counts: tuple[int | None, ...]) -> None:
    assert counts_of(remote, 10) == counts
    assert counts_of({"progress": 50.0}) == (None, None, None)
    assert counts_of({"request_counts": {"completed": 3, "failed": 2}}).done == 5


def test_files_are_those_that_are_there() -> None:
    assert files_of({"output_file_id": "file-1", "error_file_id": "file-2"}) == ["file-1", "file-2"]
    assert files_of({"output_file_id": None, "error_file_id": "file-2"}) == ["file-2"]
    assert files_of({"output_file_id": "", "error_file_id": ""}) == []
    assert files_of({"output_file_id": "file-1", "error_file_id": "file-1"}) == ["file-1"]
    assert files_of({"output_file_id": 7}) == []


def test_the_batch_that_was_created_may_be_wrapped() -> None:
    job = {"id": "b1", "status": "VALIDATING"}
    assert batch_of({"job": job, "warning": ""}) == job
    assert batch_of({"id": "b2", "job": job}) == {"id": "b2", "job": job}
    assert batch_of({"job": None}) == {"job": None}


@pytest.mark.parametrize(
    ("remote", "errors"),
    [
        ({"errors": {"object": "list", "data": [{"code": "c", "message": "m", "param": None, "line": 3}]}},
         [BatchError("c", "m", 3)]),
        ({"errors": {"data": [{"code": None, "message": "m", "line": None}]}}, [BatchError("", "m", None)]),
        ({"errors": [{"message": "m", "line": "4"}, "x"]}, [BatchError("", "m", 4)]),
        ({"errors": "the file is empty"}, [BatchError("", "the file is empty", None)]),
        ({"error": "no such model"}, [BatchError("", "no such model", None)]),
        ({"error": {"code": 7, "message": "m"}}, [BatchError("7", "m", None)]),
        ({"errors": None}, []), ({"errors": {"data": None}}, []), ({"errors": ""}, []), ({"errors": 5}, []), ({}, []),
    ],
)  # fmt: skip
def test_why_a_batch_failed_is_read_in_any_shape(remote: dict[str, Any], errors: list[BatchError]) -> None:
    assert errors_of(remote) == errors


@pytest.mark.parametrize(
    ("message", "limit"),
    [
        ("Enqueued token limit reached for gpt-6-luna in org-1. Limit: 90,000 enqueued tokens. Wait.", 90_000),
        ("Enqueued token limit reached for gpt-4o in organization org. Limit: 1,350,000 enqueued tokens.", 1_350_000),
        ("limit 200000 tokens", 200_000),
        ("Too many tokens", None),
        ("", None),
    ],
)  # fmt: skip
def test_the_limit_of_the_queue_is_read_from_its_sentence(message: str, limit: int | None) -> None:
    assert queue_limit_of(message) == limit


def test_times_are_seconds_or_text() -> None:
    moment = datetime(2026, 11, 29, 2, tzinfo=UTC)
    for value in (moment.timestamp(), moment.timestamp() * 1000, "2026-11-29T02:00:00Z", "2026-11-29T02:00:00"):
        assert time_of({"expires_at": value}, "expires_at") == moment
    for nothing in (None, "", 0, "soon", 1e300, True):
        assert time_of({"expires_at": nothing}, "expires_at") is None
