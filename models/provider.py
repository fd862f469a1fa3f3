"""All calls to the provider go through this door, so that a call means the same over either transport.

`sdk` goes through the official client, `http` through plain aiohttp at a quarter of the CPU. A transport only carries
bytes: it returns (status, headers, body), which `models.replies` reads, or raises what the libraries raise, which
`_call_error` reads. How much of a body is read is decided in `models.bodies`. Nothing here retries; `worker.retries`
decides whether a call is repeated.
Importing openai takes 1-2 s, so both libraries are imported when a transport is built.
"""

import asyncio
import json
import os
import re
import ssl
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol
from urllib.parse import quote, urlencode

import orjson
from pydantic import SecretStr

from tidemill.models import bodies
from tidemill.models.endpoints import Endpoint
from tidemill.models.errors import SettingsError
from tidemill.models.json_types import JsonObject
from tidemill.models.options import Options, Transport
from tidemill.models.outbound import NOTHING_LEFT, Outbound, Proxy, outbound
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
from tidemill.models.settings import Settings, checked_url
from tidemill.models.usage import Usage

if TYPE_CHECKING:
    import httpx2
    from aiohttp import FormData

__all__ = [
    "CallError",
    "ErrorKind",
    "Provider",
    "Reply",
    "Transport",
    "Usage",
    "check",
    "list_assistants",
    "list_models",
]

CONNECT_SECONDS = 10.0
# Servers close idle connections after 5 s at the earliest (uvicorn's default): close before them, or a call is lost.
KEEP_ALIVE_SECONDS = 4.0
DNS_CACHE_SECONDS = 60
LIST_PAGES = 100
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""A header's name, by RFC 9110."""


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
        self._base_url = _checked_url(base_url)
        self._secret = _checked_header("OPENAI_API_KEY", api_key.get_secret_value() if api_key else None) or ""
        self._timeout_seconds = timeout_seconds
        headers = {
            "OpenAI-Organization": _checked_header("OPENAI_ORG_ID", organization),
            "OpenAI-Project": _checked_header("OPENAI_PROJECT_ID", project),
            "OpenAI-Beta": beta,
        }
        build = _SdkTransport if transport == "sdk" else _HttpTransport
        self._way = outbound(self._base_url)
        headers |= _proxy_headers(self._way.proxy) if self._base_url.startswith("http:") else {}
        named = {name: value for name, value in headers.items() if value}
        try:
            self._transport: _Transport = build(self._base_url, self._secret, named, connections, self._way)
        except Exception as error:
            if isinstance(error, OSError) and error.errno in NOTHING_LEFT:
                raise
            reason = safe_line(f"{type(error).__name__}: {error}", self._secret)
            raise SettingsError(
                f"The client for the provider cannot be set up ({reason}). "
                "`tidemill doctor` tries it; install tidemill anew if nothing else helps."
            ) from None

    async def call(self, endpoint: Endpoint, body: Mapping[str, object]) -> Reply:
        """Send one request, once, and read the reply.

        Raises:
            CallError: there is no usable answer, for any reason; nothing else is raised.
        """
        raw = await self._send("POST", endpoint.path, _encode(body))
        return endpoint.parse_reply(raw, secret=self._secret)

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

    async def content(self, file_id: str) -> bytes:
        """A file's bytes, at most `bodies.MOST_FILE_BYTES`. Errors as for `call`."""
        path = f"/files/{quote(file_id, safe='')}/content"
        return (await self._send("GET", path, most_bytes=bodies.MOST_FILE_BYTES)).body

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
    ) -> RawReply:
        """The server's reply if its status is a success."""
        try:
            async with asyncio.timeout(self._timeout_seconds) as limit:
                raw = await self._transport.send(method, path, content, most_bytes)
        except Exception as failure:  # noqa: BLE001 - two libraries raise some thirty types, each is a failed call
            # from None: the libraries' errors hold the request's headers, and with them the key
            raise self._call_error(failure, expired=limit.expired()) from None
        if not 200 <= raw.status < 300:
            raise error_from_status(raw, secret=self._secret)
        return raw

    def _call_error(self, failure: Exception, *, expired: bool) -> CallError:
        if expired:
            message = f"no complete reply from {self._base_url} within {self._timeout_seconds:g} s"
            return CallError("timeout", message)
        kind, code, reason = _reason(_root(failure))
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


def check(settings: Settings) -> None:
    """Check before any work whether a call can be made at all.

    Raises:
        SettingsError: the URL, the key, the organization or the project can never work.
    """
    _checked_url(settings.openai_base_url)
    check_headers(settings)


def check_client(settings: Settings) -> Outbound:
    """As `check`, where this process will make the calls: proxy and certificates count, too. Returns the way out."""
    check(settings)
    return outbound(settings.openai_base_url)


