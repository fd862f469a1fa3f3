"""A URL in a user's table must not make this machine call its own network, wait for ever or fill its memory.

With `--fetch` every picture comes through here: over https, from public addresses, within limits.
"""

import io
import re
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import cache
from http.client import HTTPException, HTTPResponse, IncompleteRead
from ipaddress import ip_address, ip_network
from multiprocessing.pool import AsyncResult, ThreadPool
from typing import TYPE_CHECKING, TypeVar, cast
from urllib.parse import quote, urljoin

from tidemill.producer.describing.images import RefusedPicture

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

T = TypeVar("T")

CAP_BYTES = 50 * 2**20
DEADLINE_SECONDS = 30.0
CONNECT_SECONDS = 10.0
"""The most that one of a host's addresses may take, so that there is time for the next one."""
MOST_REDIRECTS = 5
MOST_CHARACTERS = 8192
OVERHEAD_BYTES = 2**20
"""What headers and the framing of chunks may add to the picture."""

REDIRECTS = {301, 302, 303, 307, 308}
PRINTABLE = "".join(map(chr, range(0x21, 0x7F)))
REQUEST = (
    "GET {target} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: tidemill\r\nAccept: image/*\r\n"
    "Accept-Encoding: identity\r\nConnection: close\r\n\r\n"
)

_LABEL = "[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_URL = re.compile(
    rf"https://(?P<host>{_LABEL}(?:\.{_LABEL})*|\[[0-9a-f:.]+\])(?::443)?(?P<target>(?:[/?][!-~]*)?)",
    re.IGNORECASE,
)
_BAD_FORMS = (
    (re.compile(rf"^.{{{MOST_CHARACTERS}}}.", re.DOTALL), f"is longer than {MOST_CHARACTERS:,} characters"),
    (re.compile(r"^(?!https://)", re.IGNORECASE), "is not an https URL"),
    (re.compile(r"[\0- \x7f\\]"), "holds a space, a control character or a backslash, which must be percent-encoded"),
    (re.compile(r"^https://[^/]*@", re.IGNORECASE), "holds a user name, and --fetch logs in nowhere"),
    (
        re.compile(r"^https://[^/?#]*:(?!443(?:[/?#]|$))[^]/?#]*(?:[/?#]|$)", re.IGNORECASE),
        "names a port that is not 443",
    ),
)
"""What a URL must not match -> what is wrong with it if it does."""

_INTERNET = (ip_network("0.0.0.0/0"), ip_network("2000::/3"))
"""Outside 2000::/3 are loopback, link-local, IPv4-mapped addresses, NAT64: none is a host of the internet itself."""
_SPECIAL = tuple(
    ip_network(each)
    for each in (
        "168.63.129.16/32",  # the host's own agent in Azure, at a public address
        "192.0.0.0/24",  # protocol assignments, a metadata server among them
        "192.88.99.0/24",  # 6to4 relays
        "2001::/23",  # Teredo and other assignments
        "2002::/16",  # 6to4: an IPv4 address inside
        "3fff::/20",  # documentation; Python before 3.13 takes it for global
    )
)

_ADVICE = "download it and give the file's path, or leave out --fetch to pass the URL to the provider as it is"
_FAULTS: tuple[tuple[type[Exception], str, str], ...] = (
    (TimeoutError, "fetch_timeout", "did not arrive in time"),
    (ssl.SSLCertVerificationError, "bad_certificate", "has a certificate that is not valid ({error.verify_message})"),
    (socket.gaierror, "unknown_host", "has a host name that cannot be looked up"),
    (HTTPException, "bad_answer", "sent no complete HTTP answer"),
    (OSError, "unreachable", "cannot be reached, or the connection broke ({error})"),
    (ValueError, "bad_answer", "sent no complete HTTP answer"),
)
"""What a fetch may raise -> code, what to say of the URL; the first that fits counts."""


class _RefusalError(Exception):
    """Ends a fetch; its arguments are the code and what to say of the URL."""


