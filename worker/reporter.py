"""A worker tells its operator once a minute what happened, and at once when something begins that matters.

All of it is worked out from the worker's counts by a thread of its own that looks at them every second, so that a call
costs nothing for it. The process that serves metrics gets the counts from here, too, through a pipe.
"""

import importlib.metadata
import json
import math
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from logging import INFO, WARNING
from typing import BinaryIO

from tidemill.models import backlog, journal
from tidemill.models.database import engine, reading
from tidemill.models.durations import in_words
from tidemill.models.lines import note
from tidemill.models.money import shown
from tidemill.models.settings import settings
from tidemill.models.urls import shown_url
from tidemill.worker.meter import LATENCY, Counts, Failure, by_label, difference, quantile, total
from tidemill.worker.rounds import Rounds
from tidemill.worker.runner import Runner
from tidemill.worker.storms import STORM_SECONDS, Storm, Storms

TICK_SECONDS = 1.0
MINUTE_SECONDS = 60.0
LOOK_SECONDS = 5.0
"""How long a server may take to say what waits."""


class Reporter:
    """The log's minutes of one worker process.

    Args:
        runner: whose calls they are about.
        pipe: gets the counts every second, as lines of JSON; None: nobody serves them.
    """

    def __init__(self, runner: Runner, pipe: BinaryIO | None = None) -> None:
        self._runner, self._pipe = runner, pipe
        self._began_at = self._minute_at = time.monotonic()
        self._minute_counts = runner.counts()
        self._storms = Storms()
        self._storms.look(self._began_at, self._minute_counts)
        self._untold: dict[tuple[str, str], Failure] = {}
        self._told_at: dict[tuple[str, str], float] = {}
        self._is_idle = False
        self._say_start()
        self._rounds = Rounds("reporter", {self._tick: TICK_SECONDS})

    def close(self) -> None:
        """Tell what is not told yet, and that the worker has stopped."""
        self._rounds.stop()
        self._rounds.join(TICK_SECONDS)  # a look at a database that is away need not be waited for
        at, counts = time.monotonic(), self._runner.counts()
        self._tell_failures(at, all_of_them=True)
        for kind, storm in self._storms.blowing.items():
            self._say_end(kind, storm, "until the stop")
        self._say_rates(difference(counts, self._minute_counts), at - self._minute_at)
        self._say_stop(at, counts)
        self._send(counts)

    def _tick(self) -> None:
        at, counts = time.monotonic(), self._runner.counts()
        self._send(counts)
        self._tell_failures(at)
        begun, over = self._storms.look(at, counts)
        for kind, storm in begun.items():
            self._say_begin(kind, storm)
        for kind, storm in over.items():
            self._say_end(kind, storm, "and none lately")
        if at - self._minute_at >= MINUTE_SECONDS:
            self._tell_minute(at, counts)

    def _send(self, counts: Counts) -> None:
        if self._pipe is not None:
            gauges = {"slots": self._runner.in_flight, "calls": self._runner.calls_under_way}
            gauges |= {"window": self._runner.window, "unstored": self._runner.unstored}
            line = {"worker": self._runner.worker_id, "gauges": gauges, "counts": counts}
            with suppress(OSError):  # whoever serves them is gone
                self._pipe.write(json.dumps(line).encode() + b"\n")
                self._pipe.flush()

    # --- the minute ---

    def _tell_minute(self, at: float, counts: Counts) -> None:
        """Say what ended in the last minute, else what is waited for; of a worker with nothing to do only once."""
        lately, seconds = difference(counts, self._minute_counts), at - self._minute_at
        self._minute_at, self._minute_counts = at, counts
        was_idle, self._is_idle = self._is_idle, False
        has_news = self._say_rates(lately, seconds) or self._say_waiting()
        with reading(LOOK_SECONDS) as connection:  # whose error the rounds tell, as for every duty
            waiting = backlog.read(connection, [settings().provider])[settings().provider]
        if waiting.hold_reason is not None:
            probe = waiting.next_probe_seconds
            journal.log_held(settings().provider, waiting.hold_reason, probe, waiting.batches_on_hold)
        elif has_news and (later := waiting.rows["later"]):
            sentence = f"rows that wait for a limit or their next try: {later:,}; `tidemill explain` says which"
            note(INFO, "later", sentence, rows=later)
        elif not has_news:
            self._is_idle = not (waiting.rows["due"] or waiting.rows["running"] or waiting.rows["later"])
            if not (self._is_idle and was_idle):
                self._say_quiet(waiting)

    def _say_rates(self, lately: Counts, seconds: float) -> bool:
        """Say what ended; False if nothing did."""
        calls = total(lately, "attempts:")
        if not calls:
            return False
        reasons = {
            outcome: by_label(lately, f"attempts:{outcome}:")
            for outcome in ("succeeded", "retried", "held", "failed", "cancelled", "stale")
        }
        ended = {outcome: sum(codes.values()) for outcome, codes in reasons.items() if codes}
        why = {outcome: _why(codes) for outcome, codes in reasons.items() if codes and outcome in _WITH_REASONS}
        outcomes = ", ".join(f"{n:,.0f} {outcome}{why.get(outcome, '')}" for outcome, n in ended.items())
        p50, p95 = (quantile(lately, LATENCY, share) for share in (0.5, 0.95))
        tokens = f"{lately['input_tokens']:,.0f} + {lately['output_tokens']:,.0f} tokens, {shown(lately['cost_usd'])}"
        latency = "" if p50 is None or p95 is None else f" · p50 {in_words(p50)}, p95 {in_words(p95)}"
        calling, waiting = self._runner.calls_under_way, self._runner.waiting_for_limits
        sentence = (
            f"{calls:,.0f} call{'s' * (calls != 1)} in {in_words(seconds)}: {outcomes} · {tokens}{latency} · "
            f"{calling} in flight, {waiting} waiting for limits"
        )
        note(
            INFO,
            "minute",
            sentence,
            seconds=round(seconds, 1),
            calls=int(calls),
            **{outcome: int(ended.get(outcome, 0)) for outcome in reasons},
            input_tokens=int(lately["input_tokens"]),
            output_tokens=int(lately["output_tokens"]),
            cost_usd=round(lately["cost_usd"], 6),
            p50_seconds=_rounded(p50),
            p95_seconds=_rounded(p95),
            in_flight=calling,
            waiting=waiting,
        )
        return True

    def _say_waiting(self) -> bool:
        """Say that no call has ended though some are under way or wait; False if there are none."""
        runner = self._runner
        trouble, calling, waiting = runner.trouble, runner.calls_under_way, runner.waiting_for_limits
        if trouble is None and not runner.in_flight:
            return False
        oldest, pause = runner.oldest_call_seconds, runner.pause_seconds
        reasons = [f"{calling} in flight, the oldest for {in_words(oldest)}"] if calling else []
        reasons += [f"{waiting} waiting for limits"] if waiting else []
        reasons += [f"the provider asks to wait {in_words(pause)} more"] if pause else []
        reasons += [trouble] if trouble else []
        note(
            INFO,
            "waiting",
            f"no call has ended: {' · '.join(reasons)}",
            in_flight=calling,
            waiting=waiting,
            oldest_seconds=round(oldest, 1),
            pause_seconds=round(pause, 1),
        )
        return True

    def _say_quiet(self, waiting: backlog.Backlog) -> None:
        """Say why nothing runs: nothing is due, or all that is open waits for a later time or a user."""
        rows = waiting.rows
        capped = f"; {rows['budget']:,} wait for room in a budget" if rows["budget"] else ""
        if self._is_idle:
            paused = f"; {rows['paused']:,} wait in paused batches" if rows["paused"] else ""
            out = f"; {rows['at_provider']:,} are at the provider" if rows["at_provider"] else ""
            sentence = f"idle: no row is due{out}{paused}{capped}"
        else:
            pause = self._runner.pause_seconds
            sentence = f"no call was made: {rows['due']:,} rows are due, {rows['later']:,} wait for their next try"
            sentence += f", {rows['running']:,} run" if rows["running"] else ""
            sentence += f", {rows['at_provider']:,} are at the provider" if rows["at_provider"] else ""
            sentence += f"; the provider asks to wait {in_words(pause)} more" if pause else ""
            sentence += capped
        note(INFO, "idle" if self._is_idle else "quiet", sentence, **rows)

    # --- what begins and ends ---

    def _say_start(self) -> None:
        configured, runner, url = settings(), self._runner, engine().url
        version = importlib.metadata.version("tidemill")
        stored = str(url.database) if url.get_backend_name() == "sqlite" else shown_url(configured.database_url)
        broker = "none" if configured.embedded else shown_url(configured.broker_url)
        limits = shown_url(configured.effective_limits_url) if configured.effective_limits_url else "this process"
        sentence = (
            f"worker {runner.worker_id[:8]} has started: version {version}, {configured.provider}, "
            f"window {runner.window}, database {stored}, broker {broker}, limits {limits}"
        )
        note(
            INFO,
            "start",
            sentence,
            worker=runner.worker_id,
            version=version,
            provider=configured.provider,
            window=runner.window,
            database=stored,
            broker=broker,
            limits=limits,
            pid=os.getpid(),
        )

    def _say_stop(self, at: float, counts: Counts) -> None:
        seconds, calls = at - self._began_at, total(counts, "attempts:")
        succeeded, failed = total(counts, "attempts:succeeded:"), total(counts, "attempts:failed:")
        sentence = (
            f"worker {self._runner.worker_id[:8]} has stopped after {in_words(seconds)}: {calls:,.0f} calls, "
            f"{succeeded:,.0f} succeeded, {failed:,.0f} failed, {shown(counts['cost_usd'])}"
        )
        note(
            INFO,
            "stop",
            sentence,
            worker=self._runner.worker_id,
            seconds=round(seconds, 1),
            calls=int(calls),
            succeeded=int(succeeded),
            failed=int(failed),
            cost_usd=round(counts["cost_usd"], 6),
        )

    def _say_begin(self, kind: str, storm: Storm) -> None:
        lead = f"{settings().provider} {_refuses(kind)}: {storm.calls:,.0f} calls within {STORM_SECONDS:.0f} s"
        sentence = f"{lead}; they are tried again, more slowly"
        note(WARNING, "storm_begins", sentence, provider=settings().provider, refusal=kind, calls=int(storm.calls))

    def _say_end(self, kind: str, storm: Storm, end: str) -> None:
        seconds = storm.last_at - storm.began_at + STORM_SECONDS
        what = f"met with {kind}" if kind.isdigit() else "got no reply"
        sentence = f"{settings().provider}: {storm.calls:,.0f} calls {what} within {in_words(seconds)}, {end}"
        fields = {"calls": int(storm.calls), "seconds": round(seconds, 1)}
        note(INFO, "storm_ends", sentence, provider=settings().provider, refusal=kind, **fields)

    def _tell_failures(self, at: float, *, all_of_them: bool = False) -> None:
        """Tell of failed rows at once, but of the same batch and code only once a minute."""
        for key, failure in self._runner.meter.take_failures().items():
            failure.rows += self._untold[key].rows if key in self._untold else 0
            self._untold[key] = failure
        self._told_at = {key: then for key, then in self._told_at.items() if at - then < MINUTE_SECONDS}
        for key in [key for key in self._untold if all_of_them or key not in self._told_at]:
            self._told_at[key] = at
            self._say_failed(*key, self._untold.pop(key))

    def _say_failed(self, batch: str, code: str, failure: Failure) -> None:
        one = f"job {failure.job} epoch {failure.epoch}"
        who = f"{one} of {batch}" if failure.rows == 1 else f"{failure.rows:,} rows of {batch} (the last is {one})"
        note(
            INFO,
            "failed",
            f"{who} failed: {code or 'without a code'}",
            batch=batch,
            code=code,
            rows=failure.rows,
            job=failure.job,
            epoch=failure.epoch,
        )


_WITH_REASONS = ("retried", "held", "failed")
_MOST_REASONS = 4


def _why(codes: Mapping[str, float]) -> str:
    """The commonest codes, in brackets."""
    first = sorted(codes.items(), key=lambda each: -each[1])[:_MOST_REASONS]
    listed = ", ".join(f"{code or 'no code'} {n:,.0f}" for code, n in first)
    return f" ({listed})"


def _refuses(kind: str) -> str:
    return f"refuses with {kind}" if kind.isdigit() else "does not reply"


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None or math.isinf(seconds) else round(seconds, 3)