def check_headers(settings: Settings) -> None:
    """Raise SettingsError if the key, the organization, the project or other headers cannot be sent."""
    key = settings.openai_api_key
    _checked_header("OPENAI_API_KEY", key.get_secret_value() if key else None)
    _checked_header("OPENAI_ORG_ID", settings.openai_org_id)
    _checked_header("OPENAI_PROJECT_ID", settings.openai_project_id)
    for line in os.environ.get("OPENAI_CUSTOM_HEADERS", "").split("\n"):  # the official client sends them along
        name, _, value = line.partition(":")
        if line.strip() and not (_TOKEN.fullmatch(name.strip()) and value.strip().isascii() and value.isprintable()):
            raise SettingsError("OPENAI_CUSTOM_HEADERS: takes lines of `Name: value` in ASCII. Correct or unset it.")


def list_models(settings: Settings) -> list[JsonObject]:
    """Every model that the server lists, for callers without an event loop, i.e. the command line.

    The client is the one that runs use, so that what keeps them from the server shows here, too.

    Raises:
        CallError: as for `Provider.list_all`.
        SettingsError: as for `Provider`.
    """
    return _list_all(settings, "models", transport=Options(settings.model).transport)


def list_assistants(settings: Settings) -> list[JsonObject]:
    """Every assistant that the server keeps; most servers have none and answer 404. Errors as for `list_models`."""
    return _list_all(settings, "assistants", transport="http", beta="assistants=v2")


def _list_all(settings: Settings, what: str, *, transport: Transport, beta: str | None = None) -> list[JsonObject]:
    async def list_once() -> list[JsonObject]:
        provider = Provider(
            base_url=settings.openai_base_url,
            api_key=settings.openai_api_key,
            transport=transport,
            timeout_seconds=min(settings.timeout_seconds, 60.0),
            connections=1,
            organization=settings.openai_org_id,
            project=settings.openai_project_id,
            beta=beta,
        )
        try:
            return await provider.list_all(what)
        finally:
            await provider.aclose()

    return asyncio.run(list_once())


class File(NamedTuple):
    """A file on its way to the server."""

    name: str
    content: bytes
    purpose: str = "fine-tune"


class _Transport(Protocol):
    """Carries bytes. Follows no redirect: the key must never reach another host."""

    def __init__(
        self, base_url: str, secret: str, headers: dict[str, str], connections: int, way: Outbound
    ) -> None: ...

    async def send(self, method: str, path: str, content: bytes | File | None, most_bytes: int) -> RawReply: ...

    async def aclose(self) -> None: ...


