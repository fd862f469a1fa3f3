"""An upstream batch takes hours, and whoever has it may die in any second of them.

So it makes one step at a time, and `STEPS` is all of them. What is known is in its row (`models.upstream`): any worker
takes the next step, and the same step again gives the same result. Its file and the provider's batch are created
through `worker.creations`. Here is what goes to the provider and comes back; `worker.packing` makes the file,
`worker.collecting` reads the answers.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from functools import partial
from urllib.parse import quote

from sqlalchemy import Connection

from tidemill.models import creations as made
from tidemill.models import holds, upstream
from tidemill.models.batch_servers import ENDED, Counts, batch_of, status_of
from tidemill.models.creations import LostError, Place
from tidemill.models.database import reading
from tidemill.models.errors import DatabaseError
from tidemill.models.json_types import JsonObject, RemoteObject, string
from tidemill.models.provider import CallError
from tidemill.models.routes import WINDOWS
from tidemill.models.settings import settings
from tidemill.models.settling import LONGEST_DELAY_SECONDS
from tidemill.models.transfers import TransferError
from tidemill.models.upstream import Step
from tidemill.worker import creations, packing, windows
from tidemill.worker import upstream_faults as faults
from tidemill.worker.collecting import Collector
from tidemill.worker.creations import LOOK_AGAIN_SECONDS, LookError, Recipe, is_final, is_no_cancel
from tidemill.worker.upstream_run import (
    FIRST_LOOK_SECONDS,
    Run,
    age_seconds,
    folder,
    go_on,
    look_seconds,
    read,
    server,
    try_again,
)

BATCHES = "/batches"
METADATA = "tidemill"
"""The key in the metadata of the provider's batch that holds its token."""

_PAGE = 100
_PAGE_ROWS = 500
_OPTIONAL = ("metadata", "output_expires_after")
"""Fields of a creation without which it is asked for again, where a server does not know them."""
_OUTPUT_SECONDS = 30 * 86_400
MOST_LOOKS = 60
"""So often files are read again that hold less than the provider says is done; then it is asked again."""
_DELETE_TRIES = 5
_BROKEN_OFF = ("failed", "expired", "cancelled")
_OLD_SECONDS = 3 * 86_400.0


async def advance(run: Run) -> None:
    """Make the next step, and decide what follows if it fails."""
    try:
        others = windows.STEPS if run.batch.route in WINDOWS else {}
        await others.get(run.batch.step, STEPS[run.batch.step])(run)
    except LostError:
        pass  # another worker has the step
    except LookError as look:
        await try_again(run, look.error.message, look.error.retry_after_seconds)
    except CallError as error:
        await faults.after_error(run, error)
    except DatabaseError:
        raise
    except (OSError, TransferError) as error:  # the disk is full, say: this machine is why, and another one may do it
        await try_again(run, error.strerror or str(error) if isinstance(error, OSError) else str(error))
    except Exception as error:  # noqa: BLE001  # a defect of ours must not keep rows for days
        await faults.after_defect(run, error)


# --- pack, build ---


async def _pack(run: Run) -> None:
    scopes = run.scopes
    while run.batch.wanted is None and await creations.write(packing.pack, run.batch, run.options, scopes):
        if not run.has_it():
            raise LostError
    batch = await asyncio.to_thread(read, run)
    if not batch.lines:
        await creations.write(upstream.forget, batch)
    else:
        await go_on(run, "build")


async def _build(run: Run) -> None:
    if run.batch.wanted is not None:
        await go_on(run, "end")
        return
    await _write_file(run)
    batch = await asyncio.to_thread(read, run)
    await go_on(run, "upload" if batch.lines else "end")


async def _write_file(run: Run) -> None:
    with reading() as connection:
        most = upstream.room(connection, run.batch, run.batch.model, packing.most())
    built = await asyncio.to_thread(packing.build_file, run.batch, run.options, run.path, most.bytes)
    if built.next_id is not None:
        await asyncio.to_thread(packing.give_back_from, run.batch, built.next_id)
    await creations.write(packing.keep_built, run.batch, built)


# --- upload, create ---


async def _upload(run: Run) -> None:
    if not await asyncio.to_thread(_is_there, run):  # it was built on another machine, or before a crash
        await _write_file(run)

    async def send(token: str) -> RemoteObject:
        return await run.provider.upload_file(_file_name(token), run.path, server().purpose)

    async def find(token: str) -> AsyncIterator[RemoteObject]:
        async for each in _list(run, "/files", purpose=server().purpose):
            if each.get("filename") == _file_name(token):
                yield each

    def keep(connection: Connection, remote: RemoteObject) -> None:
        upstream.change(connection, run.batch, file_id=str(remote["id"]))

    recipe = Recipe(upstream.owner(run.batch), Place("file", 0), send, find, keep, is_harmless=True)
    await _create(run, recipe, "create")