def is_public(address: str) -> bool:
    """True for the address of a host on the open internet.

    Also False for every address that holds another one (IPv4-mapped, NAT64, 6to4, Teredo): a gateway that we cannot see
    decides where it leads. Source: the special-purpose registries of IANA, by way of `ipaddress`.
    """
    parsed = ip_address(address)
    return (
        parsed.is_global
        and not parsed.is_multicast
        and any(parsed in network for network in _INTERNET)
        and not any(parsed in network for network in _SPECIAL)
    )


def lookup(host: str) -> list[tuple[str, int]]:
    """Every (address, port) of a host; raises OSError when it has none. Blocks for as long as the system's resolver."""
    records = socket.getaddrinfo(host, 443, type=socket.SOCK_STREAM)
    return [(str(endpoint[0]), int(endpoint[1])) for *_, endpoint in records]


@dataclass(frozen=True, slots=True)
class Policy:
    """Which addresses and certificates are trusted; the defaults are strict, and tests reach a server of their own."""

    resolve: Callable[[str], list[tuple[str, int]]] = lookup
    is_public: Callable[[str], bool] = is_public
    context: ssl.SSLContext = field(default_factory=ssl.create_default_context)


@cache
def _strict() -> Policy:
    return Policy()


def fetch(
    url: str,
    *,
    cap_bytes: int = CAP_BYTES,
    seconds: float = DEADLINE_SECONDS,
    policy: Policy | None = None,
) -> bytes | RefusedPicture:
    """The body of an https URL, or why it was refused. No URL and no server can make it raise.

    `seconds` bounds connecting, TLS, headers, body and redirects together. A name's lookup cannot be interrupted, but
    counts. No proxy, cookie or credential of the environment is used. The body is not examined: it may be anything.
    """
    deadline = time.monotonic() + seconds
    current = url
    for _ in range(1 + MOST_REDIRECTS):
        where = shown(url) if current == url else f"{shown(current)}, where {shown(url)} leads,"
        try:
            answer = _get(current, cap_bytes, deadline, policy or _strict())
        except _RefusalError as refusal:
            code, what = refusal.args
            return RefusedPicture(code, f"{where} {what}; {_ADVICE}")
        except (OSError, HTTPException, ValueError) as error:
            code, what = next((code, what) for fault, code, what in _FAULTS if isinstance(error, fault))
            return RefusedPicture(code, f"{where} {what.format(error=error)}; {_ADVICE}")
        if isinstance(answer, bytes):
            return answer
        current = answer
    return RefusedPicture("too_many_redirects", f"{shown(url)} leads on more than {MOST_REDIRECTS} times; {_ADVICE}")


def fetch_many(
    items: Iterable[tuple[T, str]], parallel: int = 8, *, policy: Policy | None = None
) -> Iterator[tuple[T, bytes | RefusedPicture]]:
    """Each (item, URL) as (item, what `fetch` returns), in the order of the input.

    At most `parallel` are on their way or wait for their turn. A caller that stops early does not wait for the rest.
    """
    coming: deque[tuple[T, AsyncResult[bytes | RefusedPicture]]] = deque()
    with ThreadPool(parallel) as threads:
        for item, url in items:
            coming.append((item, threads.apply_async(fetch, (url,), {"policy": policy})))
            if len(coming) == parallel:
                first, result = coming.popleft()
                yield first, result.get()
        for first, result in coming:
            yield first, result.get()


def shown(url: str) -> str:
    """A URL for messages: no credentials, query or fragment, nothing that a terminal would obey, 120 characters."""
    bare = re.split("[?#]", re.sub(r"^((?:[a-z][a-z0-9+.-]*:)?/+)?[^/]*@", r"\1", url, flags=re.IGNORECASE))[0]
    clean = "".join(character if character.isprintable() else "?" for character in bare)
    return clean if len(clean) <= 120 else clean[:119] + "…"


# --- one request ---


