"""A fine-tune takes days, and a worker may die in any second of them.

A train job makes one short step a run and is snoozed in between: upload the files, create the provider's job, follow
it, collect the results. `Run.step` has the whole order of steps. What is known is in `models.fine_tunes`, so the next
step is clear after any crash. Files and job are created through `worker.creations`.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from urllib.parse import quote

from sqlalchemy import Connection

from tidemill.models import blobs, cost, fine_tunes, training_bound, tunings
from tidemill.models.blobs import BlobError, BlobMissingError
from tidemill.models.claims import Claimed
from tidemill.models.creations import LostError
from tidemill.models.database import reading
from tidemill.models.errors import DatabaseError
from tidemill.models.fine_tunes import FILES, FineTune, Step
from tidemill.models.job_requests import read_train_request
from tidemill.models.json_types import JsonObject, RemoteObject
from tidemill.models.metrics import Point, points_of
from tidemill.models.options import Options
from tidemill.models.provider import CallError, Provider
from tidemill.models.server_names import is_same_host
from tidemill.models.settings import settings
from tidemill.models.settling import Outcome, Settlement
from tidemill.worker import creations, file_faults, settlements
from tidemill.worker.calling import Calling
from tidemill.worker.creations import (
    LOOK_AGAIN_SECONDS,
    NO_SUCH_ENDPOINT,
    Find,
    LookError,
    Recipe,
    Send,
    is_final,
)
from tidemill.worker.retries import Verdict
from tidemill.worker.server_words import BAD_KEY_NAMES, OUT_OF_CREDIT_NAMES, QUOTA_NAMES

JOBS = "/fine_tuning/jobs"
METADATA = "tidemill"
"""The key in a job's metadata that holds its token."""

_PAGE = 100
_FOLLOW_SHARE = 0.1
"""The share of a fine-tune's age after which it is looked at again."""

_DATABASE_SECONDS = 5.0
"""Pause after the database did not answer; creations at the provider are found again by their tokens."""

_NEW_SECONDS = 60.0
"""How long a new job may be unknown: a server's copies take a while to agree."""

_NAME_SECONDS = 20.0
"""How long a job that has ended well may go without naming its model; what comes later is looked for on demand."""
_NAME_LOOK_SECONDS = 2.0

_NOT_READY = re.compile(r"not ready|still being processed|not (yet )?(been )?processed", re.IGNORECASE)
_CREATION_UNKNOWN = (
    "The reply to the job's creation was lost, and the server lists no jobs in which it could be found. Look there "
    "whether it runs; if it does not, the same command with --new asks again."
)
_NO_MODEL = (
    "The provider says {status}, but names no model. `tidemill fine-tunes watch {remote_id}` looks whether it has one "
    "by now, and trains nothing again."
)
_WAYS_OUT = {
    "training_not_available": (
        "The provider does not let this account fine-tune ({reason}). OpenAI has closed fine-tuning to accounts that "
        "did not use it, and closes it to all on 2027-01-06: set OPENAI_BASE_URL to another server that has "
        "/v1/fine_tuning/jobs, or take the data along with `tidemill train --export train.jsonl`."
    ),
    "job_not_found": (
        "The provider does not know its job any more ({reason}): look there what became of it, or ask anew with --new."
    ),
    "no_fine_tuning": (
        "The server has no fine-tuning ({reason}): set OPENAI_BASE_URL to one that has /v1/files and "
        "/v1/fine_tuning/jobs, or take the data along with `tidemill train --export train.jsonl`."
    ),
    "model_not_found": "The server cannot fine-tune {model} ({reason}): name another model with --model.",
}
"""Error code -> the sentence that replaces the server's own words."""


