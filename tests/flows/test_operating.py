"""Operating: a worker's log and metrics tell what happened, agree with the books, and never what was said."""

import json
import re
import signal
import socket
import urllib.error
import urllib.request

from prometheus_client.parser import text_string_to_metric_families

from tests.flows.tidemill import Tidemill
from tests.waiting import limit
from tidemill.simulator import Simulator

SECRET = "sk-canary-" + "4f9d" * 8
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("", 0))
        port: int = taken.getsockname()[1]
    return port


def get(port: int, path: str) -> tuple[int, str]:
    """Status and body; 0 while nobody listens."""
    try:
        with opener.open(f"http://127.0.0.1:{port}{path}", timeout=limit()) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError:
        return 0, ""


def scraped(port: int) -> dict[tuple[str, ...], float]:
    """Every sample as (name, label values in the order of their names) -> value."""
    families = text_string_to_metric_families(get(port, "/metrics")[1])
    samples = (sample for family in families for sample in family.samples)
    return {(each.name, *(each.labels[name] for name in sorted(each.labels))): each.value for each in samples}


def test_log_and_metrics_tell_what_the_books_say_and_nothing_that_was_said(
    alone: Tidemill, simulator: Simulator
) -> None:
    prompts = [*(f"confidential {number}" for number in range(40)), "!!context confidential", "!!500*1 confidential"]
    path, port = alone.prompts("p.jsonl", prompts), free_port()
    alone.environment |= {"TIDEMILL_LOG": "json", "OPENAI_API_KEY": SECRET}
    with alone.started("worker", "--processes", "2", "--metrics-port", str(port)) as worker:
        worker.until(lambda: get(port, "/healthz") == (200, "ok\n"), "both processes are well")
        alone("ask", "-i", path, "--name", "told", "--detach", "--transport", "http").ok()
        ended = "SELECT count(*) FROM jobs WHERE state IN ('succeeded', 'failed')"
        worker.until(lambda: alone.query(ended) == [(42,)], "all rows have ended")
        succeeded = ("tidemill_attempts_total", "", "succeeded")
        worker.until(lambda: scraped(port).get(succeeded) == 41, "all is counted")
        samples = scraped(port)
        ledger = alone.query("SELECT coalesce(error_code, ''), outcome, count(*) FROM attempts GROUP BY 1, 2")
        (tokens,) = alone.query("SELECT sum(input_tokens), sum(output_tokens), sum(cost_usd) FROM attempts")
        worker.signal(signal.SIGTERM)
        ran = worker.ended()

    assert ran.code == 0
    counted = {key[1:]: n for key, n in samples.items() if key[0] == "tidemill_attempts_total"}
    assert counted == {(code, outcome): number for code, outcome, number in ledger}
    assert samples["tidemill_tokens_total", "input"] == tokens[0]
    assert samples["tidemill_tokens_total", "output"] == tokens[1]
    assert abs(samples["tidemill_cost_usd_total",] - tokens[2]) < 1e-9
    assert simulator.counters()["paid"] == samples[succeeded]
    assert samples["tidemill_call_seconds_count",] == 43
    provider = simulator.url.removeprefix("http://")
    assert samples["tidemill_workers", provider] == samples["tidemill_processes",] == 2
    assert samples["tidemill_database_up",] == 1
    assert samples["tidemill_queue_rows", provider, "due"] == 0
    assert get(port, "/metrics")[0] == 0

    lines = [json.loads(line) for line in ran.err.splitlines()]
    assert all({"time", "level", "event", "message"} <= line.keys() for line in lines)
    events = [line["event"] for line in lines]
    assert [events.count(event) for event in ("start", "failed", "stop")] == [2, 1, 2]
    failed = next(line for line in lines if line["event"] == "failed")
    assert (failed["rows"], failed["code"]) == (1, "context_length_exceeded")
    assert alone.query("SELECT id, epoch FROM jobs WHERE state = 'failed'") == [(failed["job"], failed["epoch"])]
    replies = [row[0] for row in alone.query("SELECT content FROM messages WHERE role = 'assistant'")]
    assert len(replies) == 41
    assert not re.search("confidential|postgres:|@", ran.err)
    assert not any(secret in ran.err for secret in (SECRET, *replies))
