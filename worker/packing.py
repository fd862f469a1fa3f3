"""Due rows become the lines of one file: they are claimed for an upstream batch, and written as online calls would be.

The same rows give the same bytes, so that after a crash any worker on any machine writes the file again.
"""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import Connection

from tidemill.models import due, upstream
from tidemill.models.claims import Claimed, claim
from tidemill.models.database import reading, transact
from tidemill.models.errors import SettingsError
from tidemill.models.options import Options
from tidemill.models.pictures import Picture
from tidemill.models.provider import CallError
from tidemill.models.scope import Scope
from tidemill.models.settings import settings
from tidemill.models.settling import Settlement, settle
from tidemill.models.upstream import Room, UpstreamBatch
from tidemill.worker import settlements
from tidemill.worker.ask import url_of
from tidemill.worker.history import fit_history
from tidemill.worker.questions import Question, build
from tidemill.worker.settle import Ending, write_each
from tidemill.worker.upstream_lines import question_line
from tidemill.worker.upstream_run import server

_SHARE = 0.95
"""Of the bytes that a server takes: something may be added on the way."""
_NO_LIMIT = 2**62

MOST_LINES = 50_000
CHUNK_ROWS = 1_000
_PAGE_ROWS = 250
_BYTES_OF_PIXEL = 0.27
"""Of a picture in a line, as a guess: base64 of a JPEG that is photo-like."""


def most() -> Room:
    """What one file may hold at the provider, before anything is known of it."""
    takes = server()
    return Room(min(takes.most_lines, MOST_LINES), int(takes.most_bytes * _SHARE), _NO_LIMIT)


class _Weight(NamedTuple):
    """What a row takes of an upstream batch, and which ones it fits in."""

    model: str
    url: str
    tokens: int
    bytes: int


class Built(NamedTuple):
    """A file of lines."""

    lines: int
    bytes: int
    tokens: int
    sha256: str
    next_id: int | None
    """The first job that did not fit in; None: all did."""


def pack(connection: Connection, batch: UpstreamBatch, options: Options, scopes: Sequence[Scope]) -> bool:
    """Claim the next chunk of rows for an upstream batch; returns whether there may be more. Raises LostError."""
    upstream.check(connection, batch)
    batch = upstream.read(connection, batch)
    limits = upstream.room(connection, batch, batch.model or options.model, most())
    size = Room(batch.lines, batch.bytes, batch.tokens)
    if size.lines >= limits.lines or size.bytes >= limits.bytes or size.tokens >= limits.tokens:
        return False
    ids = due.take_due(connection, batch.batch_id, min(CHUNK_ROWS, limits.lines - size.lines), scopes)
    claimed = claim(connection, ids, upstream.claimant(batch), alone=True) if ids else []
    model, url, kept, others = batch.model, batch.endpoint, 0, list[Claimed]()
    for job in sorted(claimed, key=lambda each: each.id):
        weight = _weight(job, options)
        model, url = model or weight.model, url or weight.url
        after = Room(size.lines + 1, size.bytes + weight.bytes, size.tokens + weight.tokens)
        is_first = not size.lines
        fits = is_first or (after.bytes <= limits.bytes and after.tokens <= limits.tokens)
        if (weight.model, weight.url) == (model, url) and fits:
            size, kept = after, kept + 1
        else:
            others.append(job)
    if others:
        settle(connection, [settlements.of_snooze(job) for job in others])
    upstream.change(connection, batch, **size._asdict(), model=model, endpoint=url)
    return kept > 0


def _weight(job: Claimed, options: Options) -> _Weight:
    """A row that cannot be asked weighs nothing: it fails when its line is to be written."""
    try:
        question = build(options, job.request, history=job.history)
        body = question_line(job, question, question.body)
    except Exception:  # noqa: BLE001  # one row must not keep all others back
        return _Weight(options.model, "", 0, 0)
    tokens = question.most_tokens - question.room_tokens
    return _Weight(question.model, question.endpoint.url, tokens, len(body) + _picture_bytes(question.picture))


def _picture_bytes(picture: Picture | None) -> int:
    if picture is None or "url" in picture:
        return 0
    return int(picture["width"] * picture["height"] * _BYTES_OF_PIXEL)


def build_file(batch: UpstreamBatch, options: Options, path: Path, most_bytes: int) -> Built:
    """Write the lines of all members to a file. Members that cannot be asked fail; it holds no file in memory.

    Raises:
        CallError: kind "store": the pictures cannot be read at present.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    digest, lines, size, tokens, next_id = hashlib.sha256(), 0, 0, 0, None
    beside = path.with_suffix(f".{batch.worker_id or ''}.part")
    with beside.open("wb") as file:
        for job in _members(batch):
            made = _line(job, options, batch.route)
            if made is None:
                continue
            line, line_tokens = made
            if size + len(line) > most_bytes and lines:
                next_id = job.id
                break
            file.write(line)
            digest.update(line)
            lines, size, tokens = lines + 1, size + len(line), tokens + line_tokens
    beside.replace(path)
    return Built(lines, size, tokens, digest.hexdigest(), next_id)


def _members(batch: UpstreamBatch) -> Iterator[Claimed]:
    after = 0
    while True:
        with reading() as connection:
            page = upstream.members(connection, batch, after, _PAGE_ROWS)
        yield from page
        if len(page) < _PAGE_ROWS:
            return
        after = page[-1].id


def _line(job: Claimed, options: Options, route: str) -> tuple[bytes, int] | None:
    """The line of a row and the tokens of its prompt; None: it can never be asked, and has failed."""
    try:
        question = build(options, job.request, history=job.history)
        if job.history:
            question = build(options, job.request, history=fit_history(options, question))
        line = question_line(job, question, _whole_body(job, options, question))
        if len(line) > most().bytes:
            raise CallError("request", "The row alone is larger than a file may be", code="request_too_large")
        return line, question.most_tokens - question.room_tokens
    except CallError as error:
        if error.kind == "store":
            raise
        _fail(settlements.of_error(job, error, settlements.verdict_on(error, job), 0.0, route=route))
    except SettingsError as error:
        _fail(settlements.of_defect(job, "not_supported", str(error)))
    except Exception as error:  # noqa: BLE001  # a defect of ours must cost one row, not fifty thousand
        sentence = f"tidemill itself failed on this row ({type(error).__name__}); please report it."
        _fail(settlements.of_defect(job, "internal_error", sentence))
    return None


def _fail(settlement: Settlement) -> None:
    # Nothing was sent, so no second was measured.
    write_each([Ending(settlement._replace(seconds=None), settings().provider)])


def _whole_body(job: Claimed, options: Options, question: Question) -> dict[str, object]:
    if question.picture is None:
        return question.body
    return build(options, job.request, url_of(question.picture), question.history).body


def keep_built(connection: Connection, batch: UpstreamBatch, built: Built) -> None:
    """Note what the file holds. Raises LostError."""
    size = {"lines": built.lines, "bytes": built.bytes, "tokens": built.tokens, "sha256": built.sha256}
    upstream.change(connection, batch, **size)


def give_back_from(batch: UpstreamBatch, first: int) -> None:
    """Queue members again from this job on: the file is full. Raises LostError."""

    def give_back(connection: Connection) -> bool:
        claims = upstream.members_from(connection, batch, first, CHUNK_ROWS)
        upstream.give_back(connection, batch, claims)
        return bool(claims)

    while transact(give_back):
        pass
