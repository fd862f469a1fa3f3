"""What follows when a step of an upstream batch fails: it is tried again, sent smaller, or its rows fail.

A file that is too much for the provider gives its rows back uncounted, and the next one is half as large
(`models.upstream.room`). So a line that spoils its file is alone in the end, and fails with the provider's words.
"""

import asyncio
import re
from logging import ERROR

from sqlalchemy import Connection

from tidemill.models import holds, journal, settling, transitions, upstream
from tidemill.models.batch_servers import BatchError, errors_of, queue_limit_of
from tidemill.models.claims import Claimed
from tidemill.models.database import reading
from tidemill.models.lines import note, place_of
from tidemill.models.provider import CallError
from tidemill.models.replies import safe_line
from tidemill.models.settling import Settlement
from tidemill.models.upstream import Refusal
from tidemill.worker import creations, settlements
from tidemill.worker.creations import NO_SUCH_ENDPOINT
from tidemill.worker.retries import Verdict, classify
from tidemill.worker.settle import Ending, write_each
from tidemill.worker.upstream_lines import claim_in, load_line
from tidemill.worker.upstream_run import Run, go_on, try_again

_PAGE_ROWS = 250
UNKNOWN_SECONDS = 3_600.0
"""How long the provider may not know its own batch: copies of its tables take a while to agree, and a key to be set."""
_DEFECTS = 3
"""Failures of ours after which a batch that is not sent yet gives its rows back."""
_SLIPS = 2
"""Times that an address of the Batch API may be answered as if there were none: one such answer is no proof."""
_GENERAL_REFUSALS = 4
"""So many files refused one after the other, each half of the last one, and none taken: no line is at fault."""

_QUEUE_FULL = re.compile(
    r"enqueued token|token_limit_exceeded|too_many_tasks|token limit.{0,40}(reached|exceeded)|queue.{0,20}full",
    re.IGNORECASE,
)
_TOO_LARGE = re.compile(r"too large|(file|payload|body).{0,40}(size|exceed)|maximum (file )?size", re.IGNORECASE)
_OF_ALL_LINES = ("model_not_found", "not_supported")
"""Codes that are about every line of a file: they have one model and one endpoint."""

NO_BATCH_API = (
    "The server has no Batch API ({reason}): ask by --route online, or set OPENAI_BASE_URL to one that has /v1/files "
    "and /v1/batches."
)
_NO_ENDPOINT = "The server's Batch API does not take {url} ({reason}): ask by --endpoint chat, or by --route online."
_GONE = (
    "The provider does not know its batch {remote_id} any more ({reason}): look there what became of it. These rows "
    "may have been billed, so only --new asks them again."
)
_CREATION_UNKNOWN = (
    "The reply to the creation of a batch was lost, and the server lists no batches in which it could be found. These "
    "rows may have been billed, so only --new asks them again."
)


async def after_error(run: Run, error: CallError) -> None:
    """A call of this step failed."""
    verdict = _verdict(error)
    if verdict.action == "hold":
        await creations.write(holds.hold, run.batch.provider, verdict.message, verdict.delay_seconds)
        await try_again(run, verdict.message, verdict.delay_seconds, least=holds.PROBE_SECONDS[0])
    elif run.batch.remote_id is not None:
        if error.status == 404 and await asyncio.to_thread(_seconds_unseen, run) > UNKNOWN_SECONDS:
            reason = error.message.rstrip(" .")
            await fail_as_unknown(run, _GONE.format(remote_id=run.batch.remote_id, reason=reason))
        else:
            await try_again(run, verdict.message, error.retry_after_seconds)
    elif (verdict.action == "retry" and not _is_about_queue(error)) or _may_be_slip(run, error, verdict):
        await try_again(run, verdict.message, error.retry_after_seconds)
    else:
        await refuse_file(run, error)


def _may_be_slip(run: Run, error: CallError, verdict: Verdict) -> bool:
    """Whether the server may have a Batch API, although it has just said that there is no such address."""
    return _denies_api(error, verdict) and run.batch.failures < _SLIPS


def _denies_api(error: CallError, verdict: Verdict) -> bool:
    return error.status in NO_SUCH_ENDPOINT and verdict.code != "model_not_found"


async def after_failure(run: Run) -> None:
    """The provider has refused the whole file, after it had taken it: for a line, for its size, or for everybody."""
    named = errors_of(run.batch.remote or {})
    of_line = {each.line: _fault(each) for each in named if each.line is not None}
    fault = _fault(named[0] if named else BatchError("", "", None))
    if of_line and not _is_about_queue(fault):
        await _fail_lines(run, of_line)
    elif (verdict := _verdict(fault)).action == "hold":
        await creations.write(holds.hold, run.batch.provider, verdict.message, verdict.delay_seconds)
        await go_on(run, "end", note=verdict.message)
    else:
        await refuse_file(run, fault)


async def after_defect(run: Run, error: Exception) -> None:
    """We failed ourselves. Rows whose batch is not sent are free within a minute; what is sent may be paid."""
    batch = run.batch
    sentence = f"upstream batch {batch.id}, step {batch.step}: {place_of(error)}; please report it"
    note(ERROR, "upstream_defect", sentence, batch=batch.batch_id, upstream=batch.id)
    fault = CallError(
        "request", f"tidemill itself failed ({type(error).__name__}); please report it", code="internal_error"
    )
    is_unsent = batch.remote_id is None and not await asyncio.to_thread(_may_be_created, run)
    if is_unsent and batch.step != "end" and batch.failures + 1 >= _DEFECTS:
        await _refuse(run, "lines", fault)
    else:
        await try_again(run, fault.message)