async def train(job: Claimed, options: Options, calling: Calling) -> Settlement:
    """Advance a claimed train job by one step; see `worker.calling.Work`."""
    began = time.monotonic()
    try:
        tune = await creations.write(fine_tunes.load, job, read_train_request(job.request).dataset)
        return await Run(job, options, calling.provider, calling.may_call, tune, began).advance()
    except LostError:
        return settlements.of_snooze(job)  # another worker has the job and continues; this run is stale
    except DatabaseError:
        return settlements.of_snooze(job, _DATABASE_SECONDS)


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a train job, with what was known when it began."""

    job: Claimed
    options: Options
    provider: Provider
    may_call: Callable[[], bool]
    tune: FineTune
    began: float
    """On the monotonic clock."""

    @property
    def _files(self) -> file_faults.Files:
        return file_faults.Files(self.provider, self.tune, read_train_request(self.job.request).dataset)

    async def advance(self) -> Settlement:
        """Do the next step, and settle a call that fails."""
        try:
            return await self.step()
        except LookError as look:
            return await self._settle_look_error(look.error)
        except CallError as error:
            return await self._settle_error(error)

    async def step(self) -> Settlement:
        """Do what comes next."""
        tune = self.tune
        if not is_same_host(at := read_train_request(self.job.request).provider, settings().host):
            note = f"It is of {at}; start a worker whose OPENAI_BASE_URL is that."
            await creations.write(fine_tunes.note_trouble, self.job, note)
            return settlements.of_snooze(self.job, settings().poll_seconds)
        if tune.status is not None and tunings.has_ended(tune.remote) and not self._may_get_name():
            return await self._collect()
        if tune.remote_id is not None:
            return await self._follow()
        for file in FILES:
            if file in tune.files and tune.created_id(file) is None:
                return await self._create(self._file(file))
        return await self._create_job()

    # --- creations ---

    async def _create_job(self) -> Settlement:
        is_new = self.tune.place("job") not in self.tune.creations
        if is_new and not await creations.write(fine_tunes.reserve, self.job, self._most_usd_e9()):
            return settlements.of_step(self.job)  # its batch waits until there is room
        try:
            return await self._create(self._job())
        except CallError as error:
            is_waited_for = error.status == 400 and _NOT_READY.search(error.message)
            if is_waited_for and not await file_faults.refused(self._files):
                return settlements.of_step(self.job, LOOK_AGAIN_SECONDS)
            verdict = self._verdict(error)
            if error.status == 403 and verdict.code not in BAD_KEY_NAMES | OUT_OF_CREDIT_NAMES | QUOTA_NAMES:
                # The account may do everything else, so its batch need not wait.
                verdict = replace(verdict, action="fail", code="training_not_available")
            return await self._end_by_error(error, verdict)

    async def _create(self, recipe: Recipe) -> Settlement:
        is_wanted = self.tune.control != "cancel"
        result = await creations.create(recipe, self.tune.creations, is_wanted=is_wanted, may_call=self.may_call)
        if result == "unwanted":
            return self._end("cancelled", "cancelled", "Cancelled before the provider's job was created.")
        if result == "unknown":
            return self._end_unknown()
        if result == "in doubt":
            return settlements.of_step(self.job, min(LOOK_AGAIN_SECONDS, settings().doubt_seconds))
        if result == "not now":
            return settlements.of_snooze(self.job)
        return settlements.of_step(self.job)

    def _most_usd_e9(self) -> int | None:
        """The most that training may cost; None where nobody knows its price or how long it takes."""
        file, epochs = self.tune.files["training"], _epochs(self.options.params)
        if not {"tokens", "examples", "bytes"} <= file.keys():  # whoever stored the dataset has not counted it
            return None
        counts = {"tokens": file["tokens"], "examples": file["examples"], "size": file["bytes"]}
        return training_bound.most_usd_e9(self.options.model, epochs, **counts)

    def _file(self, step: Step) -> Recipe:
        """How one of the dataset's files is created; its token is in its name."""
        sha256 = self.tune.files[step]["sha256"]

        async def send(token: str) -> RemoteObject:
            try:
                content = await asyncio.to_thread(blobs.get, sha256)
            except BlobMissingError as error:
                raise CallError("request", str(error), code="dataset_missing") from None
            except BlobError as error:
                raise CallError("store", str(error), code="dataset_unreadable") from None
            return await self.provider.upload(_file_name(token), content)

        async def find(token: str) -> AsyncIterator[RemoteObject]:
            async for each in self._list("/files", purpose="fine-tune", order="desc"):
                if each.get("filename") == _file_name(token):
                    yield each

        return self._recipe(step, send, find, is_harmless=True)

    def _job(self) -> Recipe:
        """How the provider's job is created; its token is in its metadata. If that gets lost, its file is known."""
        files = {f"{file}_file": self.tune.created_id(file) for file in FILES}
        body = {"model": self.options.model, **files, **self.options.params}
        body = {name: value for name, value in body.items() if value is not None}

        async def send(token: str) -> RemoteObject:
            try:
                return await self.provider.post(JOBS, {**body, "metadata": {METADATA: token}})
            except CallError as error:
                if error.status not in (400, 422) or "metadata" not in f"{error.param} {error.message}":
                    raise
                return await self.provider.post(JOBS, body)

        async def find(token: str) -> AsyncIterator[RemoteObject]:
            async for each in self._list(JOBS):
                metadata = each.get("metadata")
                its_token = metadata.get(METADATA) if isinstance(metadata, dict) else None
                if its_token == token or (not its_token and each.get("training_file") == files["training_file"]):
                    yield each

        return self._recipe("job", send, find)

    def _recipe(self, step: Step, send: Send, find: Find, *, is_harmless: bool = False) -> Recipe:
        def keep(connection: Connection, remote: RemoteObject) -> None:
            fine_tunes.note_creation(connection, self.job, step, remote)

        return Recipe(fine_tunes.owner(self.job), self.tune.place(step), send, find, keep, is_harmless)

    async def _list(self, path: str, **query: str | int) -> AsyncIterator[RemoteObject]:
        async for page in self.provider.pages(path, limit=_PAGE, **query):
            for each in page:
                yield each

    # --- following ---

    async def _follow(self) -> Settlement:
        path = _path(str(self.tune.remote_id))
        if self.tune.control is not None:
            await self._pass_on(path, self.tune.control)
        remote = await self.provider.fetch(path)
        events = await self._new_events(path)
        await creations.write(fine_tunes.note_status, self.job, remote, events)
        if tunings.is_nameless(remote) and self._may_get_name():
            await creations.write(fine_tunes.note_nameless, self.job)
            return settlements.of_step(self.job, min(settings().poll_seconds, _NAME_LOOK_SECONDS))
        if tunings.has_ended(remote):
            return settlements.of_step(self.job)
        age_seconds = self.tune.age_seconds
        await creations.end_duplicates(
            self._job(), self.tune.creations, age_seconds=age_seconds, end=self._cancel_duplicate
        )
        return settlements.of_step(self.job, min(settings().poll_seconds, max(1.0, age_seconds * _FOLLOW_SHARE)))

    async def _cancel_duplicate(self, duplicate: RemoteObject) -> None:
        if tunings.has_ended(duplicate):
            return
        await self.provider.post(f"{_path(str(duplicate['id']))}/cancel", {})
        warning = f"An earlier request has made a second job after all, {duplicate['id']}; it was cancelled."
        await creations.write(fine_tunes.warn, self.job, warning)

    async def _pass_on(self, path: str, control: str) -> None:
        """Pause, resume or cancel the provider's job. A rejection is noted; any other error is retried."""
        objection = None
        try:
            await self.provider.post(f"{path}/{control}", {})
        except CallError as error:
            if not is_final(error):
                raise
            objection = f"The provider does not {control} it: {error.message}"
        await creations.write(fine_tunes.clear_control, self.job, control, objection)

    async def _new_events(self, path: str) -> list[RemoteObject]:
        """Events that are not stored yet, oldest first. A list with the newest first is not read to its end."""
        known = await asyncio.to_thread(self._known_events)
        events = list[RemoteObject]()
        try:
            async for page in self.provider.pages(f"{path}/events", limit=_PAGE):
                fresh = [event for event in page if tunings.event_id(event) not in known]
                events += fresh
                if len(fresh) < len(page) and tunings.order_of(page) < 0:
                    break
        except CallError as error:
            if not is_final(error):
                raise
        return events if tunings.order_of(events) > 0 else events[::-1]

    def _known_events(self) -> set[str]:
        with reading() as connection:
            return fine_tunes.known_events(connection, self.job, self.tune)

    # --- the end ---

    async def _collect(self) -> Settlement:
        tune = self.tune
        path = _path(str(tune.remote_id))
        checkpoints, curve, note = list[RemoteObject](), list[Point](), None
        # A job that ended while nobody looked has events that are not stored yet.
        await creations.write(fine_tunes.note_status, self.job, tune.remote, await self._new_events(path))
        try:
            async for page in self.provider.pages(f"{path}/checkpoints", limit=_PAGE):
                checkpoints += page
            for file_id in _strings(tune.remote.get("result_files")):
                curve += points_of(await self.provider.content(file_id))
        except ValueError as error:
            note = str(error)
        except CallError as error:
            if not is_final(error):
                raise
            note = f"What it left behind cannot be read: {error.message}"
        await creations.write(fine_tunes.keep_results, self.job, checkpoints, curve, note)
        if tunings.is_nameless(tune.remote):
            sentence = _NO_MODEL.format(status=tune.status, remote_id=tune.remote_id)
            names = _strings([each.get("fine_tuned_model_checkpoint") for each in checkpoints])
            checkpoint = f" Its checkpoints are models, too: {', '.join(names[:3])}." if names else ""
            return self._booked(self._end("failed", fine_tunes.NO_MODEL, sentence + checkpoint))
        if tunings.is_trained(tune.remote):
            return self._booked(self._end("succeeded"))
        return await self._fail_or_cancel()

    def _may_get_name(self) -> bool:
        """Whether it has ended well without a model, and not for long."""
        return tunings.is_nameless(self.tune.remote) and (self.tune.nameless_seconds or 0.0) < _NAME_SECONDS

    def _booked(self, settlement: Settlement) -> Settlement:
        """The settlement of a job that has ended at the provider, with the tokens that it has trained and their price.

        Both stay away where an earlier end of the same job has booked them. A job that failed and names no tokens is
        not billed; of others that name none nobody knows.
        """
        if self.tune.is_booked:
            return settlement._replace(http_status=200)
        trained = self._trained_tokens
        price = cost.training_price(self.options.model)
        return settlement._replace(
            http_status=200,
            request_id=self.tune.remote_id,
            input_tokens=trained,
            cost_usd=None if price is None or trained is None else price * trained,
            is_doubtful=trained is None and not tunings.has_failed(self.tune.remote),
        )

    @property
    def _trained_tokens(self) -> int | None:
        """As the provider's job says; 0 of one that was broken off says nothing."""
        tokens = self.tune.remote.get("trained_tokens")
        if not isinstance(tokens, int) or isinstance(tokens, bool) or not 0 <= tokens < 2**31:
            return None
        return tokens if tokens or tunings.is_trained(self.tune.remote) else None

    async def _fail_or_cancel(self) -> Settlement:
        status = str(self.tune.status)
        code, reason = tunings.reason_of(self.tune.remote)
        if not tunings.has_failed(self.tune.remote):
            return self._booked(self._end("cancelled", "cancelled", reason or "Cancelled at the provider."))
        reason = reason or await asyncio.to_thread(self._last_error) or f"The provider says: {status}."
        file: Step = "validation" if tunings.is_about_validation(self.tune.remote) else "training"
        sentences = [reason, *await file_faults.rows(self._files, file, reason)]
        if len(sentences) == 1:
            sentences += await file_faults.refused(self._files)
        return self._booked(self._end("failed", code or "training_failed", " ".join(sentences)))

    def _last_error(self) -> str | None:
        with reading() as connection:
            return fine_tunes.last_error(connection, self.job, self.tune)

    def _end(self, outcome: Outcome, code: str | None = None, error: str | None = None) -> Settlement:
        job, counted = self.job, outcome == "failed"
        return Settlement(job.id, job.epoch, job.batch_id, outcome, counted=counted, error_code=code, error=error)

    def _end_unknown(self) -> Settlement:
        """Whether there is a job at the provider, nobody knows."""
        return self._end("failed", "creation_unknown", _CREATION_UNKNOWN)._replace(is_doubtful=True)

    # --- calls that fail ---

    async def _settle_error(self, error: CallError) -> Settlement:
        """A creation is retried like any call; a look at the provider's job is retried for ever."""
        if self.tune.remote_id is None:
            return await self._end_by_error(error, self._verdict(error))
        verdict = self._verdict(error, is_look=True)
        is_new = error.status == 404 and self.tune.age_seconds < _NEW_SECONDS
        if verdict.action == "retry" or is_new:
            return await self._look_again(verdict)
        return await self._end_by_error(error, verdict)

    async def _settle_look_error(self, error: CallError) -> Settlement:
        """A look for a creation in doubt is retried for ever, too, unless it can never succeed."""
        verdict = self._verdict(error, is_look=True)
        if verdict.action == "retry":
            return await self._look_again(verdict)
        if verdict.action == "fail":
            return self._end_unknown()
        return await self._end_by_error(error, verdict)

    async def _look_again(self, verdict: Verdict) -> Settlement:
        await creations.write(fine_tunes.note_trouble, self.job, verdict.message)
        return settlements.of_step(self.job, max(verdict.delay_seconds, 1.0))

    def _verdict(self, error: CallError, is_look: bool = False) -> Verdict:
        return settlements.verdict_on(error, self.job._replace(failures=0, age_seconds=0.0) if is_look else self.job)

    async def _end_by_error(self, error: CallError, verdict: Verdict) -> Settlement:
        """The settlement of a call that failed; if the job fails with it, its sentence names a way out."""
        if verdict.action == "fail":
            code = verdict.code
            if error.status in NO_SUCH_ENDPOINT and code != "model_not_found":
                code = "no_fine_tuning" if self.tune.remote_id is None else "job_not_found"
            reason = error.message.rstrip(" .")
            way_out = _WAYS_OUT.get(code, "{message}")
            message = way_out.format(reason=reason, message=verdict.message, model=self.options.model)
            more = [] if code in _WAYS_OUT else await file_faults.of_creation(self._files, error)
            verdict = replace(verdict, code=code, message=" ".join([message, *more]), counted=True)
        settlement = settlements.of_error(self.job, error, verdict, time.monotonic() - self.began)
        is_there = verdict.action == "fail" and self.tune.remote_id is not None
        return settlement._replace(is_doubtful=True) if is_there else settlement


def _epochs(params: JsonObject) -> int | None:
    """How often the provider is told to read the examples; None where it may choose."""
    methods = params.get("method")
    holders = [params, *(methods.values() if isinstance(methods, dict) else ())]
    chosen = (each["hyperparameters"] for each in holders if isinstance(each, dict) and "hyperparameters" in each)
    epochs = next((each["n_epochs"] for each in chosen if isinstance(each, dict) and "n_epochs" in each), None)
    return epochs if isinstance(epochs, int) and not isinstance(epochs, bool) and epochs > 0 else None


def _file_name(token: str) -> str:
    return f"tidemill-{token}.jsonl"


def _path(remote_id: str) -> str:
    return f"{JOBS}/{quote(remote_id, safe='')}"


def _strings(value: object) -> list[str]:
    return [each for each in value if isinstance(each, str)] if isinstance(value, list) else []
