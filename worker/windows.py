"""By the routes `2h` and `8h` each line of an upstream batch is a response in the background, for which there is time.

The server makes them one by one and keeps what becomes of each, but lists none. So each is written down before it is
sent (`models.creations`); one whose reply was lost cannot be found, and its row is asked again, as after a lost live
call. Answers are stored by the same collector as those of the Batch API. All of this is not yet proven against the real
provider. Source: OpenAI's reference of `background_options`.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple, TypeVar
from urllib.parse import quote

from sqlalchemy import Connection

from tidemill.models import creations as made
from tidemill.models import going_online, journal, upstream
from tidemill.models.creations import Place
from tidemill.models.database import reading
from tidemill.models.endpoints import ENDPOINTS
from tidemill.models.json_types import JsonObject
from tidemill.models.provider import CallError
from tidemill.models.settings import settings
from tidemill.models.text import dumps
from tidemill.models.upstream import Step
from tidemill.worker import creations, packing
from tidemill.worker.collecting import Collector
from tidemill.worker.creations import has_created_nothing, is_no_cancel
from tidemill.worker.upstream_lines import claim_in, load_line
from tidemill.worker.upstream_run import FIRST_LOOK_SECONDS, Run, folder, go_on, look_seconds, read

_AT_ONCE = 16
"""Requests under way at once; what is created is recorded when all of them are back."""

_PAGE_ROWS = 500
_OPEN = ("queued", "in_progress")
_NOT_RUN = "cancelled"
_MOST_PAUSE_SECONDS = 300.0
_WINDOW = re.compile(r"background|completion[_ ]window", re.IGNORECASE)

Claim = tuple[int, int]
_T = TypeVar("_T")


class Sent(NamedTuple):
    """What came of the request of one line."""

    claim: Claim
    remote_id: str | None
    error: CallError | None


# --- create ---


async def _create(run: Run) -> None:
    """Have all lines made that were never sent; what is in doubt stays so."""
    if not run.path.exists():  # it was built on another machine, or before a crash
        await asyncio.to_thread(packing.build_file, run.batch, run.options, run.path, packing.most().bytes)
    known, claims = await asyncio.to_thread(_known, run), set(await asyncio.to_thread(_members, run))
    lines = (each for each in _lines(run) if each[0] in claims and each[0] not in known)
    while run.batch.wanted is None and (chunk := await asyncio.to_thread(_next, lines)):
        await creations.write(_intend, run, [claim for claim, _ in chunk])
        sent = await asyncio.gather(*(_send(run, claim, body) for claim, body in chunk))
        refused = [each.error for each in sent if each.error is not None and _refuses_window(each.error)]
        await creations.write(_record, run, sent)
        if refused:
            await _leave(run, refused[0])
            return
        if failed := next((each.error for each in sent if each.error and not _concerns_line(each.error)), None):
            raise failed  # the server does not take any now; the others are sent by the next try
        await _fail_lines(run, sent)
        run.batch = await asyncio.to_thread(read, run)
    counts = {"total": run.batch.lines, "completed": 0, "failed": 0}
    card = {"id": f"background {run.batch.id}", "status": "in_progress", "request_counts": counts}
    await creations.write(upstream.note_created, run.batch, card)
    await go_on(run, "follow", min(settings().poll_seconds, FIRST_LOOK_SECONDS))


async def _send(run: Run, claim: Claim, body: JsonObject) -> Sent:
    window = {"background": True, "store": True, "background_options": {"completion_window": run.batch.route}}
    try:
        if run.batch.endpoint != ENDPOINTS["responses"].url:
            raise CallError("request", f"{run.batch.endpoint} takes nothing in the background", code="not_supported")
        remote = await run.provider.post(ENDPOINTS["responses"].path, {**body, **window})
        return Sent(claim, str(remote["id"]), None)
    except CallError as error:
        return Sent(claim, None, error)


def _lines(run: Run) -> Iterator[tuple[Claim, JsonObject]]:
    with run.path.open("rb") as file:
        for text in file:
            line = load_line(text)
            if (claim := claim_in(line)) is not None:
                yield claim, line["body"]


def _next(lines: Iterator[tuple[Claim, JsonObject]]) -> list[tuple[Claim, JsonObject]]:
    return list(islice(lines, _AT_ONCE))


def _refuses_window(error: CallError) -> bool:
    """Whether the server takes the request, but not in the background."""
    words = f"{error.param} {error.code} {error.message}"
    return error.status in (400, 404, 422) and _WINDOW.search(words) is not None


def _concerns_line(error: CallError) -> bool:
    """Whether the error says something about this line alone."""
    if error.status is None:
        return error.kind in ("request", "store")
    return 400 <= error.status < 500 and error.status not in (401, 402, 403, 404, 429)


async def _fail_lines(run: Run, sent: Sequence[Sent]) -> None:
    """Store the errors of lines that the server has refused for what they ask, by the collector of answers."""
    refused = [each for each in sent if each.error is not None and has_created_nothing(each.error)]
    await _collect(run, [_line(each.claim, each.error.status or 400, each.error) for each in refused if each.error])


async def _leave(run: Run, error: CallError) -> None:
    """Let the batch go online: the server does not take its model in the background."""
    move = await creations.write(going_online.leave, run.batch.batch_id, run.batch.route)
    journal.log_moves([] if move is None else [move])
    await go_on(run, "end", note=error.message)


# --- follow ---


async def _follow(run: Run) -> None:
    """Look at all that are open, store what has ended, and cancel where somebody wants that."""
    known, claims = await asyncio.to_thread(_known, run), await asyncio.to_thread(_members, run)
    if run.batch.wanted == "cancel":
        for some in _chunks([known[claim] for claim in claims if known.get(claim)]):
            await asyncio.gather(*(_cancel(run, each) for each in some))
        await creations.write(upstream.change, run.batch, wanted=None)
    for chunk in _chunks([claim for claim in claims if known.get(claim)]):
        await _collect(run, [line for line in await asyncio.gather(*(_look(run, c, known[c]) for c in chunk)) if line])
        if not run.has_it():
            break
    left = await asyncio.to_thread(_members, run)
    done = max(0, run.batch.lines - len(left))
    counts = {"total": run.batch.lines, "completed": done, "failed": 0}
    is_open = any(known.get(claim) for claim in left)
    card = {"status": "in_progress" if is_open else "completed", "request_counts": counts}
    await creations.write(upstream.note_seen, run.batch, card)
    if not is_open:
        await go_on(run, "end")
        return
    run.batch = await asyncio.to_thread(read, run)
    await go_on(run, "follow", min(look_seconds(run.batch), _MOST_PAUSE_SECONDS))


async def _look(run: Run, claim: Claim, remote_id: str | None) -> bytes | None:
    """The line of an answer; None while there is none."""
    try:
        remote = await run.provider.fetch(_path(remote_id))
    except CallError as error:
        if error.status != 404:
            raise
        return _line(claim, 404, CallError("status", "The server does not know this response any more", status=404))
    if remote.get("status") in _OPEN:
        return None
    if remote.get("status") == _NOT_RUN:
        never_run = {"custom_id": _name(claim), "response": None, "error": {"code": "batch_cancelled"}}
        return dumps(never_run).encode() + b"\n"
    response = {"status_code": 200, "request_id": remote_id, "body": remote}
    return dumps({"custom_id": _name(claim), "response": response, "error": None}).encode() + b"\n"


async def _cancel(run: Run, remote_id: str | None) -> None:
    try:
        await run.provider.post(f"{_path(remote_id)}/cancel", {})
    except CallError as error:
        if not is_no_cancel(error):
            raise


def _path(remote_id: str | None) -> str:
    return f"{ENDPOINTS['responses'].path}/{quote(str(remote_id), safe='')}"


async def _collect(run: Run, lines: Sequence[bytes]) -> None:
    """Store lines as if they stood in a file of the Batch API."""
    if not lines:
        return
    path = folder() / f"{run.batch.token}.answers.jsonl"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    await asyncio.to_thread(path.write_bytes, b"".join(lines))
    await Collector(run.batch, run.options, run.judge, run.meter).collect(path)
    await asyncio.to_thread(path.unlink, missing_ok=True)


def _line(claim: Claim, status: int, error: CallError) -> bytes:
    body = {"error": {"message": error.message, "code": error.code, "param": error.param, "type": error.type}}
    response = {"status_code": status, "request_id": error.request_id, "body": body}
    return dumps({"custom_id": _name(claim), "response": response, "error": None}).encode() + b"\n"


# --- end ---


async def _end(run: Run) -> None:
    """Give back the rows that were never sent, and count as lost those of which nobody knows."""
    known, claims = await asyncio.to_thread(_known, run), await asyncio.to_thread(_members, run)
    for chunk in _chunks([claim for claim in claims if claim not in known]):
        await creations.write(upstream.give_back, run.batch, chunk)
    for chunk in _chunks([claim for claim in claims if claim in known]):
        await creations.write(upstream.lose, run.batch, chunk)
    for path in folder().glob(f"{run.batch.token}.*"):
        path.unlink(missing_ok=True)
    await creations.write(upstream.end, run.batch)


# --- what is known ---


def _name(claim: Claim) -> str:
    """The id of a line, and the place of its creation."""
    return f"{claim[0]}.{claim[1]}"


def _known(run: Run) -> dict[Claim, str | None]:
    """The ids of what was made of lines; None for what was sent and may be made or not."""
    with reading() as connection:
        known = made.load(connection, upstream.owner_name(run.batch.id))
    sent = {place: each for place, each in known.items() if each.remote_id or each.doubt_seconds is not None}
    return {claim: each.remote_id for place, each in sent.items() if (claim := claim_in({"custom_id": place.step}))}


def _members(run: Run) -> list[Claim]:
    claims = list[Claim]()
    with reading() as connection:
        while page := upstream.members_from(connection, run.batch, claims[-1][0] + 1 if claims else 0, _PAGE_ROWS):
            claims += page
    return claims


def _intend(connection: Connection, run: Run, claims: Sequence[Claim]) -> None:
    for claim in claims:
        made.intend(connection, upstream.owner(run.batch), Place(_name(claim), 0))


def _record(connection: Connection, run: Run, sent: Sequence[Sent]) -> None:
    owner = upstream.owner(run.batch)
    for claim, remote_id, error in sent:
        if remote_id is not None:
            made.record(connection, owner, Place(_name(claim), 0), remote_id)
        elif error is not None and has_created_nothing(error):
            made.withdraw(connection, owner, Place(_name(claim), 0))


STEPS: dict[Step, Callable[[Run], Awaitable[None]]] = {
    "upload": _create,  # nothing is uploaded
    "create": _create,
    "follow": _follow,
    "collect": _follow,
    "end": _end,
}
"""What is done otherwise than for the Batch API."""


def _chunks(items: Sequence[_T]) -> Iterator[Sequence[_T]]:
    return (items[start : start + _AT_ONCE] for start in range(0, len(items), _AT_ONCE))
