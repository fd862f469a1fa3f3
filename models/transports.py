"""A request's bytes leave this machine here and the reply's come back; only this module knows aiohttp and openai.

Both transports send over one aiohttp session, so that connections, proxies, certificates, bounds and errors are the
same. `http` writes the headers itself; with `sdk` the official client builds each request. Nothing here retries, and
no redirect is followed: the key must never reach another host.
Importing openai takes 1-2 s, so the libraries are imported when a transport is built.
"""

import os
import ssl
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from functools import cached_property, lru_cache
from typing import IO, TYPE_CHECKING, Any, NamedTuple, Protocol

from tidemill.models import bodies
from tidemill.models.options import Transport as TransportName
from tidemill.models.outbound import NOTHING_LEFT, Outbound, Proxy
from tidemill.models.replies import ErrorKind, RawReply

if TYPE_CHECKING:
    import asyncio

    import aiohttp
    import httpx2
    from openai._types import RequestOptions

CONNECT_SECONDS = 10.0
# Servers close idle connections after 5 s at the earliest (uvicorn's default): close before them, or a call is lost.
KEEP_ALIVE_SECONDS = 4.0
DNS_CACHE_SECONDS = 60

MAY_SEND: ContextVar[Callable[[], bool] | None] = ContextVar("MAY_SEND", default=None)
"""Of the task that makes a call: asked once more when its connection is there, just before the request is written."""

ON_PIECE: ContextVar[Callable[[bytes], None] | None] = ContextVar("ON_PIECE", default=None)
"""Of the task that makes a call: gets the body of a success, decompressed, piece by piece as it comes."""

SINK: ContextVar[Callable[[bytes], None] | None] = ContextVar("SINK", default=None)
"""Of the task that makes a call: as ON_PIECE, and the body is kept nowhere else, so that it may be of any size."""

_CONNECTION: ContextVar["asyncio.Transport | None"] = ContextVar("_CONNECTION", default=None)
"""Over which a task has made its last call."""


class UnwantedError(Exception):
    """Nobody wants the call any more, now that its connection is there. Nothing was sent."""


class File(NamedTuple):
    """A file on its way to the server."""

    name: str
    content: "bytes | IO[bytes]"
    """What is open is read in pieces as they are sent."""
    purpose: str = "fine-tune"


class Transport(Protocol):
    """Carries bytes."""

    def __init__(
        self, base_url: str, secret: str, headers: dict[str, str], connections: int, way: Outbound
    ) -> None: ...

    async def send(self, method: str, path: str, content: bytes | File | None, most_bytes: int) -> RawReply:
        """The reply to one request, whatever its status. Raises what the libraries raise, which `reason` reads."""

    async def aclose(self) -> None:
        """Close all connections."""


class _Session:
    """One aiohttp session, with nothing between it and the call."""

    def __init__(self, connections: int, way: Outbound, context: ssl.SSLContext | None) -> None:
        import aiohttp

        self._proxy = way.proxy.url if way.proxy else None
        self._proxy_headers = proxy_headers(way.proxy)
        connector = _connector_class()(
            ssl=context or True,
            limit=connections,
            limit_per_host=0,
            ttl_dns_cache=DNS_CACHE_SECONDS,
            keepalive_timeout=KEEP_ALIVE_SECONDS,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),  # the total is Provider's
            auto_decompress=False,  # `bodies` does, within bounds
        )

    async def send(self, method: str, url: Any, headers: Any, data: Any, most_bytes: int) -> RawReply:
        """The reply; the headers are all that go out, but for those about the body and the host."""
        if data is None or isinstance(data, bytes):
            return await self._reply(method, url, headers, data, most_bytes)
        _CONNECTION.set(None)
        try:
            return await self._reply(method, url, headers, data, most_bytes)
        finally:  # aiohttp would first wait until what is written was sent, to a server that may read no more
            connection = _CONNECTION.get()
            if connection is not None and connection.get_write_buffer_size():
                connection.abort()

    async def _reply(self, method: str, url: Any, headers: Any, data: Any, most_bytes: int) -> RawReply:
        response = await self._session.request(
            method,
            url,
            data=data,
            headers=headers,
            allow_redirects=False,
            proxy=self._proxy,
            proxy_headers=self._proxy_headers,
        )
        try:
            return await _raw_reply(response, most_bytes)
        finally:
            if not response.closed:  # its end was not read; else the connection is back in the pool already
                response.close()

    async def aclose(self) -> None:
        await self._session.close()


def _connector_class() -> "type[aiohttp.TCPConnector]":
    import aiohttp

    class Connector(aiohttp.TCPConnector):
        """Asks once more before a request is written: a connection may take as long as a process is frozen."""

        async def connect(self, *arguments: Any, **named: Any) -> Any:
            connection = await super().connect(*arguments, **named)
            may_send = MAY_SEND.get()
            if may_send is not None and not may_send():
                connection.release()
                raise UnwantedError
            _CONNECTION.set(connection.transport)
            return connection

    return Connector