class _HttpTransport:
    """One aiohttp session, with nothing between it and the call."""

    def __init__(self, base_url: str, secret: str, headers: dict[str, str], connections: int, way: Outbound) -> None:
        import aiohttp

        self._base_url = base_url
        self._proxy = way.proxy.url if way.proxy else None
        self._proxy_headers = _proxy_headers(way.proxy)
        self._headers = {  # not the session's own, which aiohttp shows to the proxy, the key among them
            "User-Agent": "tidemill",
            "Accept": "application/json",
            "Accept-Encoding": bodies.ACCEPT_ENCODING,
            **headers,
        }
        if secret:
            self._headers["Authorization"] = f"Bearer {secret}"
        connector = aiohttp.TCPConnector(
            ssl=way.certificates.context or True,
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

    async def send(self, method: str, path: str, content: bytes | File | None, most_bytes: int) -> RawReply:
        headers = self._headers | ({"Content-Type": "application/json"} if isinstance(content, bytes) else {})
        data = self._form(content) if isinstance(content, File) else content
        async with self._session.request(
            method,
            self._base_url + path,
            data=data,
            headers=headers,
            allow_redirects=False,
            proxy=self._proxy,
            proxy_headers=self._proxy_headers,
        ) as response:
            pieces = response.content.iter_any()
            return await _raw_reply(response.status, response.raw_headers, pieces, most_bytes)

    def _form(self, file: File) -> "FormData":
        import aiohttp

        form = aiohttp.FormData({"purpose": file.purpose})
        form.add_field("file", file.content, filename=file.name, content_type="application/octet-stream")
        return form

    async def aclose(self) -> None:
        await self._session.close()


class _SdkTransport:
    """The official client with raw replies: its typed ones cost over twice the CPU and hide what was sent."""

    def __init__(self, base_url: str, secret: str, headers: dict[str, str], connections: int, way: Outbound) -> None:
        import httpx2
        import openai

        limits = httpx2.Limits(  # the default would keep 100 and open 1000
            max_connections=connections, max_keepalive_connections=connections, keepalive_expiry=KEEP_ALIVE_SECONDS
        )
        timeout = httpx2.Timeout(None, connect=CONNECT_SECONDS)  # the total is Provider's

        class Client(openai.DefaultAioHttpClient):
            """Leaves every body unread, of which the official client would read all there is."""

            async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
                response = await super().send(request, **options | {"stream": True})
                if response.is_success:
                    return response  # nothing reads it before our own `send`
                try:
                    raw = await _raw_reply(response.status_code, response.headers.raw, response.aiter_raw(), 0)
                finally:
                    await response.aclose()
                headers = raw.headers | {"content-encoding": "identity"}
                return httpx2.Response(raw.status, headers=headers, content=raw.body, request=request)

        # follow_redirects=False: the client's default follows, and repeats a paid POST on the way
        http_client = Client(
            limits=limits,
            timeout=timeout,
            follow_redirects=False,
            trust_env=False,
            verify=way.certificates.context or True,
            proxy=httpx2.Proxy(way.proxy.url, headers=_proxy_headers(way.proxy)) if way.proxy else None,
        )
        self._client = openai.AsyncOpenAI(
            base_url=base_url,
            api_key=secret or "no-key",  # the client insists on one; a server that needs a key answers 401
            max_retries=0,
            timeout=timeout,
            http_client=http_client,
            default_headers={"Accept-Encoding": bodies.ACCEPT_ENCODING, **headers},
        )
        # Otherwise the client would take both from the environment, which only our settings may do.
        self._client.organization = self._client.project = None
        self._raw = httpx2.Response
        self._status_error = openai.APIStatusError

    async def send(self, method: str, path: str, content: bytes | File | None, most_bytes: int) -> RawReply:
        try:
            response = await self._response(path, content)
        except self._status_error as error:
            response = error.response
            return RawReply(response.status_code, _named(response.headers.raw), response.content)
        try:
            return await _raw_reply(response.status_code, response.headers.raw, response.aiter_raw(), most_bytes)
        finally:
            await response.aclose()

    async def _response(self, path: str, content: bytes | File | None) -> "httpx2.Response":
        """The reply to a success, its body unread."""
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
        return await self._client.post(path, content=content, cast_to=self._raw)

    async def aclose(self) -> None:
        await self._client.close()


async def _raw_reply(
    status: int, headers: Iterable[tuple[bytes, bytes]], pieces: AsyncIterable[bytes], most_bytes: int
) -> RawReply:
    """Read a reply: the whole body of a success, and the beginning of any other."""
    named = _named(headers)
    encoding = named.get("content-encoding", "")
    if 200 <= status < 300:
        body = await bodies.read_whole(pieces, encoding, named.get("content-length", ""), most_bytes)
    else:
        body = await bodies.read_beginning(pieces, encoding)
    return RawReply(status, named, body)


def _named(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in headers}


def _encode(body: Mapping[str, object]) -> bytes:
    """`body` as JSON with exactly its keys.

    Raises:
        CallError: kind "request": it cannot be sent, or its answer would not be one JSON reply.
    """
    if body.get("stream"):
        raise CallError("request", 'The body asks for a stream; take out "stream"', code="unsupported_stream")
    body = dict(body)
    try:
        return orjson.dumps(body)
    except orjson.JSONEncodeError:
        pass
    try:  # lone surrogates and integers beyond 64 bits, which orjson cannot write
        return json.dumps(body, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise CallError("request", safe_line(f"The body is not JSON: {error}"), code="invalid_request_body") from None


def _root(failure: BaseException) -> BaseException:
    """The socket's or aiohttp's own error: the SDK's layers wrap it and call a lost connection a timeout."""
    while failure.__cause__ is not None and type(failure).__module__.partition(".")[0] != "aiohttp":
        failure = failure.__cause__
    return failure


def _reason(root: BaseException) -> tuple[ErrorKind, str | None, str]:
    """(kind, code, reason in a few words) of a call that got no whole answer."""
    import aiohttp

    cause = root.__cause__ or root
    words = str(root) or type(root).__name__
    if isinstance(root, OSError) and _is_ours(cause):
        return "local", "too_many_open_files", _os_words(cause)
    table: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], ErrorKind, str | None, str], ...] = (
        (bodies.TooLargeError, "too_large", "reply_too_large", words),
        (bodies.EncodingError, "malformed", "unsupported_encoding", words),
        (bodies.DamagedError, "cut", None, "the body is incomplete or damaged"),
        (aiohttp.ClientHttpProxyError, "connect", "proxy_failure", f"the proxy answered {getattr(root, 'status', '')}"),
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
        (OSError, "reset", None, _os_words(root)),
    )
    for types, kind, code, reason in table:
        if isinstance(root, types):
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


def _proxy_headers(proxy: Proxy | None) -> dict[str, str]:
    """What only the proxy may see. With TLS it goes out with CONNECT; without, beside the request's own headers."""
    secret = proxy.authorization if proxy else None
    return {"Proxy-Authorization": secret.get_secret_value()} if secret else {}


def _checked_url(url: str) -> str:
    try:
        return checked_url(url)
    except ValueError as error:
        raise SettingsError(f"OPENAI_BASE_URL: {error}") from None


def _checked_header(name: str, value: str | None) -> str | None:
    value = (value or "").strip()
    for pattern, why in _NO_HEADER:
        if re.search(pattern, value, re.IGNORECASE):
            raise SettingsError(f"{name}: {why}")
    if value.upper().startswith((f"{name}=", f"EXPORT {name}=")):
        raise SettingsError(f"{name}: begins with its own name. Leave that out.")
    return value or None


_NO_HEADER = (
    (r"^(authorization:\s*)?bearer\s", "begins with `Bearer`, which is added to it. Leave that out."),
    (r"^[\"'`]|[\"'`]$", "begins or ends with a quote. Copy it again, without quotes."),
    (r"[^!-~]", "holds characters that no HTTP header can carry. Copy it again, without quotes."),
)
"""What people paste with a key, and what to do. White space around it does no harm."""
