"""All calls to the provider go through this door, so that a call means the same over either transport.

A transport (`models.transports`) only carries bytes: it returns (status, headers, body), which `models.replies` reads,
or raises what the libraries raise, which `_call_error` reads. Nothing here retries; `worker.retries` decides whether a
call is repeated.
"""

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from urllib.parse import quote, urlencode

import orjson
from pydantic import SecretStr

from tidemill.models import bodies
from tidemill.models.call_settings import checked_base_url, checked_header
from tidemill.models.deltas import Deltas
from tidemill.models.endpoints import Endpoint
from tidemill.models.errors import SettingsError
from tidemill.models.json_types import JsonObject
from tidemill.models.options import Transport
from tidemill.models.outbound import NOTHING_LEFT, outbound
from tidemill.models.replies import (
    CallError,
    ErrorKind,
    RawReply,
    Reply,
    error_from_status,
    parse_object,
    parse_page,
    safe_line,
)
from tidemill.models.settings import Settings
from tidemill.models.transfers import OnBytes, reading, replacing, transfer_seconds
from tidemill.models.transports import (
    MAY_SEND,
    ON_PIECE,
    SINK,
    TRANSPORTS,
    File,
    UnwantedError,
    proxy_headers,
    reason_of,
)
from tidemill.models.usage import Usage

__all__ = [
    "CallError",
    "ErrorKind",
    "Provider",
    "Reply",
    "Transport",
    "UnwantedError",
    "Usage",
]

LIST_PAGES = 100


