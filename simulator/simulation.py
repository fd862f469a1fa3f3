"""What a request gets is decided in one place and in one order, so that a test can foresee it.

Order: key, request body, model, limits, mode of the whole server, the prompt's own script, random faults, a good reply.
Randomness is a pure function of seed, prompt and how often it was called, so concurrency cannot change a run.
"""

import math
import os
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import replace
from hashlib import blake2b, sha256
from pathlib import Path
from statistics import NormalDist
from typing import Any

import orjson

from tidemill.simulator import costs, routes
from tidemill.simulator.backgrounds import Background
from tidemill.simulator.batches import Batch
from tidemill.simulator.calls import BadCallError, Call, read_call
from tidemill.simulator.contents import Body
from tidemill.simulator.faults import (
    BATCH_FAULTS,
    CONTENT_FAULTS,
    FAULTS,
    MODES,
    UNPAID,
    WHOLE_SERVER,
    Answer,
    good,
    has_script,
    model_not_found,
    rejection,
    scripted,
    unknown_in,
)
from tidemill.simulator.ledger import Ledger, paid_entry
from tidemill.simulator.limits import Limits, Overrun
from tidemill.simulator.options import Options, changed, passes
from tidemill.simulator.replies import model_card
from tidemill.simulator.requests import MissingError, Request
from tidemill.simulator.running import Running
from tidemill.simulator.shelf import Shelf

# A wide but believable tail: with 0.6 the 99th percentile is 3.4 times the mean.
LATENCY_SIGMA = 0.6
LIMIT_FIELDS = {"rpm", "tpm", "limit_policy", "limit_burst_seconds"}
DEFAULT_MODELS = ("gpt-6-luna", "gpt-4.1-mini", "gpt-4o-mini")
NO_CALL = Call("chat", "", "", [], b"", 0, None, None)
_normal = NormalDist()


def _masked(key: str) -> str:
    return f"{key[:8]}{'*' * 20}{key[-4:]}" if len(key) > 12 else "*" * len(key)