class HttpTransport:
    """Plain requests over aiohttp, at a third of the official client's CPU."""

    def __init__(self, base_url: str, secret: str, headers: dict[str, str], connections: int, way: Outbound) -> None:
        from multidict import CIMultiDict
        from yarl import URL

        self._url: Callable[[str], URL] = lambda path: URL(base_url + path)
        self._session = _Session(connections, way, way.certificates.context)
        named = {  # not the session's own, which aiohttp shows to the proxy, the key among them
            "User-Agent": "tidemill",
            "Accept": "application/json",
            "Accept-Encoding": bodies.ACCEPT_ENCODING,
            **headers,
        }
        if secret:
            named["Authorization"] = f"Bearer {secret}"
        self._headers = CIMultiDict(named)
        self._json_headers = CIMultiDict({**named, "Content-Type": "application/json"})

    async def send(self, method: str, path: str, content: bytes | File | None, most_bytes: int) -> RawReply:
        headers = self._json_headers if isinstance(content, bytes) else self._headers
        data = _form(content) if isinstance(content, File) else content
        return await self._session.send(method, self._url(path), headers, data, most_bytes)

    async def aclose(self) -> None:
        await self._session.aclose()


def _form(file: File) -> "aiohttp.FormData":
    import aiohttp

    form = aiohttp.FormData({"purpose": file.purpose}, quote_fields=False)
    form.add_field("file", file.content, filename=file.name, content_type="application/octet-stream")
    return form


class SdkTransport:
    """The official client's requests, with raw replies: its typed ones cost over twice the CPU and hide what was sent.

    The client builds a request and hands it to `send` of its HTTP client, which is ours. So neither the machinery of
    httpx2 nor its headers, which are slow to build and to read, are in the way of a call.
    """

    def __init__(self, base_url: str, secret: str, headers: dict[str, str], connections: int, way: Outbound) -> None:
        import httpx2
        import openai

        context = way.certificates.context
        if context is None and base_url.startswith("https:"):
            context = httpx2.create_ssl_context(trust_env=False)  # what the official client trusts by itself
        self._session = session = _Session(connections, way, context)
        read_url = lru_cache(maxsize=64)(httpx2.URL)
        no_body = httpx2.ByteStream(b"")

        class HttpClient(httpx2.AsyncClient):
            """Hands requests over as they come, and replies as they are."""

            def build_request(self, method: str, url: httpx2.URL | str, **parts: Any) -> httpx2.Request:
                content = parts.get("content")
                if not isinstance(content, bytes) or parts.get("params"):
                    return super().build_request(method, url, **parts)
                sent = {"headers": parts["headers"], "content": content}
                return httpx2.Request(method, read_url(url), stream=no_body, extensions=sent)

            async def send(self, request: httpx2.Request, **_: Any) -> httpx2.Response:
                content = request.extensions.get("content")
                headers = dict(request.headers) if content is None else request.extensions["headers"]
                data = content or (None if request.method in ("GET", "DELETE") else request.stream)
                raw = await session.send(request.method, str(request.url), headers, data, _MOST_BYTES.get())
                return httpx2.Response(raw.status, stream=no_body, request=request, extensions={"raw": raw})

        class AsyncOpenAI(openai.AsyncOpenAI):  # its name is in the header User-Agent
            """Makes no URL and no headers twice, which would take a fifth of a call's time."""

            @cached_property
            def default_headers(self) -> "dict[str, str | openai.Omit]":
                return super().default_headers

            @lru_cache(maxsize=64)  # noqa: B019  # there is one client for each transport
            def _prepare_url(self, url: str) -> httpx2.URL:
                return super()._prepare_url(url)

        self._client = AsyncOpenAI(
            base_url=base_url,
            api_key=secret or "no-key",  # the client insists on one; a server that needs a key answers 401
            max_retries=0,
            timeout=None,  # Provider's
            http_client=HttpClient(trust_env=False, timeout=None, transport=httpx2.AsyncBaseTransport()),
            default_headers={"Accept-Encoding": bodies.ACCEPT_ENCODING, **headers},
        )
        # Otherwise the client would take both from the environment, which only our settings may do.
        self._client.organization = self._client.project = None
        self._raw = httpx2.Response
        self._status_error = openai.APIStatusError

    async def send(self, method: str, path: str, content: bytes | File | None, most_bytes: int) -> RawReply:
        _MOST_BYTES.set(most_bytes)
        try:
            response = await self._response(method, path, content)
        except self._status_error as error:
            response = error.response
        raw: RawReply = response.extensions["raw"]
        return raw

    async def _response(self, method: str, path: str, content: bytes | File | None) -> "httpx2.Response":
        if method == "DELETE":
            return await self._client.delete(path, cast_to=self._raw)
        if content is None:
            return await self._client.get(path, cast_to=self._raw)
        if isinstance(content, File):
            return await self._client.post(
                path,
                body={"purpose": content.purpose},
                files=[("file", (content.name, content.content))],
                cast_to=self._raw,
                options={"headers": {"Content-Type": "multipart/form-data"}},
            )
        return await self._client.post(path, content=content, cast_to=self._raw, options=_SDK_OPTIONS)

    async def aclose(self) -> None:
        await self._client.close()
        await self._session.aclose()