def _is_there(run: Run) -> bool:
    try:
        return run.path.stat().st_size == run.batch.bytes
    except OSError:
        return False


async def _create_batch(run: Run) -> None:
    await _create(run, _recipe(run), "follow")


def _recipe(run: Run) -> Recipe:
    """How the provider's batch is created; its token is in its metadata. If that gets lost, its file is known."""
    takes = server()
    body: JsonObject = {
        "input_file_id": run.batch.file_id,
        "endpoint": run.batch.endpoint,
        "completion_window": takes.windows[0],
    }
    if takes.takes_output_expiry:
        body["output_expires_after"] = {"anchor": "created_at", "seconds": _OUTPUT_SECONDS}

    async def send(token: str) -> RemoteObject:
        whole = {**body, "metadata": {METADATA: token}} if takes.takes_metadata else body
        try:
            return batch_of(await run.provider.post(BATCHES, whole))
        except CallError as error:
            refused = [name for name in _OPTIONAL if name in whole and name in f"{error.param} {error.message}"]
            if error.status not in (400, 422) or not refused:
                raise
            plain = {name: value for name, value in whole.items() if name not in _OPTIONAL}
            return batch_of(await run.provider.post(BATCHES, plain))

    async def find(token: str) -> AsyncIterator[RemoteObject]:
        async for each in _list(run, BATCHES):
            metadata = each.get("metadata")
            its_token = metadata.get(METADATA) if isinstance(metadata, dict) else None
            if its_token == token or (not its_token and each.get("input_file_id") == run.batch.file_id):
                yield each

    def keep(connection: Connection, remote: RemoteObject) -> None:
        upstream.note_created(connection, run.batch, dict(remote))
        if run.batch.failures:  # it was refused before, so this was the probe
            holds.end(connection, run.batch.provider)

    return Recipe(upstream.owner(run.batch), Place("batch", 0), send, find, keep)


async def _list(run: Run, path: str, **query: str | int) -> AsyncIterator[RemoteObject]:
    async for page in run.provider.pages(path, limit=_PAGE, **query):
        for each in page:
            yield each


def _file_name(token: str) -> str:
    return f"tidemill-{token}.jsonl"


async def _create(run: Run, recipe: Recipe, then: Step) -> None:
    known = await asyncio.to_thread(_creations, run)
    creation = known.get(recipe.place)
    if creation is not None and creation.remote_id is not None:  # and whoever had the step died in the next moment
        result: creations.Result = "created"
    else:
        is_wanted = run.batch.wanted is None
        result = await creations.create(recipe, known, is_wanted=is_wanted, may_call=run.has_it)
    if result == "created":
        await go_on(run, then, min(settings().poll_seconds, FIRST_LOOK_SECONDS) if then == "follow" else 0.0)
    elif result == "unwanted":
        await go_on(run, "end")
    elif result == "unknown":
        await faults.fail_as_unknown(run)
    elif result == "in doubt":
        await go_on(run, run.batch.step, min(LOOK_AGAIN_SECONDS, settings().doubt_seconds))


def _creations(run: Run) -> made.Creations:
    with reading() as connection:
        return made.load(connection, upstream.owner_name(run.batch.id))


# --- follow ---


async def _follow(run: Run) -> None:
    batch = run.batch
    path = _path(batch.remote_id)
    if batch.wanted == "cancel":
        await _cancel(run, path)
    remote = batch_of(await run.provider.fetch(path))
    await creations.write(_note_seen, run, remote)
    run.batch = await asyncio.to_thread(read, run)
    known = await asyncio.to_thread(_creations, run)
    await creations.end_duplicates(
        _recipe(run), known, age_seconds=age_seconds(run.batch), end=lambda each: _end_duplicate(run, each)
    )
    if run.batch.has_ended:
        await go_on(run, "collect")
        return
    left = await asyncio.to_thread(_seconds_kept, run)
    if not server().expires and left < upstream.SPARE_LEASE_SECONDS / 2:
        await creations.write(upstream.keep_members, batch, upstream.SPARE_LEASE_SECONDS)
    elif left <= 0:  # its rows are asked again by now, so it must not be paid, too
        await _cancel(run, path)
        await go_on(run, "end")
        return
    await go_on(run, "follow", look_seconds(run.batch), failures=0)


def _note_seen(connection: Connection, run: Run, remote: JsonObject) -> None:
    if run.batch.failures:  # as after a creation that was refused
        holds.end(connection, run.batch.provider)
    upstream.note_seen(connection, run.batch, remote)


def _path(remote_id: object) -> str:
    return f"{BATCHES}/{quote(str(remote_id), safe='')}"


async def _cancel(run: Run, path: str) -> None:
    """Tell the provider that nobody wants it. What it objects is noted; any other error is retried."""
    objection = None
    try:
        await run.provider.post(f"{path}/cancel", {})
    except CallError as error:
        if not is_no_cancel(error):
            raise
        objection = f"The provider does not cancel it: {error.message}"
    await creations.write(upstream.change, run.batch, wanted=None, note=objection)


