"""No URL leads to a private network, and no server can hold a fetch or fill the memory.

The servers are real, speak TLS and listen on loopback, which the strict policy forbids: a test names in a `Policy` what
it allows, and everything else is the code that a user runs.
"""

import socket
import socketserver
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest

from tests.conftest import WaitUntil
from tests.waiting import limit
from tidemill.producer.describing.fetching import MOST_REDIRECTS, Policy, fetch, fetch_many, is_public, shown
from tidemill.producer.describing.images import RefusedPicture

PICTURE = bytes(range(256)) * 40

# A key for nothing but these tests, and two certificates that it signed for pictures.test: until 2125, and until 2021.
KEY = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgSdueLQtUpZlfivie
KE6w9fMTr2X08wnykZozP3VtwLqhRANCAATMhH5BwOeYhpUeNUAMTE2/f/ANeTmJ
Rx2GTrSwlaOezDz3mXSEpzwI7S2ZJnLafJDNARNoGiepqEYjpIc+pwRz
-----END PRIVATE KEY-----
"""
CERTIFICATE = """\
-----BEGIN CERTIFICATE-----
MIIBtTCCAVugAwIBAgIUeUNp53fbDQbaxx95F4lDcegH4F4wCgYIKoZIzj0EAwIw
GDEWMBQGA1UEAwwNcGljdHVyZXMudGVzdDAgFw0yNTAxMDEwMDAwMDBaGA8yMTI1
MDEwMTAwMDAwMFowGDEWMBQGA1UEAwwNcGljdHVyZXMudGVzdDBZMBMGByqGSM49
AgEGCCqGSM49AwEHA0IABMyEfkHA55iGlR41QAxMTb9/8A15OYlHHYZOtLCVo57M
PPeZdISnPAjtLZkmctp8kM0BE2gaJ6moRiOkhz6nBHOjgYAwfjAYBgNVHREEETAP
gg1waWN0dXJlcy50ZXN0MBIGA1UdEwEB/wQIMAYBAf8CAQAwDgYDVR0PAQH/BAQD
AgKEMB0GA1UdDgQWBBTkfha5FnVDpqikiJJvsGFzQXLSgTAfBgNVHSMEGDAWgBTk
fha5FnVDpqikiJJvsGFzQXLSgTAKBggqhkjOPQQDAgNIADBFAiByOeVPK51leG6o
JJzfBBt2MhZnaBY1IIAD9Uzp1HJsIAIhANkSNgHNSWmXuBU/BHpVNpaIXko3qWGR
mAbX4eI2l7O1
-----END CERTIFICATE-----
"""
EXPIRED = """\
-----BEGIN CERTIFICATE-----
MIIBwjCCAWmgAwIBAgIUDoBeC/6Q2AXbs6MRhdHRauMDo3gwCgYIKoZIzj0EAwIw
IDEeMBwGA1UEAwwVZXhwaXJlZCBwaWN0dXJlcy50ZXN0MB4XDTIwMDEwMTAwMDAw
MFoXDTIxMDEwMTAwMDAwMFowIDEeMBwGA1UEAwwVZXhwaXJlZCBwaWN0dXJlcy50
ZXN0MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEzIR+QcDnmIaVHjVADExNv3/w
DXk5iUcdhk60sJWjnsw895l0hKc8CO0tmSZy2nyQzQETaBonqahGI6SHPqcEc6OB
gDB+MBgGA1UdEQQRMA+CDXBpY3R1cmVzLnRlc3QwEgYDVR0TAQH/BAgwBgEB/wIB
ADAOBgNVHQ8BAf8EBAMCAoQwHQYDVR0OBBYEFOR+FrkWdUOmqKSIkm+wYXNBctKB
MB8GA1UdIwQYMBaAFOR+FrkWdUOmqKSIkm+wYXNBctKBMAoGCCqGSM49BAMCA0cA
MEQCIEtYasT5jUcmScs9/LdwgJ1DXFkJnN3IilToGohPzgc9AiBygvtMKtMKTrT4
k1AwdXJ4wUIMhfsIXvmIKoNK0ao1og==
-----END CERTIFICATE-----
"""

# --- a server that answers as a test says ---

Script = Callable[[ssl.SSLSocket, "Server"], None]


class Server(socketserver.ThreadingTCPServer):
    """TLS on a loopback port. `answers` maps a path to bytes, or to a function that does what it likes."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, folder: Path, certificate: str = CERTIFICATE) -> None:
        pem = folder / "server.pem"
        pem.write_text(KEY + certificate, "ascii")
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.tls.load_cert_chain(pem)
        self.trusting = ssl.create_default_context(cadata=certificate)
        self.answers: dict[str, bytes | Script] = {"/": answer()}
        self.requests: list[bytes] = []
        self.accepted = 0
        self.stopping = threading.Event()
        super().__init__(("127.0.0.1", 0), Visit)
        self.port: int = self.server_address[1]

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        """Accept and count."""
        connection, address = super().get_request()
        self.accepted += 1
        return connection, address

    def resolve(self, host: str) -> list[tuple[str, int]]:
        """Hosts under .test are this machine, numbers are themselves, and nothing else is known."""
        if host.lower().endswith(".test"):
            return [("127.0.0.1", self.port)]
        numeric = socket.getaddrinfo(host, self.port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        return [(str(endpoint[0]), self.port) for *_, endpoint in numeric]

    @property
    def strict(self) -> Policy:
        """Only the way to look names up is the test's."""
        return Policy(resolve=self.resolve, context=self.trusting)

    @property
    def policy(self) -> Policy:
        """127.0.0.1 counts as public, and no other address does."""
        return Policy(self.resolve, "127.0.0.1".__eq__, self.trusting)

    def policy_at(self, *endpoints: tuple[str, int]) -> Policy:
        """The same, where every name has these endpoints."""
        return replace(self.policy, resolve=lambda _host: list(endpoints))

    def fetch(self, path: str, cap_bytes: int = 100_000, seconds: float = 60) -> bytes | str:
        """The picture at a path of this server, or the code of the refusal."""
        return outcome(fetch(f"https://pictures.test{path}", cap_bytes=cap_bytes, seconds=seconds, policy=self.policy))


class Visit(socketserver.BaseRequestHandler):
    """One connection."""

    server: Server

    def handle(self) -> None:
        """Read a request and answer it; a client that goes away is no error."""
        with suppress(OSError), self.server.tls.wrap_socket(self.request, server_side=True) as connection:
            request = b""
            while not request.endswith(b"\r\n\r\n"):
                request += connection.recv(65536) or b"\r\n\r\n"
            self.server.requests.append(request)
            reply = self.server.answers[request.split()[1].decode("ascii")]
            if isinstance(reply, bytes):
                connection.sendall(reply)
            else:
                reply(connection, self.server)


@contextmanager
def serving(server: Server) -> Iterator[Server]:
    """Run a server for as long as the context."""
    with server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.stopping.set()
        server.shutdown()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server with a valid certificate for pictures.test."""
    with serving(Server(tmp_path)) as running:
        yield running


def outcome(got: bytes | RefusedPicture) -> bytes | str:
    """A picture as it is, and of a refusal its code."""
    return got.code if isinstance(got, RefusedPicture) else got


def answer(body: bytes = PICTURE, *headers: str, status: str = "200 OK") -> bytes:
    """An HTTP answer; it ends where the connection does, unless a header tells its length."""
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, "", ""]).encode("latin-1") + body


def leading_to(location: str, status: str = "302 Found") -> bytes:
    """A redirect."""
    return answer(b"", f"Location: {location}", "Content-Length: 0", status=status)


def endless(start: bytes, piece: bytes) -> Script:
    """Send the start, and then pieces as fast as they are taken."""

    def send(connection: ssl.SSLSocket, server: Server) -> None:
        connection.sendall(start)
        while not server.stopping.is_set():
            connection.sendall(piece)

    return send


def dripping(start: bytes) -> Script:
    """Send the start, and then a byte every few milliseconds."""

    def send(connection: ssl.SSLSocket, server: Server) -> None:
        connection.sendall(start)
        while not server.stopping.wait(0.01):
            connection.sendall(b"x")

    return send


def silent(connection: ssl.SSLSocket, server: Server) -> None:
    """Send a head, and no body until the server stops."""
    connection.sendall(answer(b"", "Content-Length: 1000"))
    server.stopping.wait()


# --- pictures that come ---


def test_a_picture_comes_whole_and_the_request_tells_nothing_of_us(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    server.answers["/%C3%BCber%20all.jpg?size=2&x=%2F"] = answer(PICTURE, f"Content-Length: {len(PICTURE)}")
    assert server.fetch("/über%20all.jpg?size=2&x=%2F#part") == PICTURE
    assert server.requests == [
        b"GET /%C3%BCber%20all.jpg?size=2&x=%2F HTTP/1.1\r\nHost: pictures.test\r\nUser-Agent: tidemill\r\n"
        b"Accept: image/*\r\nAccept-Encoding: identity\r\nConnection: close\r\n\r\n"
    ]


@pytest.mark.parametrize(
    "reply",
    [
        answer(PICTURE),
        answer(b"%x\r\n%b\r\n0\r\n\r\n" % (len(PICTURE), PICTURE), "Transfer-Encoding: chunked"),
        answer(PICTURE, "Content-Encoding: identity", f"Content-Length: {len(PICTURE)}"),
        answer(PICTURE + b"more", f"Content-Length: {len(PICTURE)}"),
        b"HTTP/1.1 100 Continue\r\n\r\n" + answer(PICTURE),
        answer(PICTURE, "Location: /elsewhere"),
    ],
    ids=[
        "until the end",
        "chunked",
        "identity",
        "more than its length",
        "after 100 Continue",
        "a place that is no redirect",
    ],
)
def test_a_body_is_read_in_each_way_that_http_ends_one(server: Server, reply: bytes) -> None:
    server.answers["/"] = reply
    assert server.fetch("/") == PICTURE


def test_the_next_address_is_tried_when_one_does_not_answer(server: Server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        free_port = closed.getsockname()[1]
    closed_port, open_port = ("127.0.0.1", free_port), ("127.0.0.1", server.port)
    assert fetch("https://pictures.test/", policy=server.policy_at(closed_port, open_port)) == PICTURE
    assert outcome(fetch("https://pictures.test/", policy=server.policy_at(closed_port))) == "unreachable"


# --- redirects ---


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"])
def test_a_redirect_is_followed(server: Server, status: str) -> None:
    server.answers["/a/b?c"] = leading_to("../d\xc3\xbc?e", status)
    server.answers["/d%C3%BC?e"] = leading_to("//PICTURES.test:443", status)
    assert server.fetch("/a/b?c") == PICTURE


@pytest.mark.parametrize(
    ("location", "code"),
    [
        ("http://pictures.test/", "bad_url"),
        ("file:///etc/passwd", "bad_url"),
        ("https://user:pass@pictures.test/", "bad_url"),
        ("https://pictures.test:22/", "bad_url"),
        ("https://pictures.test\\@127.0.0.1/", "bad_url"),
        ("//[", "bad_answer"),
        ("https://10.0.0.1/", "address_not_public"),
        ("https://[::ffff:127.0.0.1]/", "address_not_public"),
        ("https://169.254.169.254/latest/meta-data/", "address_not_public"),
        ("//2852039166/", "address_not_public"),
        ("https://nowhere.invalid/", "unknown_host"),
        ("/from", "too_many_redirects"),
        ("", "http_status"),
    ],
)
def test_where_a_redirect_leads_is_checked_like_the_first_url(server: Server, location: str, code: str) -> None:
    server.answers["/from"] = leading_to(location)
    assert server.fetch("/from") == code
    assert len(server.requests) == (1 + MOST_REDIRECTS if location == "/from" else 1)


def test_redirects_are_followed_so_often_and_no_more(server: Server) -> None:
    server.answers |= {f"/{n}": leading_to(f"/{n - 1}") for n in range(1, 10)} | {"/0": answer()}
    assert server.fetch(f"/{MOST_REDIRECTS}") == PICTURE
    assert server.fetch(f"/{MOST_REDIRECTS + 1}") == "too_many_redirects"


# --- URLs that lead nowhere ---

LOOPBACK = """
127.0.0.1 127.1 127.0.1 2130706433 0x7f000001 0X7F.1 0x7f.0.0.1 0177.0.0.1 0177.1 017700000001 00000177.0.0.1
127.000.000.001 127.0.0x0.01 0 00 0x0 0.0 0.0.0.0 127.0.0.1:443 LOCALHOST.test 127.0.0.1.nip.test xn--e1afmkfd.test
"""
PRIVATE = """
[::1] [::] [0:0:0:0:0:0:0:1] [::1]:443 [127.0.0.1] [::127.0.0.1] [::ffff:127.0.0.1] [::ffff:7f00:1] [::ffff:0:7f00:1]
[0:0:0:0:0:FFFF:127.0.0.1] [::ffff:169.254.169.254] [64:ff9b::7f00:1] [64:ff9b::169.254.169.254] [64:ff9b:1::7f00:1]
[2002:7f00:1::] [2001:0:7f00:1::1] [fe80::1] [fd00:ec2::254] [fc00::1] [fec0::1] [ff02::1] [3fff::1] [100::1]
10.0.0.1 172.16.0.1 172.31.255.254 192.168.0.1 3232235521 127.255.255.254 100.64.0.1 100.100.100.200 169.254.169.254
2852039166 0xa9fea9fe 0251.0376.0251.0376 168.63.129.16 192.0.0.192 198.18.0.1 192.0.2.1 224.0.0.1 240.0.0.1
255.255.255.255
"""
WITHOUT_SPACES = r"""
/ 127.0.0.1 //127.0.0.1/ https https: https:/ https:// https:/// https:///x https:127.0.0.1 https:/127.0.0.1/
https:\\127.0.0.1\ https://?127.0.0.1 https://#127.0.0.1 httpss://127.0.0.1/ http://127.0.0.1/ HTTP://127.0.0.1/
file:///etc/passwd file://127.0.0.1/x ftp://127.0.0.1/ ldap://127.0.0.1/ gopher://127.0.0.1:443/_GET javascript:alert(1)
data:image/png;base64,AAAA jar:https://127.0.0.1!/x url:https://127.0.0.1/ view-source:https://127.0.0.1/
https://127.0.0.1:0/ https://127.0.0.1:22/ https://127.0.0.1:80/ https://127.0.0.1:8443/ https://[::1]:80/
https://127.0.0.1:/ https://127.0.0.1:-443/ https://127.0.0.1:443443/ https://127.0.0.1:x/ https://127.0.0.1:443:443/
https://127.0.0.1:٤٤٣/ https://127.0.0.1;x/
https://user@127.0.0.1/ https://user:pass@127.0.0.1/ https://@127.0.0.1/ https://:@127.0.0.1/ https://a@b@127.0.0.1/
https://pictures.test@127.0.0.1/ https://pictures.test:443@127.0.0.1/ https://pictures.test\@127.0.0.1/
https://pictures.test/\127.0.0.1 https://pictures.test/a\b https://127.0.0.1\@pictures.test/
https://127.0.0.1\.pictures.test/ https://pictures.test#@127.0.0.1/
https://127.0.0.1#@pictures.test/ https://pictures.test?@127.0.0.1/
https://127.0.0.1./ https://pictures.test./ https://.pictures.test/ https://pictures..test/ https://-.test/
https://127。0。0。1/ https://127．0．0．1/ https://127｡0｡0｡1/ https://①②⑦.0.0.1/ https://１２７.0.0.1/
https://pictures。test/ https://pictureſ.test/ https://Kelvin.test/ https://127%2e0%2e0%2e1/ https://%31%32%37.0.0.1/
https://pictures.test%00/ https://pictures.test%2f/ https://*.test/ https://a,b.test/ https://$(id).test/
https://[::1 https://::1/ https://[::1%25lo]/ https://[::1%lo]/ https://[v1.x]/ https://[]/
"""
WITH_SPACES = [
    "",
    " ",
    "\n",
    " https://127.0.0.1/",
    "\nhttps://127.0.0.1/",
    "https://127.0.0.1 /",
    "https://127.0.0.1/ x",
]
WITH_CONTROLS = [
    "https://127.0.0.1/\n",
    "https://127.0.0.1\r\nHost: pictures.test/",
    "https://127\t.1/",
    "https://127.1/\0",
]
TOO_LONG = [f"https://{'a' * 64}.test/", f"https://{'a.' * 5000}test/", f"https://pictures.test/{'a' * 9000}"]
NOT_UNICODE = ["\ud800", "https://\ud800/", "https://127.0.0.1\udc00/"]
MALFORMED = [*WITHOUT_SPACES.split(), *WITH_SPACES, *WITH_CONTROLS, *TOO_LONG, *NOT_UNICODE]


def codes(server: Server, urls: list[str]) -> set[str]:
    """The codes with which URLs are refused; every refusal is one printable sentence that says what to do."""
    got = [fetch(url, policy=server.strict) for url in urls]
    refused = [each for each in got if isinstance(each, RefusedPicture)]
    assert len(refused) == len(urls)
    assert [each.reason for each in refused if not (each.reason.isprintable() and "--fetch" in each.reason)] == []
    return {each.code for each in refused}


def knock(server: Server, wait_until: WaitUntil) -> int:
    """How many have connected before: connections are accepted in their order, so the count is complete."""
    before = server.accepted
    with socket.create_connection(("127.0.0.1", server.port)):
        wait_until(lambda: server.accepted > before, "the knock is heard")
    return server.accepted - 1


def test_no_form_of_a_private_address_or_of_a_malformed_url_is_ever_connected_to(
    server: Server, wait_until: WaitUntil
) -> None:
    private = [f"https://{host}/" for host in (LOOPBACK + PRIVATE).split()]
    assert min(len(private), len(MALFORMED)) > 60
    assert codes(server, private) == {"address_not_public"}
    assert codes(server, MALFORMED) == {"bad_url"}
    assert knock(server, wait_until) == 0


def test_it_is_the_address_that_stops_them_for_without_its_check_each_would_be_connected_to(
    server: Server, wait_until: WaitUntil
) -> None:
    careless = replace(server.strict, is_public=lambda _address: True)
    for host in LOOPBACK.split():
        fetch(f"https://{host}/", policy=careless)
    assert knock(server, wait_until) == len(LOOPBACK.split())


def test_a_name_with_one_private_address_among_public_ones_is_refused(server: Server, wait_until: WaitUntil) -> None:
    for others in (["10.0.0.1"], ["::1", "127.0.0.1"], ["127.0.0.1", "::ffff:127.0.0.1"]):
        policy = server.policy_at(*((address, server.port) for address in ("127.0.0.1", *others)))
        assert outcome(fetch("https://pictures.test/", policy=policy)) == "address_not_public"
    assert knock(server, wait_until) == 0


def test_a_name_is_looked_up_once_so_that_a_second_answer_changes_nothing(
    server: Server, tmp_path: Path, wait_until: WaitUntil
) -> None:
    with serving(Server(tmp_path)) as private:
        answers = iter([[("127.0.0.1", server.port)], [("127.0.0.1", private.port)]])
        policy = replace(server.policy, resolve=lambda _host: next(answers))
        assert fetch("https://pictures.test/", policy=policy) == PICTURE
        assert next(answers) == [("127.0.0.1", private.port)]
        assert knock(private, wait_until) == 0


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "1.1.1.1", "93.184.215.14", "2606:4700:4700::1111", "2001:4860:4860::8888", "2a00:1450::1"]
)
def test_hosts_of_the_internet_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    ["::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1", "fe80::1%1", "2001:db8::1", "5f00::1", "100::1"],
)
def test_addresses_that_hold_another_one_or_belong_to_nobody_are_not_public(address: str) -> None:
    assert not is_public(address)


# --- servers that mean no good ---


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (answer(b"", status="404 Not Found"), "http_status"),
        (answer(status="206 Partial Content"), "http_status"),
        (answer(b"", status="302 Found"), "http_status"),
        (answer(b"", status="101 Switching Protocols"), "http_status"),
        (answer(b"half", "Content-Length: 1000"), "bad_answer"),
        (answer(b"", "Content-Length: 1000"), "bad_answer"),
        (answer(b"4\r\nhalf\r\n", "Transfer-Encoding: chunked"), "bad_answer"),
        (answer(b"ff\r\nhalf", "Transfer-Encoding: chunked"), "bad_answer"),
        (answer(b"garbage\r\n\r\n", "Transfer-Encoding: chunked"), "bad_answer"),
        (answer(b"-5\r\nhalf\r\n", "Transfer-Encoding: chunked"), "bad_answer"),
        (answer(b"7fffffffffffffff\r\nhalf", "Transfer-Encoding: chunked"), "bad_answer"),
        (answer(b"\x1f\x8b" + b"0" * 1000, "Content-Encoding: gzip"), "bad_answer"),
        (answer(PICTURE, *(f"X-{n}: y" for n in range(10_000))), "bad_answer"),
        (answer(PICTURE, "X: " + "y" * 100_000), "bad_answer"),
        (b"<html>as HTTP/0.9 had it</html>", "bad_answer"),
        (b"SSH-2.0-OpenSSH_9.9\r\n", "bad_answer"),
        (b"HTTP/1.1 2x0 OK\r\n\r\n", "bad_answer"),
        (b"\0" * 1000, "bad_answer"),
        (b"", "bad_answer"),
    ],
)
def test_an_answer_that_is_no_whole_picture_is_refused(server: Server, reply: bytes, code: str) -> None:
    server.answers["/x"] = reply
    assert server.fetch("/x") == code


def test_a_connection_that_is_reset_in_the_body_leaves_no_half_picture(server: Server) -> None:
    def reset(connection: ssl.SSLSocket, _server: Server) -> None:
        connection.sendall(answer(b"half", "Content-Length: 1000"))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    server.answers["/x"] = reset
    assert server.fetch("/x") in {"unreachable", "bad_answer"}  # the reset may overtake the head


@pytest.mark.parametrize("headers", [[], ["Content-Length: {n}"]], ids=["by count", "by header"])
def test_a_body_may_be_as_large_as_the_cap_and_not_a_byte_larger(server: Server, headers: list[str]) -> None:
    for n in (1000, 1001):
        server.answers[f"/{n}"] = answer(b"x" * n, *(header.format(n=n) for header in headers))
    assert server.fetch("/1000", cap_bytes=1000) == b"x" * 1000
    assert server.fetch("/1001", cap_bytes=1000) == "too_large"


@pytest.mark.parametrize(
    "reply",
    [
        endless(answer(b""), b"x" * 1000),
        endless(answer(b"", "Content-Length: -1"), b"x" * 1000),
        endless(answer(b"", "Transfer-Encoding: chunked"), b"3e8\r\n" + b"x" * 1000 + b"\r\n"),
        endless(answer(b"-1\r\n", "Transfer-Encoding: chunked"), b"x" * 1000),
        endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
        endless(answer(b"0\r\n", "Transfer-Encoding: chunked"), b"Trailer: x\r\n" * 100),
    ],
    ids=["body", "negative length", "chunks", "a chunk of -1 bytes", "100 Continue", "trailers"],
)
def test_what_never_ends_is_cut_off_by_count(server: Server, reply: Script) -> None:
    server.answers["/endless"] = reply
    assert server.fetch("/endless") == "too_large"


def test_a_length_beyond_the_cap_is_refused_before_the_body_comes(server: Server) -> None:
    def only_the_head(connection: ssl.SSLSocket, running: Server) -> None:
        connection.sendall(answer(b"", f"Content-Length: {2**40}"))
        running.stopping.wait()

    server.answers["/bomb"] = only_the_head
    assert server.fetch("/bomb") == "too_large"


@pytest.mark.parametrize(
    "reply",
    [
        silent,
        dripping(answer(b"", "Content-Length: 90000")),
        dripping(answer(b"fffff\r\n", "Transfer-Encoding: chunked")),
        dripping(b"HTTP/1.1 200 OK\r\nX-Slow: "),
        dripping(b""),
    ],
    ids=["no body", "body", "chunk", "header", "status line"],
)
def test_a_deadline_holds_however_slowly_a_server_drips(server: Server, reply: Script) -> None:
    server.answers["/slow"] = reply
    assert server.fetch("/slow", seconds=0.3) == "fetch_timeout"


def test_the_deadline_is_one_for_all_redirects(server: Server) -> None:
    def in_its_own_time(connection: ssl.SSLSocket, running: Server) -> None:
        running.stopping.wait(0.15)  # the five together take longer than the deadline, each alone does not
        connection.sendall(leading_to(f"/{len(running.requests)}"))

    server.answers |= {f"/{n}": in_its_own_time for n in range(MOST_REDIRECTS)} | {f"/{MOST_REDIRECTS}": answer()}
    assert server.fetch("/0", seconds=60) == PICTURE
    server.requests.clear()
    assert server.fetch("/0", seconds=0.5) == "fetch_timeout"


def test_a_handshake_that_is_never_answered_ends_at_the_deadline(server: Server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        policy = server.policy_at(("127.0.0.1", mute.getsockname()[1]))
        assert outcome(fetch("https://pictures.test/", seconds=0.3, policy=policy)) == "fetch_timeout"


def test_a_server_must_prove_that_it_is_the_host_of_the_url(server: Server, tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    with serving(Server(tmp_path / "old", EXPIRED)) as expired:
        for url, policy in (
            ("https://elsewhere.test/", server.policy),
            ("https://127.0.0.1/", server.policy),
            ("https://pictures.test/", expired.policy),
            ("https://pictures.test/", Policy(server.resolve, server.policy.is_public)),
        ):
            assert outcome(fetch(url, policy=policy)) == "bad_certificate"
        assert not server.requests and not expired.requests


# --- what people read ---


def test_a_refusal_names_the_url_without_its_secrets_and_says_what_to_do(server: Server) -> None:
    server.answers["/from?token=secret"] = leading_to("/gone?key=secret")
    server.answers["/gone?key=secret"] = answer(b"", status="410 Gone")
    assert fetch("https://pictures.test/from?token=secret", policy=server.policy) == RefusedPicture(
        "http_status",
        "https://pictures.test/gone, where https://pictures.test/from leads, answered with status 410; download it and "
        "give the file's path, or leave out --fetch to pass the URL to the provider as it is",
    )


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://pictures.test/a.jpg?token=secret#part", "https://pictures.test/a.jpg"),
        ("https://user:secret@pictures.test/@me/a.jpg", "https://pictures.test/@me/a.jpg"),
        ("https://user:sec#ret@pictures.test/", "https://pictures.test/"),
        ("user:secret@pictures.test", "pictures.test"),
        ("https://pictures.test/\x1b[31m\n", "https://pictures.test/?[31m?"),
        ("https://pictures.test/" + "a" * 200, "https://pictures.test/" + "a" * 97 + "…"),
    ],
)
def test_a_url_is_shown_without_secrets_or_control_characters_and_not_too_long(url: str, expected: str) -> None:
    assert shown(url) == expected


# --- many ---


def test_many_come_in_the_order_of_the_input_with_what_they_were_asked_for(server: Server) -> None:
    second_is_served = threading.Event()

    def first(connection: ssl.SSLSocket, _server: Server) -> None:
        second_is_served.wait(limit())
        connection.sendall(answer(b"first"))

    def second(connection: ssl.SSLSocket, _server: Server) -> None:
        connection.sendall(answer(b"second"))
        second_is_served.set()

    server.answers |= {"/1": first, "/2": second}
    items = [("a", "https://pictures.test/1"), ("b", "https://pictures.test/2"), ("c", "http://pictures.test/3")]
    got = [(item, outcome(each)) for item, each in fetch_many(items, parallel=2, policy=server.policy)]
    assert got == [("a", b"first"), ("b", b"second"), ("c", "bad_url")]


def test_only_so_many_are_read_ahead_of_what_was_taken(server: Server) -> None:
    read: list[int] = []

    def items() -> Iterator[tuple[int, str]]:
        for n in range(100):
            read.append(n)
            yield n, "https://pictures.test/"

    for taken, _ in enumerate(islice(fetch_many(items(), parallel=4, policy=server.policy), 10), 1):
        assert len(read) == taken + 3


def test_who_stops_early_does_not_wait_for_those_on_their_way(server: Server) -> None:
    gone = threading.Event()

    def until_the_client_is_gone(connection: ssl.SSLSocket, _server: Server) -> None:
        connection.sendall(answer(b"", "Content-Length: 1000"))
        connection.recv(1)
        gone.set()

    server.answers["/slow"] = until_the_client_is_gone
    items = [(1, "https://pictures.test/"), (2, "https://pictures.test/slow")]
    for _ in fetch_many(items, parallel=2, policy=server.policy):
        break
    assert not gone.is_set()
