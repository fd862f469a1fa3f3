"""What happens to jobs is told in the log here, in events that name job, epoch and batch as the tables do.

At info are events that somebody may act on; what becomes of each single job is at debug. No line holds a prompt, a
reply, a key or an error's text, which may repeat them: the row has that. `TIDEMILL_LOG_LEVEL` decides who sees what.
Without it a worker shows info, and a command that runs a worker inside itself shows only warnings.
"""

import logging
import sys
from collections.abc import Collection, Iterable, Sequence
from logging import DEBUG, INFO, WARNING

from tidemill.models.claims import Claimed
from tidemill.models.durations import in_words
from tidemill.models.going_online import Move
from tidemill.models.lines import JsonFormatter, Lines, note
from tidemill.models.settings import settings
from tidemill.models.settling import WITHOUT_ATTEMPT, Settlement

log = logging.getLogger(__name__)

_FORMAT = "%(asctime)s %(levelname)s %(message)s"


def show_in_worker() -> None:
    """Write our log, and the warnings of libraries, to stderr with time and level, in the form of the setting."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if settings().log == "json" else Lines(_FORMAT))
    logging.basicConfig(level=WARNING, handlers=[handler])
    if settings().log == "json":
        logging.captureWarnings(True)
    set_level("info")


def set_level(default: str = "warning") -> None:
    """Set the level of our log: that of the setting, or `default` if there is none."""
    logging.getLogger("tidemill").setLevel((settings().log_level or default).upper())


def is_shown() -> bool:
    """Whether anybody sees what happens at level info."""
    return log.isEnabledFor(INFO)


def log_claim(jobs: Sequence[Claimed], worker_id: str) -> None:
    """This worker has claimed these jobs."""
    if jobs and log.isEnabledFor(DEBUG):
        batches = ", ".join(sorted({job.batch_id for job in jobs}))
        numbers = " ".join(str(job.id) for job in jobs)
        sentence = f"worker {worker_id[:8]} claimed {len(jobs)} of {batches}: jobs {numbers}"
        note(DEBUG, "claim", sentence, worker=worker_id, jobs=len(jobs))


def log_settlements(settlements: Iterable[Settlement], written: Collection[tuple[int, int]]) -> None:
    """These jobs have ended or are queued again; those not in `written` had been taken from this worker before."""
    if not log.isEnabledFor(DEBUG):
        return
    for each in settlements:
        outcome = each.outcome if (each.job_id, each.epoch) in written else f"{each.outcome}, too late to be stored"
        note(
            DEBUG,
            "job",
            f"job {each.job_id} epoch {each.epoch} of {each.batch_id} {outcome}{_details(each)}",
            job=each.job_id,
            epoch=each.epoch,
            batch=each.batch_id,
            outcome=each.outcome,
            code=each.error_code,
            status=each.http_status,
            seconds=each.seconds,
            request_id=each.request_id,
            input_tokens=each.input_tokens,
            output_tokens=each.output_tokens,
            cost_usd=each.cost_usd,
        )


def _details(settlement: Settlement) -> str:
    parts = []
    is_held = settlement.outcome == "held" and settlement.delay_seconds
    if is_held or settlement.outcome in (*WITHOUT_ATTEMPT, "retried"):
        parts.append(f"again in {settlement.delay_seconds:.1f} s")
    if settlement.seconds is not None:
        parts.append(f"{settlement.http_status or 'no reply'} after {settlement.seconds:.2f} s")
    if settlement.input_tokens is not None:
        price = "price unknown" if settlement.cost_usd is None else f"${settlement.cost_usd:.6f}"
        parts.append(f"{settlement.input_tokens} + {settlement.output_tokens or 0} tokens, {price}")
    parts += [each for each in (settlement.request_id, settlement.error_code) if each]
    return f" · {' · '.join(parts)}" if parts else ""


def log_hold(provider: str, reason: str) -> None:
    """The provider serves nobody; its batches wait."""
    note(INFO, "hold_begins", f"{provider} is on hold: {reason}", provider=provider, reason=reason)


def log_held(provider: str, reason: str, next_probe_seconds: float, batches: int) -> None:
    """The provider is still on hold."""
    soon = f"in {in_words(next_probe_seconds)}" if next_probe_seconds >= 1 else "now"
    sentence = f"{provider} is still on hold, the next try is {soon}: {reason}"
    probe = round(max(0.0, next_probe_seconds), 1)
    note(INFO, "hold", sentence, provider=provider, reason=reason, next_probe_seconds=probe, batches=batches)


def log_lift(provider: str, seconds: float) -> None:
    """The provider answers again; its hold is lifted after so many seconds."""
    sentence = f"{provider} answers again after {in_words(seconds)} on hold; its batches go on"
    note(INFO, "hold_ends", sentence, provider=provider, seconds=round(seconds, 1))


def log_rescue(jobs: int) -> None:
    """Jobs of workers that vanished are queued again."""
    note(WARNING, "rescue", f"{jobs} jobs of vanished workers are queued again", jobs=jobs)


_WHY_ONLINE = {
    "deadline": "to be done by its deadline",
    "few": "since so few are left",
    "refused": "since the server does not take the model that way",
}


def log_moves(moves: Iterable[Move]) -> None:
    """Rows of these batches go online from now on."""
    for move in moves:
        sentence = (
            f"{move.batch_id}: {move.rows} rows go online instead of {move.from_route}, {_WHY_ONLINE[move.reason]}"
        )
        route, reason, rows, rows_out = move[1:]
        note(INFO, "goes_online", sentence, batch=move.batch_id, route=route, reason=reason, rows=rows, out=rows_out)


def log_drain(calls: int, seconds: float) -> None:
    """A stopping worker waits for its calls in flight."""
    note(INFO, "drain", f"stopping: {calls} calls in flight have {seconds:g} s to end", calls=calls, seconds=seconds)


def log_broken_off(calls: int) -> None:
    """A stopping worker has waited for these calls in vain."""
    sentence = (
        f"{calls} calls did not end in time and are broken off: they run again and may be paid for twice. "
        "TIDEMILL_DRAIN_SECONDS longer than the longest call avoids that."
    )
    note(WARNING, "broken_off", sentence, calls=calls)


def log_release(jobs: int, worker_id: str) -> None:
    """A stopping worker has given these jobs back."""
    if jobs:
        note(INFO, "release", f"worker {worker_id[:8]} gives back {jobs} jobs", worker=worker_id, jobs=jobs)
