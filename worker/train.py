"""A fine-tune takes days, and a worker may die in any second of them.

A train job advances one short step a run and is snoozed between: upload the files, create the provider's job, follow
it, collect what it leaves behind. `_step` is the whole order of things; what is known is in `models.fine_tunes`, so the
step that follows is found from there after any crash. A creation is intended before it is sent. Where its reply was
lost, it is looked for by its token and adopted, and asked for again only when it has not turned up for a while.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import quote

from tidemill.models import blobs, cost, fine_tunes
from tidemill.models.blobs import BlobError, BlobMissingError
from tidemill.models.database import reading, writing
from tidemill.models.errors import DatabaseError
from tidemill.models.fine_tunes import FineTune, LostError, Operation, Step
from tidemill.models.job_requests import training
from tidemill.models.metrics import Point, point_of_event, points_of
from tidemill.models.options import Options
from tidemill.models.provider import CallError, Provider
from tidemill.models.settings import settings
from tidemill.models.transitions import Claimed, Outcome, Settlement
from tidemill.worker.calling import Calling
from tidemill.worker.retries import BAD_KEY_NAMES, OUT_OF_CREDIT_NAMES, Verdict, classify
from tidemill.worker.settlements import OUTCOME_OF, snoozed

JOBS = "/fine_tuning/jobs"
METADATA = "tidemill"
"""The key in a job's metadata that holds its token."""

_PAGE = 100
_LOOK_AGAIN_SECONDS = 2.0
_FOLLOW_SHARE = 0.1
"""A fine-tune is looked at again after this share of its age."""

_DATABASE_SECONDS = 5.0
"""Pause after the database did not answer: what was done at the provider is found again by its token."""

_NO_SUCH_ENDPOINT = (404, 405, 501)
_NOT_READY = re.compile(r"not ready|still being processed|not (yet )?(been )?processed", re.IGNORECASE)
_CREATION_UNKNOWN = (
    "The reply to the job's creation was lost, and the server lists no jobs in which it could be found. Look there "
    "whether it runs; if it does not, the same command with --new asks again."
)
_TWIN_SECONDS = 1_800.0
"""How long after a second request a job of the first one may turn up."""

_NEW_SECONDS = 60.0
_CERTAIN = ("connect", "request", "store")
"""Kinds of errors after which nothing can have been created; so it is after a status below 500."""

_WAYS_OUT = {
    "training_not_available": (
        "The provider does not let this account fine-tune ({said}). OpenAI has closed fine-tuning to accounts that did "
        "not use it, and closes it to all on 2027-01-06: set OPENAI_BASE_URL to another server that has "
        "/v1/fine_tuning/jobs, or take the data along with `tidemill train --export train.jsonl`."
    ),
    "job_not_found": (
        "The provider does not know its job any more ({said}): look there what became of it, or ask anew with --new."
    ),
    "no_fine_tuning": (
        "The server has no fine-tuning ({said}): set OPENAI_BASE_URL to one that has /v1/files and "
        "/v1/fine_tuning/jobs, or take the data along with `tidemill train --export train.jsonl`."
    ),
    "model_not_found": "The server cannot fine-tune {model} ({said}): name another model with --model.",
}
"""Error code -> what to tell somebody in place of the server's own words."""


async def train(job: Claimed, options: Options, calling: Calling) -> Settlement:
    """Advance a claimed train job by one step; see `worker.calling.Work`."""
    began = time.monotonic()
    run = Run(job, options, calling.provider, calling.may_call)
    try:
        await run.load()
        return await run.step()
    except LostError:
        return snoozed(job)  # whoever has it now goes on; this is stale
    except DatabaseError:
        return snoozed(job, _DATABASE_SECONDS)
    except CallError as error:
        try:
            return await run.failed(error, time.monotonic() - began)
        except (LostError, DatabaseError):
            return snoozed(job, _DATABASE_SECONDS)