class Simulation:
    """The state of the whole server. Knows nothing of sockets."""

    def __init__(self, options: Options, log: Path | None) -> None:
        self.start_options = check(options)
        self.options = options
        self.ledger = Ledger(log)
        self.shelf = Shelf(log and log.with_name(f"{log.name}.shelf"))
        self._calls_by_prompt: Counter[bytes] = Counter()
        # Unlike in two processes, so that an id seen before and after a restart is a real duplicate.
        self._id_prefix = os.urandom(8).hex()
        self._ids = 0
        self._limits = self._new_limits()
        self._at_gate: deque[Callable[[], None]] = deque()
        self._passes = passes(options.gate)
        self._half_sent: list[Callable[[], None]] = []
        self.running = Running(self.shelf, self.run_line, lambda: self.options)

    def _new_limits(self) -> Limits:
        options = self.options
        return Limits(options.rpm, options.tpm, options.limit_policy, options.limit_burst_seconds, now=time.monotonic())

    def next_identity(self) -> str:
        self._ids += 1
        return f"{self._id_prefix}{self._ids:016x}"

    def limit_headers(self) -> bytes:
        return self._limits.headers(time.monotonic()) if self.options.limit_headers else b""

    def control(self, changes: dict[str, Any]) -> None:
        self.options = check(changed(self.options, changes))
        if LIMIT_FIELDS & changes.keys():
            self._limits = self._new_limits()
        if "gate" in changes:
            self._passes = passes(self.options.gate)
        self._let_through()

    def finish(self, call: Callable[[], None]) -> None:
        """Send a call's reply now, or once the gate lets it through."""
        self._at_gate.append(call)
        self._let_through()

    def go_on(self, stream: Callable[[], None]) -> None:
        """Send the second half of a streamed reply now, or once its gate is open."""
        self._half_sent.append(stream)
        self._let_through()

    def _let_through(self) -> None:
        while self._at_gate and self._passes > 0:
            self._passes -= 1
            self._at_gate.popleft()()
        if self.options.stream_gate == "open":
            streams, self._half_sent = self._half_sent, []
            for stream in streams:
                stream()

    def reset(self) -> None:
        self.options = self.start_options
        self._passes = passes(self.options.gate)
        self._let_through()
        self._limits = self._new_limits()
        self._calls_by_prompt.clear()
        self.ledger = self.ledger.closed()
        self.shelf.clear()
        self.running.forget()

    def close(self) -> None:
        self.ledger.close()
        self.shelf.close()

    def unauthorised(self, authorization: bytes) -> Answer | None:
        expected = self.options.key
        if expected is None:
            return None
        given = authorization.removeprefix(b"Bearer ").decode("latin-1").strip()
        if given == expected:
            return None
        if not given:
            message = "You didn't provide an API key. You need to provide your API key in an Authorization header."
            return rejection(401, "invalid_request_error", message)
        where = "You can find your API key at https://platform.openai.com/account/api-keys."
        message = f"Incorrect API key provided: {_masked(given)}. {where}"
        return rejection(401, "invalid_request_error", message, None, "invalid_api_key")

    def costs(self, authorization: bytes, query: str) -> Answer:
        key = authorization.removeprefix(b"Bearer ").decode("latin-1").strip()
        return costs.answer(self.ledger.paid, self.options, key, query)

    def models(self, name: str | None) -> Answer:
        """`GET /models` or, with a name, `GET /models/{name}`."""
        fault = MODES.get(self.options.mode)
        if fault in WHOLE_SERVER:
            return FAULTS[fault](NO_CALL, self.options, "")
        if name is None:
            named = self.options.models or dict.fromkeys((*DEFAULT_MODELS, *self.options.shutdown))
            cards = [self._card(known) for known in (*named, *self.shelf.tuned_models(time.time()))]
            return Answer(200, orjson.dumps({"object": "list", "data": cards}))
        if not self._exists(name):
            return model_not_found(Call("chat", name, "", [], b"", 0, None, None), self.options, "")
        return Answer(200, orjson.dumps(self._card(name)))

    def _card(self, model: str) -> dict[str, Any]:
        return model_card(model, self.options.shutdown.get(model))

    def _exists(self, model: str) -> bool:
        known = self.options.models
        return not known or model in known or model in self.shelf.tuned_models(time.time())

    def serve(
        self, line: str, query: str, content_type: str, body: Body, identity: str, caller: str
    ) -> tuple[Answer, float]:
        """What a route that is no call sends for `METHOD /path`, and in how many seconds. Whatever it does is done
        now: a caller who is killed while the reply is on its way has created something."""
        request = routes.open_request(line, query, content_type, body, identity, caller, self.shelf, self.options)
        if request is None:
            return rejection(404, "invalid_request_error", f"Invalid URL ({line})"), 0.0
        try:
            routes.read(request)
            fault, luck = self._route_fault(request)
            instead = FAULTS[fault](NO_CALL, self.options, identity) if fault in routes.INSTEAD else None
            request.fault = fault
            answer = instead or routes.do(request)
        except BadCallError as error:
            status = 404 if isinstance(error, MissingError) else 400
            return rejection(status, "invalid_request_error", error.message, error.param, error.code), 0.0
        self.running.look()
        answer.delivery = routes.DELIVERED.get(fault or "", answer.delivery)
        late = self.options.slow_seconds if fault == "slow" else 0.0
        return answer, late + (self._latency_seconds(luck) if answer.takes_latency else 0.0)

    def _route_fault(self, request: Request) -> tuple[str | None, float]:
        """As `_fault`, but a script may also stand in the options, and faults of a prompt do not happen here.

        Each object has turns of its own. Its id is in the draw, so random faults on it differ from run to run.
        """
        text = f"{request.words} {self.options.scripts.get(request.route, '')}"
        call = replace(NO_CALL, prompt=text, digest=sha256(f"{request.route} {request.id} {text}".encode()).digest())
        fault, luck = self._fault(call)
        if fault not in {*routes.INSTEAD, *routes.DELIVERED, *BATCH_FAULTS, *CONTENT_FAULTS}:
            return None, luck
        self.ledger.by_fault[fault] += 1
        return fault, luck

    def answer(
        self, path: str, raw: bytes, identity: str, caller: str
    ) -> tuple[Call | None, str | None, Answer, float]:
        """The call (None if unreadable), the fault's name, what to send, and in how many seconds."""
        try:
            call = read_call(path, orjson.loads(raw))
        except BadCallError as error:
            return None, None, rejection(400, "invalid_request_error", error.message, error.param, error.code), 0.0
        except orjson.JSONDecodeError:
            message = "We could not parse the JSON body of your request. The OpenAI API expects a JSON payload."
            return None, None, rejection(400, "invalid_request_error", message), 0.0
        if not self._exists(call.model):
            return call, None, model_not_found(call, self.options, identity), 0.0
        if overrun := self._limits.admit(call, time.monotonic()):
            self.ledger.limited += 1
            return call, None, _over_limit(call, overrun, told=self.options.limit_headers), 0.0
        fault, luck, answer = self._answer(call, identity)
        if call.window is not None and answer.status == 200:
            return call, fault, self._in_background(call, answer, identity, caller, call.window), 0.0
        seconds = self._latency_seconds(luck) if answer.takes_latency else 0.0
        return call, fault, answer, seconds + answer.extra_seconds

    def _answer(self, call: Call, identity: str) -> tuple[str | None, float, Answer]:
        """The fault's name, the luck that decides the latency, and what to send."""
        fault, luck = self._fault(call)
        if fault is not None:
            self.ledger.by_fault[fault] += 1
        return fault, luck, (FAULTS[fault] if fault is not None else good)(call, self.options, identity)

    def _in_background(self, call: Call, answer: Answer, identity: str, caller: str, window: str) -> Answer:
        """Keep the answer until it is time, and send that it is queued."""
        entry, now = None, time.time()
        if answer.reply is not None:
            route = "background" if window == "soonest" else window
            entry = paid_entry(call, answer.reply, request_id=f"req_{identity}", caller=caller, route=route)
        body = orjson.loads(bytes(answer.body)) | {"id": f"resp_{identity}", "background": True}
        background = Background(f"resp_{identity}", now, now + self.options.background_seconds, body, entry)
        self.shelf.add_background(background)
        return Answer(200, orjson.dumps(background.card(now)), delivery=answer.delivery, takes_latency=False)

    def advance(self) -> None:
        """Do what is due in the background; is called again and again, and does little each time."""
        self.running.advance()
        for background in self.shelf.due_backgrounds(time.time()):
            if background.entry is not None:
                self.ledger.bill(background.entry)
            self.shelf.end_background(background, "done")

    def run_line(self, batch: Batch, call: Call, custom_id: str) -> tuple[str | None, int, str, bytes]:
        """Answer one line of a batch and book it: (fault, status, request id, body)."""
        identity = self.next_identity()
        fault, _luck, answer = self._answer(call, identity)
        request_id = f"req_{identity}"
        if answer.reply is not None and fault not in UNPAID:
            entry = paid_entry(
                call, answer.reply, request_id=request_id, caller=batch.caller, route="batch", fault=fault,
                status=str(answer.status), custom_id=custom_id,
            )  # fmt: skip
            self.ledger.bill(entry)
        return fault, answer.status, request_id, bytes(answer.body)

    def _fault(self, call: Call) -> tuple[str | None, float]:
        """The fault to commit, and a number in (0, 1) that decides the latency."""
        if self.options.mode != "ok":
            # No turn of the prompt's script is used up by a server that is down.
            return MODES[self.options.mode], 0.5
        call.nth = self._calls_by_prompt[call.digest]
        self._calls_by_prompt[call.digest] = call.nth + 1
        draw = blake2b(call.digest + call.nth.to_bytes(4), digest_size=16, salt=self.options.seed.to_bytes(16)).digest()
        fault_luck, latency_luck = (int.from_bytes(part) / 2**64 for part in (draw[:8], draw[8:]))
        if "!!" in call.prompt and has_script(call.prompt):
            return scripted(call.prompt, call.nth), latency_luck
        for name, rate in self.options.faults.items():
            if fault_luck < rate:
                return name, latency_luck
            fault_luck -= rate
        return None, latency_luck

    def _latency_seconds(self, luck: float) -> float:
        mean = self.options.latency_ms / 1000
        if mean <= 0 or self.options.latency_shape == "fixed":
            return mean
        bounded = min(max(luck, 1e-9), 1 - 1e-9)
        return mean * math.exp(LATENCY_SIGMA * _normal.inv_cdf(bounded) - LATENCY_SIGMA**2 / 2)