async def _end_duplicate(run: Run, duplicate: RemoteObject) -> None:
    if status_of(dict(duplicate)) not in (*ENDED, "cancelling"):
        await run.provider.post(f"{_path(duplicate['id'])}/cancel", {})


def _seconds_kept(run: Run) -> float:
    with reading() as connection:
        return upstream.seconds_kept(connection, run.batch)


# --- collect ---


async def _collect(run: Run) -> None:
    if run.batch.failures:  # the last look found less than there should be: files may have come since
        await creations.write(
            upstream.note_seen, run.batch, batch_of(await run.provider.fetch(_path(run.batch.remote_id)))
        )
        run.batch = await asyncio.to_thread(read, run)
    remote, counts = run.batch.remote or {}, run.batch.counts
    collector = Collector(run.batch, run.options, run.judge, run.meter)
    answers = await _collect_file(run, collector, string(remote.get("output_file_id")), "answers")
    errors = await _collect_file(run, collector, string(remote.get("error_file_id")), "errors")
    missing = _what_is_missing(counts, answers, errors)
    if missing and run.batch.failures < MOST_LOOKS:
        left = await asyncio.to_thread(_left, run)
        if left:  # where every row has its line, no count is a reason to wait
            await try_again(run, missing)
            return
    if run.batch.meaning == "failed" and not answers + errors:
        await faults.after_failure(run)
        return
    # At once, for whoever waits for the rows goes home with the last of them.
    await creations.write(upstream.change, run.batch, step="end", failures=0)
    run.batch = await asyncio.to_thread(read, run)
    await _end(run)


def _what_is_missing(counts: Counts, answers: int, errors: int) -> str | None:
    """What the provider's files, with so many lines, hold less than it counts, in a sentence; None: nothing."""
    done, good = counts.done or 0, (counts.completed or 0) if counts.failed is not None else 0
    if answers + errors < done:
        return f"The provider says that {done:,} lines are done, and shows {answers + errors:,} so far."
    if answers < good:
        return f"The provider says that {good:,} lines have an answer, and shows {answers:,} answers so far."
    return None


async def _collect_file(run: Run, collector: Collector, file_id: str, what: str) -> int:
    """Store what is in one of the provider's files; returns how many lines it has. One that is not there has none."""
    if not file_id:
        return 0
    path = folder() / f"{run.batch.token}.{what}.jsonl"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        await run.provider.download(file_id, path)
    except CallError as error:
        if error.status not in (404, 410) and error.kind not in ("cut", "empty"):
            raise
    if not path.exists():
        return 0
    try:
        return await collector.collect(path)
    finally:
        path.unlink(missing_ok=True)


# --- end ---


async def _end(run: Run) -> None:
    """Give back the rows that are left, and clear away what lies about."""
    batch = run.batch
    was_refused = batch.refused is not None or batch.remote_id is None
    # Of one that was broken off, what is in no file was not run; of any other it may have been.
    leave = upstream.give_back if was_refused or batch.meaning in _BROKEN_OFF else upstream.lose
    if batch.refused == "queue" and (refusals := await asyncio.to_thread(_refusals, run)) > 1:
        # The queue is full of what is not ours: the limit that was learned is not enough.
        seconds = min(settings().poll_seconds * 2.0 ** min(refusals, 10), LONGEST_DELAY_SECONDS)
        leave = partial(upstream.give_back, seconds=seconds)
    while claims := await asyncio.to_thread(_left, run):
        await creations.write(leave, batch, claims)
    if batch.file_id is not None:
        try:
            await run.provider.delete(f"/files/{quote(batch.file_id, safe='')}")
        except CallError as error:
            if not is_final(error) and batch.failures < _DELETE_TRIES:
                raise
    await asyncio.to_thread(_remove_files, run)
    await creations.write(upstream.end, batch)


def _refusals(run: Run) -> int:
    with reading() as connection:
        return upstream.refusals_in_a_row(connection, run.batch)


def _left(run: Run) -> list[tuple[int, int]]:
    with reading() as connection:
        return upstream.members_from(connection, run.batch, 0, _PAGE_ROWS)


def _remove_files(run: Run) -> None:
    """Remove its files on this machine, and those that nobody has touched for days: another machine went on with it."""
    for path in folder().glob("*.*"):
        with suppress(FileNotFoundError):
            if path.name.startswith(run.batch.token) or time.time() - path.stat().st_mtime > _OLD_SECONDS:
                path.unlink()


STEPS: dict[Step, Callable[[Run], Awaitable[None]]] = {
    "pack": _pack,
    "build": _build,
    "upload": _upload,
    "create": _create_batch,
    "follow": _follow,
    "collect": _collect,
    "end": _end,
}
