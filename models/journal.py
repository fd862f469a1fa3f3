"""The log has one line for each transition of a job, and all of those lines are written here.

They are at level info and written after the commit. They name job, epoch and batch as the tables do, and never contain
a prompt or an answer. `TIDEMILL_LOG_LEVEL` decides who sees them. Without it a worker shows them, and a command that
runs a worker inside itself shows only warnings.
"""

import logging
import sys
from collections.abc import Collection, Iterable, Sequence

from tidemill.models.lines import Lines
from tidemill.models.settings import settings
from tidemill.models.transitions import WITHOUT_ATTEMPT, Claimed, Settlement

log = logging.getLogger(__name__)

_FORMAT = "%(asctime)s %(levelname)s %(message)s"


def show_in_worker() -> None:
    """Write our log, and the warnings of libraries, to stderr with time and level."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Lines(_FORMAT))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    set_level("info")


def set_level(default: str = "warning") -> None:
    """Set the level of our log: that of the setting, or `default` if there is none."""
    logging.getLogger("tidemill").setLevel((settings().log_level or default).upper())


def log_claim(jobs: Sequence[Claimed], worker_id: str) -> None:
    """This worker has claimed these jobs."""
    if jobs and log.isEnabledFor(logging.INFO):
        batches = ", ".join(sorted({job.batch_id for job in jobs}))
        numbers = " ".join(str(job.id) for job in jobs)
        log.info("worker %s claimed %d of %s: jobs %s", worker_id[:8], len(jobs), batches, numbers)


def log_settlements(settlements: Iterable[Settlement], written: Collection[tuple[int, int]]) -> None:
    """These jobs have ended or are queued again; those not in `written` had been taken from this worker before."""
    if not log.isEnabledFor(logging.INFO):
        return
    for each in settlements:
        level = logging.DEBUG if each.outcome in WITHOUT_ATTEMPT else logging.INFO
        outcome = each.outcome if (each.job_id, each.epoch) in written else f"{each.outcome}, too late to be stored"
        log.log(level, "job %d epoch %d of %s %s%s", each.job_id, each.epoch, each.batch_id, outcome, _details(each))


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
    if settlement.request_id:
        parts.append(settlement.request_id)
    if settlement.error_code:
        parts.append(f"{settlement.error_code}: {settlement.error}")
    return f" · {' · '.join(parts)}" if parts else ""


def log_hold(provider: str, reason: str) -> None:
    """The provider serves nobody; its batches wait."""
    log.info("%s is on hold: %s", provider, reason)


def log_lift(provider: str) -> None:
    """The provider answers again; its hold is lifted."""
    log.info("%s answers again; its batches go on", provider)


def log_rescue(jobs: int) -> None:
    """Jobs of workers that vanished are queued again."""
    log.warning("%d jobs of vanished workers are queued again", jobs)


def log_drain(calls: int, seconds: float) -> None:
    """A stopping worker waits for its calls in flight."""
    log.info("stopping: %d calls in flight have %g s to end", calls, seconds)


def log_broken_off(calls: int) -> None:
    """A stopping worker has waited for these calls in vain."""
    log.warning(
        "%d calls did not end in time and are broken off: they run again and may be paid for twice. "
        "TIDEMILL_DRAIN_SECONDS longer than the longest call avoids that.",
        calls,
    )


def log_release(jobs: int, worker_id: str) -> None:
    """A stopping worker has given these jobs back."""
    if jobs:
        log.info("worker %s gives back %d jobs", worker_id[:8], jobs)


def log_change(batch_id: str, change: str, jobs: int) -> None:
    """A command has submitted, cancelled or revived jobs of a batch."""
    log.info("%s: %d jobs %s", batch_id, jobs, change)