def check(options: Options) -> Options:
    if options.mode != "ok" and options.mode not in MODES:
        raise ValueError(f"unknown mode {options.mode!r}")
    if unknown := options.faults.keys() - FAULTS.keys():
        raise ValueError(f"unknown fault: {', '.join(sorted(unknown))}")
    if strange := options.scripts.keys() - routes.ROUTES.keys():
        raise ValueError(f"unknown route: {', '.join(sorted(strange))}")
    if wrong := [name for script in options.scripts.values() for name in unknown_in(script)]:
        raise ValueError(f"unknown fault: {', '.join(wrong)}")
    return options


def _over_limit(call: Call, overrun: Overrun, *, told: bool) -> Answer:
    where = f"for {call.model} on {overrun.kind} per min: Limit {overrun.limit}"
    if overrun.too_large:
        return rejection(429, overrun.kind, f"Request too large {where}.", None, "rate_limit_exceeded")
    milliseconds = math.ceil(overrun.wait_seconds * 1000)
    message = f"Rate limit reached {where}. Please try again in {milliseconds}ms."
    answer = rejection(429, overrun.kind, message, None, "rate_limit_exceeded")
    seconds = math.ceil(overrun.wait_seconds)
    if told:
        answer.headers = f"retry-after: {seconds}\r\nretry-after-ms: {milliseconds}\r\n".encode()
    return answer
