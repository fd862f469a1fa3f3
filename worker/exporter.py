"""One port of `tidemill worker` serves what Prometheus and the probes of a cluster ask for.

`/metrics` has the queue as the database knows it, and what the worker processes have counted; `/healthz` says whether
these live. Only this module knows prometheus-client. Nobody waits for the database longer than a moment.
"""

import importlib.metadata
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import AF_INET, AF_INET6, IPPROTO_IPV6, IPV6_V6ONLY, has_dualstack_ipv6, socket
from socketserver import TCPServer

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector, CollectorRegistry

from tidemill.models import backlog
from tidemill.models.backlog import Backlog
from tidemill.models.database import reading
from tidemill.models.errors import DatabaseError, SettingsError
from tidemill.models.settings import settings
from tidemill.worker.fleet import Fleet
from tidemill.worker.meter import LATENCY, WAIT, by_label, parts

FRESH_SECONDS = 10.0
"""How old what is said of the queue may be: however many scrape, the database is asked no more often."""
PATIENCE_SECONDS = 3.0
"""How long a scrape waits for the database; then it counts as away."""
_MOST_PROVIDERS = 50
_REQUEST_SECONDS = 10.0


class Queue:
    """The backlog as the database had it a moment ago."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._looked_at = float("-inf")
        self._look: threading.Thread | None = None
        self._backlogs: dict[str, Backlog] | None = None

    def read(self) -> dict[str, Backlog] | None:
        """By provider; None while the database is away."""
        with self._lock:
            is_looking = self._look is not None and self._look.is_alive()
            if not is_looking and time.monotonic() - self._looked_at > FRESH_SECONDS:
                self._look = threading.Thread(target=self._ask, name="queue", daemon=True)
                self._look.start()
            look = self._look
        if look is not None:
            look.join(PATIENCE_SECONDS)
            if look.is_alive():
                return None
        return self._backlogs

    def _ask(self) -> None:
        try:
            with reading(FRESH_SECONDS) as connection:
                self._backlogs = backlog.read(connection, [settings().provider])
        except DatabaseError:
            self._backlogs = None
        finally:
            self._looked_at = time.monotonic()


class TidemillCollector(Collector):
    """Makes the metrics anew for each scrape."""

    def __init__(self, fleet: Fleet, queue: Queue) -> None:
        self._fleet, self._queue = fleet, queue

    def collect(self) -> Iterator[Metric]:
        """Those of the processes, then those of the queue."""
        yield from self._of_processes()
        yield from self._of_queue()

    def _of_processes(self) -> Iterator[Metric]:
        counts, gauges = self._fleet.counts(), self._fleet.gauges()
        about = GaugeMetricFamily("tidemill_info", "Always 1.", labels=("version", "provider"))
        about.add_metric((importlib.metadata.version("tidemill"), settings().provider), 1)
        yield about
        attempts = CounterMetricFamily("tidemill_attempts", "Calls that ended.", labels=("outcome", "code"))
        for name, number in by_label(counts, "attempts:").items():
            attempts.add_metric(name.split(":", 1), number)
        yield attempts
        tokens = CounterMetricFamily("tidemill_tokens", "Tokens that were paid for.", labels=("direction",))
        for direction in ("input", "output"):
            tokens.add_metric((direction,), counts.get(f"{direction}_tokens", 0))
        yield tokens
        cost = "What the calls cost, in dollars, as far as prices are known."
        yield CounterMetricFamily("tidemill_cost_usd", cost, value=counts.get("cost_usd", 0))
        for name, histogram, text in (
            ("tidemill_call_seconds", LATENCY, "From sending a call to its end."),
            ("tidemill_limit_wait_seconds", WAIT, "How long calls waited for limits until they might go."),
        ):
            buckets = [("+Inf" if bound == float("inf") else f"{bound:g}", n) for bound, n in parts(counts, histogram)]
            family = HistogramMetricFamily(name, text)
            family.add_metric((), buckets, counts.get(f"{histogram}:sum", 0))
            yield family
        for name, gauge, text in (
            ("tidemill_window", "window", "Calls that may be in flight at once."),
            ("tidemill_slots_used", "slots", "Jobs that have a slot of the window: calling, or waiting for a limit."),
            ("tidemill_calls_in_flight", "calls", "Calls that are sent and have not ended."),
            ("tidemill_settlements_waiting", "unstored", "Jobs that have ended and are not stored yet."),
            ("tidemill_processes", "processes", "Worker processes that run here."),
        ):
            yield GaugeMetricFamily(name, text, value=gauges.get(gauge, 0))
        yield CounterMetricFamily(
            "tidemill_restarts", "Worker processes that had ended and were started again.", value=self._fleet.restarts
        )

    def _of_queue(self) -> Iterator[Metric]:
        backlogs = self._queue.read()
        is_up = "Whether the database answers; while it does not, nothing is said of the queue."
        yield GaugeMetricFamily("tidemill_database_up", is_up, value=backlogs is not None)
        rows = GaugeMetricFamily(
            "tidemill_queue_rows",
            "Open rows, by what they wait for; the same in every pod.",
            labels=("provider", "state"),
        )
        families = {
            "batches_on_hold": "Batches with open rows that wait for their provider; the same in every pod.",
            "oldest_due_seconds": "For how long the row waits that was due first; the same in every pod.",
            "workers": "Living worker processes of all pods; the same in every pod.",
        }
        gauges = {
            name: GaugeMetricFamily(f"tidemill_{name}", text, labels=("provider",)) for name, text in families.items()
        }
        own_first = sorted((backlogs or {}).items(), key=lambda each: (each[0] != settings().provider, each[0]))
        for provider, each in own_first[:_MOST_PROVIDERS]:
            for state, number in each.rows.items():
                rows.add_metric((provider, state), number)
            for name, gauge in gauges.items():
                gauge.add_metric((provider,), getattr(each, name))
        if backlogs is not None:
            yield rows
            yield from gauges.values()


def serve(port: int, fleet: Fleet) -> None:
    """Serve /metrics and /healthz on all addresses of this machine, on threads that end with the process.

    Raises:
        SettingsError: the port cannot be had.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(TidemillCollector(fleet, Queue()))

    class Handler(BaseHTTPRequestHandler):
        timeout = _REQUEST_SECONDS

        def do_GET(self) -> None:  # as the base class calls it
            path = self.path.partition("?")[0]
            if path == "/metrics":
                encode, content_type = choose_encoder(self.headers.get("Accept", ""))
                self._reply(200, content_type, encode(registry))
            elif path == "/healthz":
                trouble = fleet.trouble()
                self._reply(503 if trouble else 200, "text/plain; charset=utf-8", f"{trouble or 'ok'}\n".encode())
            else:
                self._reply(404, "text/plain; charset=utf-8", b"There are /metrics and /healthz.\n")

        def _reply(self, status: int, content_type: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing: a line for each probe would bury the others."""

    try:
        server = _Server(("", port), Handler)
    except OSError as error:
        raise SettingsError(
            f"The port {port} for metrics cannot be had: {error.strerror}. Choose another one with --metrics-port."
        ) from None
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()


class _Server(ThreadingHTTPServer):
    """Listens for IPv4 and IPv6 where there are both."""

    address_family = AF_INET6 if has_dualstack_ipv6() else AF_INET
    daemon_threads = True
    allow_reuse_port = False
    socket: socket

    def server_bind(self) -> None:
        if self.address_family == AF_INET6:
            self.socket.setsockopt(IPPROTO_IPV6, IPV6_V6ONLY, 0)
        TCPServer.server_bind(self)  # HTTPServer's would ask a name server who we are

    def handle_error(self, *_: object) -> None:
        """A client that went away is no news."""