_SDK_OPTIONS: "RequestOptions" = {
    "headers": {},
    "params": {},
    "max_retries": 0,
    "timeout": None,
    "security": {"bearer_auth": True},
    "idempotency_key": "",  # it would draw one for each call, and never send it
}
"""The client's own defaults, which it would copy deeply for each call: 40 us."""

_MOST_BYTES: ContextVar[int] = ContextVar("_MOST_BYTES")
"""How much of its reply a task reads; the official client has no place for it."""


async def _raw_reply(response: "aiohttp.ClientResponse", most_bytes: int) -> RawReply:
    """Read a reply: the whole body of a success, and the beginning of any other."""
    named = _named(response.raw_headers)
    encoding, on_piece, sink = named.get("content-encoding", ""), ON_PIECE.get(), SINK.get()
    if not 200 <= response.status < 300:
        body = await bodies.read_beginning(response.content.iter_any(), encoding)
    elif sink is not None:
        body = b""
        await bodies.read_through(response.content.iter_any(), encoding, most_bytes, sink)
    elif on_piece is None and bodies.is_plain_and_fits(
        named, most_bytes
    ):  # as most do, and aiohttp reads no more than the header says
        body = await response.content.read()
    else:
        pieces, length = response.content.iter_any(), named.get("content-length", "")
        body = await bodies.read_whole(pieces, encoding, length, most_bytes, on_piece or (lambda _piece: None))
    return RawReply(response.status, named, body)


def _named(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in headers}


def reason_of(failure: BaseException) -> tuple[ErrorKind, str | None, str]:
    """(kind, code, reason in a few words) of what `send` raised: why a call got no whole answer."""
    import aiohttp

    while failure.__cause__ is not None and type(failure).__module__.partition(".")[0] != "aiohttp":
        failure = failure.__cause__  # the socket's or aiohttp's own error, which the official client may have wrapped
    cause = failure.__cause__ or failure
    words, status = str(failure) or type(failure).__name__, getattr(failure, "status", "")
    if isinstance(failure, OSError) and _is_ours(cause):
        return "local", "too_many_open_files", _os_words(cause)
    table: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], ErrorKind, str | None, str], ...] = (
        (bodies.TooLargeError, "too_large", "reply_too_large", words),
        (bodies.EncodingError, "malformed", "unsupported_encoding", words),
        (bodies.DamagedError, "cut", None, "the body is incomplete or damaged"),
        (aiohttp.ClientHttpProxyError, "connect", "proxy_failure", f"the proxy answered {status}"),
        (aiohttp.ClientProxyConnectionError, "connect", "proxy_failure", f"the proxy is not reached ({words})"),
        (aiohttp.ClientConnectorDNSError, "connect", "dns_failure", "the host's name is not known to DNS"),
        (aiohttp.ClientSSLError, "connect", "tls_failure", f"TLS failed ({_tls_words(cause)})"),
        (aiohttp.ClientConnectorError, "connect", _connect_code(cause), _os_words(cause)),
        (aiohttp.ConnectionTimeoutError, "connect", "connect_timeout", f"no connection in {CONNECT_SECONDS:g} s"),
        (aiohttp.InvalidURL, "connect", "invalid_url", "OPENAI_BASE_URL is not a usable URL"),
        (aiohttp.ClientPayloadError, "cut", None, "the body is incomplete or damaged"),
        (aiohttp.ClientResponseError, "malformed", None, words),
        (aiohttp.ServerDisconnectedError, "reset", None, "the server closed it"),
        (TimeoutError, "timeout", None, words),
        (OSError, "reset", None, _os_words(failure)),
    )
    for types, kind, code, reason in table:
        if isinstance(failure, types):
            return kind, code, reason
    return "reset", None, words


def _is_ours(cause: BaseException) -> bool:
    """Whether this machine is why a connection could not be opened, and the provider has nothing to do with it.

    A name that cannot be looked up is the same thing where no file can be opened: the resolver needs some, too.
    """
    if getattr(cause, "errno", None) in NOTHING_LEFT:
        return True
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        return True
    return False


def _connect_code(cause: BaseException) -> str:
    return "connection_refused" if isinstance(cause, ConnectionRefusedError) else "connect_failed"


def _os_words(cause: BaseException) -> str:
    if isinstance(cause, ConnectionRefusedError):
        return "connection refused"
    return (cause.strerror if isinstance(cause, OSError) else None) or str(cause) or type(cause).__name__


def _tls_words(cause: BaseException) -> str:
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"the certificate is not trusted: {cause.verify_message}"
    return _os_words(cause)


def proxy_headers(proxy: Proxy | None) -> dict[str, str]:
    """What only the proxy may see. With TLS it goes out with CONNECT; without, beside the request's own headers."""
    secret = proxy.authorization if proxy else None
    return {"Proxy-Authorization": secret.get_secret_value()} if secret else {}


TRANSPORTS: dict[TransportName, type[Transport]] = {"sdk": SdkTransport, "http": HttpTransport}