def _get(url: str, cap_bytes: int, deadline: float, policy: Policy) -> bytes | str:
    """The body, or the URL of a redirect; raises _RefusalError and what is in _FAULTS."""
    host, target = _parts(url)
    with _connect(host, deadline, policy) as connection:
        connection.settimeout(_seconds_left(deadline))
        connection.do_handshake()
        connection.sendall(REQUEST.format(target=target, host=host).encode("ascii"))
        incoming = _Incoming(connection, deadline, cap_bytes)
        with closing(HTTPResponse(cast("socket.socket", incoming), method="GET")) as response:
            response.begin()
            location = response.getheader("Location")
            if response.status in REDIRECTS and location:
                return urljoin(url, quote(location, safe=PRINTABLE, encoding="latin-1"))
            return _body(response, cap_bytes)


def _parts(url: str) -> tuple[str, str]:
    """Host (IPv6 in brackets) and target of a URL in the one form that all parsers read alike."""
    for form, what in _BAD_FORMS:
        if form.search(url):
            raise _RefusalError("bad_url", what)
    parts = _URL.fullmatch(quote(url.partition("#")[0], safe=PRINTABLE, errors="surrogatepass"))
    if parts is None:
        raise _RefusalError("bad_url", "has no host name in plain ASCII (letters beyond it are written as xn--...)")
    target = parts["target"]
    return parts["host"], target if target.startswith("/") else f"/{target}"


def _connect(host: str, deadline: float, policy: Policy) -> ssl.SSLSocket:
    """A TLS socket, before its handshake, to one of the addresses that were checked: the name is looked up once."""
    name = host.strip("[]")
    endpoints = policy.resolve(name)
    if not all(policy.is_public(address) for address, _ in endpoints):
        raise _RefusalError("address_not_public", "is at an address of a private or special network")
    fault: OSError = socket.gaierror("no address")
    for endpoint in endpoints:
        try:
            plain = socket.create_connection(endpoint, min(_seconds_left(deadline), CONNECT_SECONDS))
        except OSError as error:
            fault = error
        else:
            return policy.context.wrap_socket(plain, server_hostname=name, do_handshake_on_connect=False)
    raise fault


def _body(response: HTTPResponse, cap_bytes: int) -> bytes:
    """The whole body; raises when it is missing, too large, encoded or cut off."""
    if response.status != 200:
        raise _RefusalError("http_status", f"answered with status {response.status}")
    if response.getheader("Content-Encoding", "identity").lower() != "identity":
        raise _RefusalError("bad_answer", "answered with a compressed body, which was not asked for")
    if (response.length or 0) > cap_bytes:
        raise _too_large(cap_bytes)
    body = response.read(cap_bytes + 1)
    if len(body) > cap_bytes:
        raise _too_large(cap_bytes)
    if response.length:  # what is still missing: read() with a size does not complain
        raise IncompleteRead(body, response.length)
    return body


def _too_large(cap_bytes: int) -> _RefusalError:
    return _RefusalError("too_large", f"is larger than {cap_bytes / 2**20:,.3g} MiB")


def _seconds_left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


class _Incoming(io.RawIOBase):
    """What a server sends, cut off at the deadline and by count.

    A socket's own timeout begins anew with every byte. And http.client believes every length: for a chunk of -1 bytes,
    it reads all there is.
    """

    def __init__(self, connection: ssl.SSLSocket, deadline: float, cap_bytes: int) -> None:
        self._connection = connection
        self._deadline = deadline
        self._cap_bytes = cap_bytes
        self._left_bytes = cap_bytes + OVERHEAD_BYTES

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        self._connection.settimeout(_seconds_left(self._deadline))
        count = self._connection.recv_into(buffer)
        self._left_bytes -= count
        if self._left_bytes < 0:
            raise _too_large(self._cap_bytes)
        return count

    def makefile(self, _mode: str) -> io.BufferedReader:
        """What HTTPResponse asks a socket for."""
        return io.BufferedReader(self)