async def refuse_file(run: Run, error: CallError) -> None:
    """The provider does not take the file as it is."""
    verdict = _verdict(error)
    if _is_about_queue(error):
        await _refuse(run, "queue", error)
    elif error.status == 413 or _TOO_LARGE.search(error.message):
        await _refuse(run, "bytes", error)
    elif _denies_api(error, verdict):
        sentence = NO_BATCH_API.format(reason=error.message.rstrip(" ."))
        await _fail_all(run, error, Verdict("fail", "no_batch_api", sentence, counted=True))
    elif error.param == "endpoint" or run.batch.endpoint in error.message:
        sentence = _NO_ENDPOINT.format(url=run.batch.endpoint, reason=error.message.rstrip(" ."))
        await _fail_all(run, error, Verdict("fail", "not_supported", sentence, counted=True))
    elif verdict.code in _OF_ALL_LINES:
        await _fail_all(run, error, verdict)
    else:
        await _refuse(run, "lines", error)


async def fail_as_unknown(run: Run, sentence: str = _CREATION_UNKNOWN) -> None:
    """Nobody knows whether the rows were billed, and nothing can be found out."""
    verdict = Verdict("fail", transitions.UNKNOWN_UPSTREAM, sentence, counted=True)
    await _fail_all(run, CallError("reset", sentence), verdict)


async def _refuse(run: Run, refusal: Refusal, error: CallError) -> None:
    """Give all rows back, so that the next file is smaller; a row that is too much by itself fails."""
    batch, queue_tokens = run.batch, queue_limit_of(error.message) if refusal == "queue" else None
    never_fits = queue_tokens is not None and batch.tokens > queue_tokens if refusal == "queue" else True
    is_general = refusal == "lines" and await asyncio.to_thread(_is_general, run)
    if is_general or (batch.lines <= 1 and never_fits):
        await _fail_all(run, error, _verdict(error))
    else:
        await go_on(run, "end", refused=refusal, queue_tokens=queue_tokens, note=error.message)


async def _fail_all(run: Run, error: CallError, verdict: Verdict) -> None:
    def fail(job: Claimed) -> Ending:
        settlement = settlements.of_error(job, error, verdict, 0.0, run.batch.model, route=run.batch.route)
        return Ending(settlement._replace(outcome="failed", counted=True, seconds=None), run.batch.provider)

    while page := await asyncio.to_thread(_members, run):
        await creations.write(upstream.check, run.batch)
        await asyncio.to_thread(write_each, [fail(job) for job in page], run.meter)
    await go_on(run, "end", note=verdict.message)


async def _fail_lines(run: Run, faults: dict[int, CallError]) -> None:
    """Fail the rows whose lines the provider names, with its words; all others are given back."""
    claims = await _claims_at(run, set(faults))

    def fail(connection: Connection) -> list[Settlement]:
        upstream.check(connection, run.batch)
        by_claim = {claim: faults[line] for line, claim in claims.items()}
        jobs = upstream.asked(connection, run.batch, by_claim.keys()) if by_claim else []
        ended = [_failed(job, by_claim[job.id, job.epoch], run.batch.route) for job in jobs]
        if ended:
            settling.settle(connection, ended)
        # With lines that lead to no row of ours the next file is smaller, as if none had been named.
        upstream.go_on(connection, run.batch, "end", refused=None if ended else "lines")
        return ended

    journal.log_settlements(ended := await creations.write(fail), {(each.job_id, each.epoch) for each in ended})


def _failed(job: Claimed, fault: CallError, route: str) -> Settlement:
    verdict = Verdict("fail", settlements.verdict_on(fault, job).code, fault.message, counted=True)
    return settlements.of_error(job, fault, verdict, 0.0, route=route)._replace(seconds=None)


async def _claims_at(run: Run, numbers: set[int]) -> dict[int, tuple[int, int]]:
    """(job id, epoch) of these lines of the file, counted from 1: of our own copy, else of the provider's."""
    if not run.path.exists():
        await run.provider.download(str(run.batch.file_id), run.path)
    return await asyncio.to_thread(_read_claims, run, numbers)


def _read_claims(run: Run, numbers: set[int]) -> dict[int, tuple[int, int]]:
    claims = dict[int, tuple[int, int]]()
    with run.path.open("rb") as file:
        for number, text in enumerate(file, 1):
            if number in numbers and (claim := claim_in(load_line(text))) is not None:
                claims[number] = claim
    return claims


def _fault(error: BatchError) -> CallError:
    message = error.message or "The provider says that the batch has failed, and not why"
    return CallError("status", safe_line(message), status=400, code=error.code or None)


def _is_about_queue(error: CallError) -> bool:
    return _QUEUE_FULL.search(f"{error.code} {error.message}") is not None


def _verdict(error: CallError) -> Verdict:
    """What follows for a call that no row has made: it is never given up for having failed often."""
    return classify(error, failures=0, age_seconds=0.0, max_attempts=2**31, retry_seconds=float(2**31))


def _members(run: Run) -> list[Claimed]:
    with reading() as connection:
        return upstream.members(connection, run.batch, 0, _PAGE_ROWS)


def _seconds_unseen(run: Run) -> float:
    with reading() as connection:
        return upstream.seconds_unseen(connection, run.batch)


def _may_be_created(run: Run) -> bool:
    with reading() as connection:
        return upstream.may_be_created(connection, run.batch)


def _is_general(run: Run) -> bool:
    with reading() as connection:
        return upstream.is_alone_with_refusals(connection, run.batch, _GENERAL_REFUSALS)