class Run:
    """One run of a train job: what it knows, and where it writes."""

    def __init__(self, job: Claimed, options: Options, provider: Provider, may_call: Callable[[], bool]) -> None:
        self.job = job
        self.options = options
        self.provider = provider
        self.may_call = may_call
        self.sending: Step | None = None
        """The creation that is under way."""
        self.looking = False
        """Whether a creation in doubt is being looked for."""
        self.tune: FineTune

    async def load(self) -> None:
        """Read what is known of the job."""
        self.tune = await self._write(fine_tunes.load, training(self.job.request).dataset)

    async def step(self) -> Settlement:
        """Do what comes next."""
        tune = self.tune
        if (at := training(self.job.request).provider) != settings().provider:
            elsewhere = f"It is of {at}; start a worker whose OPENAI_BASE_URL is that."
            await self._write(fine_tunes.troubled, elsewhere)
            return snoozed(self.job, settings().poll_seconds)
        if tune.status is not None and fine_tunes.has_ended(tune.remote):
            return await self._collect()
        if tune.remote_id is not None:
            return await self._follow()
        for file in ("training", "validation"):
            if getattr(tune.dataset, file) is not None and self._created(file) is None:
                return await self._upload(file)
        return await self._create()

    def _created(self, step: Step) -> str | None:
        operation = self.tune.operations.get(step)
        return operation.remote_id if operation is not None else None

    # --- creations ---

    async def _upload(self, file: Step) -> Settlement:
        stored = getattr(self.tune.dataset, file)

        async def send(token: str) -> dict[str, Any]:
            try:
                content = await asyncio.to_thread(blobs.get, stored["sha256"])
            except BlobMissingError as error:
                raise CallError("request", str(error), code="dataset_missing") from None
            except BlobError as error:
                raise CallError("store", str(error), code="dataset_unreadable") from None
            return await self.provider.upload(_file_name(token), content)

        async def find(operation: Operation) -> dict[str, Any] | None:
            name = _file_name(operation.token)
            listed = self._listed("/files", purpose="fine-tune", order="desc")
            return await _first(listed, lambda each: each.get("filename") == name)

        return await self._once(file, send, find)

    async def _create(self) -> Settlement:
        files = {f"{file}_file": self._created(file) for file in ("training", "validation")}
        body = {"model": self.options.model, **files, **self.options.params}
        body = {name: value for name, value in body.items() if value is not None}

        async def send(token: str) -> dict[str, Any]:
            try:
                return await self.provider.post(JOBS, {**body, "metadata": {METADATA: token}})
            except CallError as error:
                if error.status not in (400, 422) or "metadata" not in f"{error.param} {error.message}":
                    raise
                return await self.provider.post(JOBS, body)  # its training file identifies it as well

        async def find(operation: Operation) -> dict[str, Any] | None:
            return next(iter(await self._jobs_of(operation)), None)

        return await self._once("job", send, find)

    async def _jobs_of(self, operation: Operation) -> list[dict[str, Any]]:
        """The provider's jobs that came of an operation: with its token or, where metadata got lost, its file."""
        earlier = await self._read(fine_tunes.earlier_jobs, self.tune)
        file = self._created("training")
        found = []
        async for each in self._listed(JOBS):
            metadata = each.get("metadata")
            token = metadata.get(METADATA) if isinstance(metadata, dict) else None
            if token == operation.token or (not token and each.get("training_file") == file):
                found += [each] if each.get("id") not in earlier else []
        return found

    async def _once(
        self,
        step: Step,
        send: Callable[[str], Awaitable[dict[str, Any]]],
        find: Callable[[Operation], Awaitable[dict[str, Any] | None]],
    ) -> Settlement:
        """Create something at the provider, unless it may be there already: then find it first."""
        operation = self.tune.operations.get(step)
        remote = None
        if operation is not None and operation.doubt_seconds is not None:
            try:
                self.looking = True
                remote = await find(operation)
            except CallError as error:
                if error.status not in _NO_SUCH_ENDPOINT:
                    raise
                if step == "job":  # a second file would harm nobody
                    return self._ended("failed", "creation_unknown", _CREATION_UNKNOWN)
            self.looking = False
            if remote is None and operation.doubt_seconds < settings().doubt_seconds:
                return snoozed(self.job, min(_LOOK_AGAIN_SECONDS, settings().doubt_seconds))
        if remote is None and self.tune.wanted == "cancel":
            return self._ended("cancelled", "cancelled", "Cancelled before the provider's job was created.")
        if remote is None:
            token = await self._write(fine_tunes.intend, self.tune, step)
            if not self.may_call():
                await self._write(fine_tunes.refused, self.tune, step)
                return snoozed(self.job)
            self.sending = step
            remote = await send(token)
        await self._write(fine_tunes.created, self.tune, step, remote)
        self.sending = None
        return snoozed(self.job)

    # --- following ---

    async def _follow(self) -> Settlement:
        path = f"{JOBS}/{quote(str(self.tune.remote_id), safe='')}"
        if self.tune.wanted is not None:
            await self._tell(path, self.tune.wanted)
        remote = await self.provider.fetch(path)
        events = await self._new_events(f"{path}/events")
        await self._write(fine_tunes.saw, remote, events)
        if fine_tunes.has_ended(remote):
            return snoozed(self.job)
        await self._end_twins()
        return snoozed(self.job, min(settings().poll_seconds, max(1.0, self.tune.age_seconds * _FOLLOW_SHARE)))

    async def _end_twins(self) -> None:
        """Cancel what an earlier request made after all, later than anybody could wait for it."""
        operation = self.tune.operations.get("job")
        if operation is None or operation.sends < 2 or self.tune.age_seconds > _TWIN_SECONDS:
            return
        try:
            for twin in await self._jobs_of(operation):
                if twin.get("id") == self.tune.remote_id or fine_tunes.has_ended(twin):
                    continue
                await self.provider.post(f"{JOBS}/{quote(str(twin['id']), safe='')}/cancel", {})
                late = f"An earlier request has made a second job after all, {twin['id']}; it was cancelled."
                await self._write(fine_tunes.warn, late)
        except CallError as error:
            if not _is_final(error):
                raise

    async def _tell(self, path: str, wanted: str) -> None:
        """Pass on what somebody wants. A refusal is noted; anything else is tried again with the next look."""
        note = None
        try:
            await self.provider.post(f"{path}/{wanted}", {})
        except CallError as error:
            if not _is_final(error):
                raise
            note = f"The provider does not {wanted} it: {error.message}"
        await self._write(fine_tunes.told, wanted, note)

    async def _new_events(self, path: str) -> list[dict[str, Any]]:
        """Events that are not stored yet, oldest first. Servers list the newest first, and are not read to the end."""
        known = await self._read(fine_tunes.known_events, self.tune)
        found: list[dict[str, Any]] = []
        try:
            async for page in self.provider.pages(path, limit=_PAGE):
                fresh = [event for event in page if fine_tunes.event_id(event) not in known]
                found += fresh
                if len(fresh) < len(page) and _order(page) < 0:
                    break
        except CallError as error:
            if not _is_final(error):
                raise
        return found if _order(found) > 0 else found[::-1]

    # --- the end ---

    async def _collect(self) -> Settlement:
        tune = self.tune
        path = f"{JOBS}/{quote(str(tune.remote_id), safe='')}"
        checkpoints, curve, note = list[dict[str, Any]](), list[Point](), None
        # A job that ended while nobody looked was never followed.
        await self._write(fine_tunes.saw, tune.remote, await self._new_events(f"{path}/events"))
        try:
            async for page in self.provider.pages(f"{path}/checkpoints", limit=_PAGE):
                checkpoints += page
            for file_id in _strings(tune.remote.get("result_files")):
                curve += points_of(await self.provider.content(file_id))
        except ValueError as error:
            note = str(error)
        except CallError as error:
            if not _is_final(error):
                raise
            note = f"What it left behind cannot be read: {error.message}"
        await self._write(fine_tunes.collected, checkpoints, curve, note)
        if fine_tunes.is_trained(tune.remote):
            return self._succeeded()
        said = tune.remote.get("error") or {}
        said = said if isinstance(said, dict) else {"message": str(said)}
        code, why = said.get("code") or "training_failed", said.get("message")
        if str(tune.status).lower() in ("cancelled", "canceled"):
            return self._ended("cancelled", "cancelled", why or "Cancelled at the provider.")
        return self._ended("failed", str(code), str(why or f"The provider says: {tune.status}."))

    def _succeeded(self) -> Settlement:
        tokens = self.tune.remote.get("trained_tokens")
        trained = tokens if isinstance(tokens, int) and 0 <= tokens < 2**31 else None
        price = cost.training_price(self.options.model)
        paid = None if price is None or trained is None else price * trained
        return self._ended("succeeded", http_status=200, input_tokens=trained, cost_usd=paid)

    def _ended(self, outcome: Outcome, code: str | None = None, error: str | None = None, **used: Any) -> Settlement:
        job, counted = self.job, outcome == "failed"
        end = {"counted": counted, "error_code": code, "error": error, **used}
        return Settlement(job.id, job.epoch, job.batch_id, outcome, **end)

    async def failed(self, error: CallError, seconds: float) -> Settlement:
        """What follows from a call that failed: a creation is tried as any call is, a look at it for ever."""
        if self.sending is not None and (error.kind in _CERTAIN or (error.kind == "status" and _is_refusal(error))):
            await self._write(fine_tunes.refused, self.tune, self.sending)
        if self.sending == "job" and error.status == 400 and _NOT_READY.search(error.message):
            return snoozed(self.job, _LOOK_AGAIN_SECONDS)
        following = self.tune.remote_id is not None or self.looking
        verdict = classify(
            error,
            failures=0 if following else self.job.failures,
            age_seconds=0.0 if following else self.job.age_seconds,
            max_attempts=settings().max_attempts,
            retry_seconds=settings().retry_seconds,
        )
        is_new = (
            error.status == 404 and self.tune.age_seconds < _NEW_SECONDS
        )  # servers that copy are not at one at once
        if following and (verdict.action == "retry" or is_new):
            await self._write(fine_tunes.troubled, verdict.message)
            return snoozed(self.job, max(verdict.delay_seconds, 1.0))
        if self.looking and verdict.action == "fail":
            return self._ended("failed", "creation_unknown", _CREATION_UNKNOWN)
        return self._settled(error, verdict, seconds)

    def _settled(self, error: CallError, verdict: Verdict, seconds: float) -> Settlement:
        action, code = verdict.action, verdict.code
        if (
            self.sending == "job" and error.status == 403 and code not in BAD_KEY_NAMES | OUT_OF_CREDIT_NAMES
        ):  # it may do everything else
            action, code = "fail", "training_not_available"
        elif action == "fail" and error.status in _NO_SUCH_ENDPOINT and code != "model_not_found":
            code = "no_fine_tuning" if self.tune.remote_id is None else "job_not_found"
        said = error.message.rstrip(" .")
        told = _WAYS_OUT.get(code, "{message}") if action == "fail" else "{message}"
        job = self.job
        return Settlement(
            job.id,
            job.epoch,
            job.batch_id,
            OUTCOME_OF[action],
            delay_seconds=verdict.delay_seconds,
            counted=verdict.counted or action == "fail",
            seconds=seconds,
            http_status=error.status,
            request_id=error.request_id,
            error_code=code,
            error=told.format(said=said, message=verdict.message, model=self.options.model),
        )

    # --- doors ---

    async def _write(self, act: Callable[..., Any], *given: Any) -> Any:
        """Let a function of `models.fine_tunes` act on this job in a transaction of its own."""

        def write() -> Any:
            with writing() as connection:
                return act(connection, self.job, *given)

        return await asyncio.to_thread(write)

    async def _read(self, look: Callable[..., Any], *given: Any) -> Any:
        """Let a function of `models.fine_tunes` look something up for this job."""

        def read() -> Any:
            with reading() as connection:
                return look(connection, self.job, *given)

        return await asyncio.to_thread(read)

    async def _listed(self, path: str, **query: str | int) -> AsyncIterator[dict[str, Any]]:
        async for page in self.provider.pages(path, limit=_PAGE, **query):
            for each in page:
                yield each