class Provider:
    """A connection pool to one server that speaks OpenAI's API; created, used and closed in one event loop.

    Args:
        base_url: with or without a slash at the end, e.g. "http://localhost:8000/v1".
        api_key: None for servers that need none.
        timeout_seconds: the longest wait for one whole reply.
        connections: calls that can be in flight at once; others wait for a connection, within their timeout.

    Raises:
        SettingsError: the URL, the key or something else of the environment can never work; the text names it.
    """

    def __init__(
        self,
        *,
        base_url: str,
        api_key: SecretStr | None,
        transport: Transport,
        timeout_seconds: float,
        connections: int,
        organization: str | None = None,
        project: str | None = None,
        beta: str | None = None,
    ) -> None:
        self._base_url = checked_base_url(base_url)
        self._secret = checked_header("OPENAI_API_KEY", api_key.get_secret_value() if api_key else None) or ""
        self._timeout_seconds = timeout_seconds
        self._unstreamed: set[str] = set()
        """Endpoints at which the server refuses to stream."""
        self.models_without_flex: set[str] = set()
        """Models that the server has refused to run at the flex tier."""
        headers = {
            "OpenAI-Organization": checked_header("OPENAI_ORG_ID", organization),
            "OpenAI-Project": checked_header("OPENAI_PROJECT_ID", project),
            "OpenAI-Beta": beta,
        }
        self._way = outbound(self._base_url)
        headers |= proxy_headers(self._way.proxy) if self._base_url.startswith("http:") else {}
        named = {name: value for name, value in headers.items() if value}
        try:
            self._transport = TRANSPORTS[transport](self._base_url, self._secret, named, connections, self._way)
        except Exception as error:
            if isinstance(error, OSError) and error.errno in NOTHING_LEFT:
                raise
            reason = safe_line(f"{type(error).__name__}: {error}", self._secret)
            raise SettingsError(
                f"The client for the provider cannot be set up ({reason}). "
                "`tidemill doctor` tries it; install tidemill anew if nothing else helps."
            ) from None

    @classmethod
    def of(
        cls,
        settings: Settings,
        transport: Transport,
        connections: int,
        *,
        timeout_seconds: float | None = None,
        beta: str | None = None,
    ) -> "Provider":
        """The one of these settings. Raises SettingsError."""
        return cls(
            base_url=settings.openai_base_url,
            api_key=settings.openai_api_key,
            transport=transport,
            timeout_seconds=settings.timeout_seconds if timeout_seconds is None else timeout_seconds,
            connections=connections,
            organization=settings.openai_org_id,
            project=settings.openai_project_id,
            beta=beta,
        )

    async def call(
        self,
        endpoint: Endpoint,
        body: Mapping[str, object],
        may_send: Callable[[], bool] | None = None,
        hear: Callable[[str], None] | None = None,
        timeout_seconds: float | None = None,
    ) -> Reply:
        """Send one request, once, and read the reply.

        `may_send` is asked once more when the connection is there, which may have taken a while. With `hear` the server
        is asked to stream, where it can, and `hear` gets the text of the answer as it comes; the reply is the same.
        `timeout_seconds` is for this call, where it may take longer than others.

        Raises:
            CallError: there is no usable answer, for any reason.
            UnwantedError: `may_send` said no, and nothing was sent. Nothing else is raised.
        """
        content = _encode(body)
        before = MAY_SEND.set(may_send)
        try:
            if hear is None or endpoint.stream_fields is None or endpoint.name in self._unstreamed:
                raw = await self._send("POST", endpoint.path, content, limit=_limit(timeout_seconds))
            else:
                raw = await self._stream(endpoint, body, content, hear, timeout_seconds)
        finally:
            MAY_SEND.reset(before)  # the task may make other calls
        return endpoint.parse_reply(raw, secret=self._secret)

    async def _stream(
        self,
        endpoint: Endpoint,
        body: Mapping[str, object],
        content: bytes,
        hear: Callable[[str], None],
        timeout_seconds: float | None,
    ) -> RawReply:
        """Ask for a stream, and without one where the server refuses that; it has billed nothing then."""
        before = ON_PIECE.set(Deltas(hear))
        try:
            streaming = _as_json({**body, **(endpoint.stream_fields or {})})
            return await self._send("POST", endpoint.path, streaming, limit=_limit(timeout_seconds))
        except CallError as error:
            if not _refuses_streams(error):
                raise
        finally:
            ON_PIECE.reset(before)
        self._unstreamed.add(endpoint.name)
        return await self._send("POST", endpoint.path, content, limit=_limit(timeout_seconds))

    async def list_all(self, what: str) -> list[JsonObject]:
        """Everything that the server lists under GET /`what`, on all pages, as the server describes it.

        Raises:
            CallError: as for `call`.
        """
        return [each async for page in self.pages(f"/{what}") for each in page]

    async def fetch(self, path: str) -> JsonObject:
        """GET one object, e.g. "/fine_tuning/jobs/ftjob-1", as the server describes it. Errors as for `call`."""
        return parse_object(await self._send("GET", path), secret=self._secret)

    async def post(self, path: str, body: Mapping[str, object]) -> JsonObject:
        """POST a JSON body, once, and read the object that it created or changed. Errors as for `call`."""
        return parse_object(await self._send("POST", path, _encode(body)), secret=self._secret)

    async def pages(self, path: str, **query: str | int) -> AsyncIterator[list[JsonObject]]:
        """What the server lists under `path`, page by page, as the server orders it. Errors as for `call`."""
        known_ids: set[str] = set()
        left_bytes = bodies.MOST_REPLY_BYTES  # for all pages, since callers keep them all
        for _ in range(LIST_PAGES):
            suffix = f"?{urlencode(query)}" if query else ""
            raw = await self._send("GET", path + suffix, most_bytes=left_bytes)
            left_bytes -= len(raw.body)
            page, more = parse_page(raw, secret=self._secret)
            fresh = [each for each in page if str(each.get("id")) not in known_ids]
            if fresh:
                yield fresh
            if not more or not fresh:  # nothing new: the server ignores `after`
                return
            known_ids |= {str(each.get("id")) for each in fresh}
            query["after"] = str(fresh[-1].get("id"))

    async def upload(self, name: str, content: bytes) -> JsonObject:
        """Upload a file for fine-tuning under this name, once; returns the file's object. Errors as for `call`."""
        return parse_object(await self._send("POST", "/files", File(name, content)), secret=self._secret)

    async def upload_file(
        self,
        name: str,
        path: Path,
        purpose: str,
        *,
        seconds: float | None = None,
        on_bytes: OnBytes | None = None,
    ) -> JsonObject:
        """Upload a file of any size from the disk under this name, once; returns the file's object.

        It takes `seconds` at most, or what `transfer_seconds` says for its size. `on_bytes` hears how many bytes
        were read by now; another thread may call it.

        Raises:
            CallError: as for `call`.
            TransferError: the file cannot be read.
        """
        with reading(path, on_bytes) as file:
            limit = asyncio.timeout(transfer_seconds(os.fstat(file.fileno()).st_size) if seconds is None else seconds)
            raw = await self._send("POST", "/files", File(name, file, purpose), limit=limit)
        return parse_object(raw, secret=self._secret)

    async def download(
        self,
        file_id: str,
        path: Path,
        *,
        seconds: float | None = None,
        on_bytes: OnBytes | None = None,
    ) -> int:
        """Bring a file of any size to the disk, once, and return how many bytes it has.

        `path` is replaced when all of it is there; until then it is as it was. The download takes `seconds` at most, or
        what `transfer_seconds` says for what has come by now. `on_bytes` hears how much that is.

        Raises:
            CallError: as for `call`; a body that is shorter than the server said is "cut".
            TransferError: the file cannot be written.
        """
        begun = asyncio.get_running_loop().time()
        limit = asyncio.timeout(transfer_seconds(0) if seconds is None else seconds)
        with replacing(path) as target:

            def keep(piece: bytes) -> None:
                target.write(piece)
                if seconds is None:
                    limit.reschedule(begun + transfer_seconds(target.bytes))
                if on_bytes is not None:
                    on_bytes(target.bytes)

            before = SINK.set(keep)
            try:
                await self._send("GET", _content_path(file_id), most_bytes=bodies.MOST_DOWNLOAD_BYTES, limit=limit)
            except CallError as error:
                raise target.failure or error from None
            finally:
                SINK.reset(before)
        return target.bytes

    async def content(self, file_id: str) -> bytes:
        """A file's bytes, at most `bodies.MOST_FILE_BYTES`. Errors as for `call`."""
        return (await self._send("GET", _content_path(file_id), most_bytes=bodies.MOST_FILE_BYTES)).body

    async def delete(self, path: str) -> JsonObject:
        """Delete one object, e.g. "/files/file-1"; returns what the server says to that. Errors as for `call`."""
        return parse_object(await self._send("DELETE", path), secret=self._secret)

    async def aclose(self) -> None:
        """Close all connections; calls still in flight fail."""
        await self._transport.aclose()

    async def _send(
        self,
        method: str,
        path: str,
        content: "bytes | File | None" = None,
        *,
        most_bytes: int = bodies.MOST_REPLY_BYTES,
        limit: asyncio.Timeout | None = None,
    ) -> RawReply:
        """The server's reply if its status is a success. A `limit` stands in for that of calls."""
        begun = asyncio.get_running_loop().time()
        limit = limit or asyncio.timeout(self._timeout_seconds)
        try:
            async with limit:
                raw = await self._transport.send(method, path, content, most_bytes)
        except UnwantedError:
            raise
        except Exception as failure:  # noqa: BLE001 - two libraries raise some thirty types, each is a failed call
            # from None: the libraries' errors hold the request's headers, and with them the key
            seconds = (limit.when() or begun) - begun if limit.expired() else None
            raise self._call_error(failure, seconds) from None
        if not 200 <= raw.status < 300:
            raise error_from_status(raw, secret=self._secret)
        return raw

    def _call_error(self, failure: Exception, expired_seconds: float | None) -> CallError:
        if expired_seconds is not None:
            message = f"no complete reply from {self._base_url} within {round(expired_seconds, 2):g} s"
            return CallError("timeout", message)
        kind, code, reason = reason_of(failure)
        proxy = self._way.proxy
        through = f" through the proxy {proxy}" if proxy else ""
        lead = {
            "connect": f"cannot connect to {self._base_url}{through}",
            "local": "this machine can open no more connections at present",
            "timeout": f"no complete reply from {self._base_url}",
            "reset": f"the connection to {self._base_url} was lost before the reply",
            "cut": f"the reply of {self._base_url} was cut off",
            "malformed": f"the reply of {self._base_url} cannot be read",
            "too_large": f"the reply of {self._base_url} is too large",
        }[kind]
        return CallError(kind, safe_line(f"{lead}: {reason}", self._secret), code=code)


