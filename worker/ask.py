"""A claimed prompt becomes a live call, and its reply or error becomes a settlement.

questions.build -> limits.reserve -> provider.call -> settlements. Nothing here uses the database.
"""

import asyncio
import base64
import time
from collections.abc import Callable

from tidemill.models import blobs, cost, live
from tidemill.models.claims import Claimed
from tidemill.models.json_types import JsonObject
from tidemill.models.options import Options
from tidemill.models.pictures import Picture
from tidemill.models.provider import CallError, Reply, UnwantedError
from tidemill.models.routes import ONLINE
from tidemill.models.settling import Settlement
from tidemill.worker import flex, settlements
from tidemill.worker.calling import Calling
from tidemill.worker.history import fit_history
from tidemill.worker.limits import Limiter
from tidemill.worker.pace import Grant, Limits, Unserved
from tidemill.worker.questions import Question, build
from tidemill.worker.retries import UNSERVED_SECONDS, Verdict, unserved_reason
from tidemill.worker.schema_check import checker

MAX_WAIT_SECONDS = 20.0
"""A job that may not call for longer than this goes back to the table and makes room for others."""

UNSERVED_PAUSE = 0.25
"""Of the time for which nobody was served, until a hold follows."""


async def ask(job: Claimed, options: Options, calling: Calling) -> Settlement:
    """Run one claimed job; see `worker.calling.Work`."""
    began = time.monotonic()
    question = build(options, job.request, history=job.history)
    if job.history:
        try:
            question = build(options, job.request, history=await asyncio.to_thread(fit_history, options, question))
        except CallError as error:
            return settlements.of_error(job, error, settlements.verdict_on(error, job), time.monotonic() - began)
    limiter, bucket, reserved = calling.limiter, _bucket(calling, question), question.most_tokens
    limits = Limits(options.rpm, options.tpm)
    grant = await _reserve(limiter, bucket, reserved, limits)
    if not grant.granted:
        return settlements.of_snooze(job, grant.wait_seconds)
    if not calling.may_call():  # to reserve may have taken a while, too: the first calls of a bucket wait for a reply
        await limiter.refund(bucket, reserved)
        return settlements.of_snooze(job)
    began = time.monotonic()
    routes = flex.routes(job, question, calling)
    for route in routes:
        try:
            reply = await _call(job, options, question, calling, route)
            break
        except UnwantedError:  # by the time that its connection was there
            await limiter.refund(bucket, reserved)
            return settlements.of_snooze(job)
        except CallError as error:
            if route == routes[-1] or not flex.is_over(error, job, question, calling):
                return await _failed(job, question, calling, error, route=route, seconds=time.monotonic() - began)
    await limiter.observe(bucket, reply.headers, served=True)
    seconds = time.monotonic() - began
    if route == ONLINE and reply.usage is not None and not question.body.get("service_tier"):
        cost.note_tier(question.model, reply.usage.tier)
    text = settlements.text_to_check(question, reply)
    complaint = None if text is None else await checker().complaint(question.schema or {}, text)
    usage = settlements.usage_of(question, reply)
    await limiter.refund(bucket, reserved - usage.input_tokens - usage.output_tokens)
    return settlements.of_reply(job, question, reply, usage, seconds, complaint=complaint, route=route)


async def _reserve(limiter: Limiter, bucket: str, tokens: int, limits: Limits) -> Grant:
    """Reserve one call, and wait until it may be made."""
    grant = await limiter.reserve(bucket, tokens, limits, MAX_WAIT_SECONDS)
    while grant.granted and grant.wait_seconds > 0:
        await asyncio.sleep(grant.wait_seconds)
        if not await limiter.pause_seconds(bucket):
            break
        # The provider has throttled a call meanwhile, which voids the grants before it.
        grant = await limiter.reserve(bucket, tokens, limits, MAX_WAIT_SECONDS)
    return grant


async def _call(job: Claimed, options: Options, question: Question, calling: Calling, route: str) -> Reply:
    """Make the call, once. Raises as `Provider.call`."""
    body = flex.with_tier(await _whole_body(job, options, question), route)
    cost.load_prices()  # while the call is in flight: its reply has a price
    with calling.limiter.under_way(_bucket(calling, question)):
        seconds = flex.timeout_seconds(route, calling.seconds_left)
        return await calling.provider.call(question.endpoint, body, calling.may_call, _ear(job, question), seconds)


async def _failed(
    job: Claimed, question: Question, calling: Calling, error: CallError, *, route: str, seconds: float
) -> Settlement:
    """How the job ends after an error, which may slow everybody down."""
    limiter, bucket = calling.limiter, _bucket(calling, question)
    verdict = flex.verdict_on(error, job, route, calling)
    unserved = limiter.note_refusal(bucket, job.id) if verdict.refused else Unserved()
    await _slow_down(limiter, bucket, error, verdict, unserved.seconds)
    tier = str(question.body.get("service_tier") or "")
    settlement = settlements.of_error(job, error, verdict, seconds, question.model, route=route, asked_tier=tier)
    return settlement._replace(hold_reason=unserved_reason(verdict, error, unserved))


def _bucket(calling: Calling, question: Question) -> str:
    """The rate budget of the model, which its tiers share."""
    return f"{calling.bucket}|{question.model}"


def _ear(job: Claimed, question: Question) -> Callable[[str], None] | None:
    """What hears the answer while it is written, where somebody in this process does; JSON by a schema is no prose."""
    listener = live.listener_of(job.batch_id) if question.schema is None else None
    if listener is None:
        return None
    listener.begin()
    return listener.hear


async def _whole_body(job: Claimed, options: Options, question: Question) -> JsonObject:
    """The body with its picture, which is in memory only for the call: hundreds would fill it."""
    if question.picture is None:
        return question.body
    url = await asyncio.to_thread(url_of, question.picture)
    return build(options, job.request, url, question.history).body


def url_of(picture: Picture) -> str:
    """The picture's own URL, or a data URL with its bytes; blocks while they are read.

    Raises:
        CallError: it is not in the store ("request"), or the store cannot be read ("store").
    """
    if "url" in picture:
        return str(picture["url"])
    try:
        content = blobs.get(picture["sha256"])
    except blobs.BlobMissingError as error:
        raise CallError("request", str(error), code="picture_missing") from None
    except blobs.BlobError as error:
        raise CallError("store", str(error)) from None
    return f"data:image/{picture['format']};base64,{base64.b64encode(content).decode()}"


async def _slow_down(
    limiter: Limiter, bucket: str, error: CallError, verdict: Verdict, unserved_seconds: float
) -> None:
    """Tell every worker of this model what the provider's error says about its limits.

    The longer nobody is served, the longer is the pause: what is refused anyway need not be asked every second.
    """
    pause = verdict.pause_seconds
    await limiter.observe(bucket, error.headers, served=False if pause > 0 else None)
    if pause > 0:
        await limiter.pause(bucket, max(pause, _unserved_pause(unserved_seconds)))


def _unserved_pause(seconds: float) -> float:
    """How long to ask nothing after so many seconds without an answer; the call that makes it a hold comes in time."""
    return max(0.0, min(seconds * UNSERVED_PAUSE, UNSERVED_SECONDS - seconds))