async def _first(
    listed: AsyncIterator[dict[str, Any]], wanted: Callable[[dict[str, Any]], bool]
) -> dict[str, Any] | None:
    async for each in listed:
        if wanted(each):
            return each
    return None


def _is_refusal(error: CallError) -> bool:
    """Whether the server has understood, and did nothing."""
    return error.status is not None and 400 <= error.status < 500 and error.status not in (408, 409)


def _is_final(error: CallError) -> bool:
    """Whether asking again would be answered the same."""
    return _is_refusal(error) and error.status not in (401, 429)


def _file_name(token: str) -> str:
    return f"tidemill-{token}.jsonl"


def _order(events: list[dict[str, Any]]) -> int:
    """-1 when these events go from the newest to the oldest, 1 the other way round, 0 when that cannot be told."""
    times = [at for event in events if (at := fine_tunes.time_of(event)) is not None]
    steps = [point.step for event in events if (point := _point(event)) is not None]
    for told in ([at.timestamp() for at in times], steps):
        if told and told[0] != told[-1]:
            return -1 if told[0] > told[-1] else 1
    return 0


def _point(event: Mapping[str, Any]) -> Point | None:
    data = event.get("data")
    return point_of_event(data) if isinstance(data, dict) else None


def _strings(value: object) -> list[str]:
    return [each for each in value if isinstance(each, str)] if isinstance(value, list) else []