def _content_path(file_id: str) -> str:
    return f"/files/{quote(file_id, safe='')}/content"


def _limit(seconds: float | None) -> asyncio.Timeout | None:
    return None if seconds is None else asyncio.timeout(seconds)


def _refuses_streams(error: CallError) -> bool:
    """Whether the server takes the request, but for its wish that the answer may come in pieces."""
    words = f"{error.param} {error.code} {error.message}"
    is_refusal = error.kind == "status" and error.status in (400, 404, 405, 422, 501)
    return is_refusal and re.search(r"\bstream", words, re.IGNORECASE) is not None


def _encode(body: Mapping[str, object]) -> bytes:
    """`body` as JSON with exactly its keys.

    Raises:
        CallError: kind "request": it cannot be sent, or its answer would not be one JSON reply.
    """
    if body.get("stream"):
        raise CallError("request", 'The body asks for a stream; take out "stream"', code="unsupported_stream")
    return _as_json(dict(body))


def _as_json(body: JsonObject) -> bytes:
    try:
        return orjson.dumps(body)
    except orjson.JSONEncodeError:
        pass
    try:  # lone surrogates and integers beyond 64 bits, which orjson cannot write
        return json.dumps(body, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise CallError("request", safe_line(f"The body is not JSON: {error}"), code="invalid_request_body") from None
