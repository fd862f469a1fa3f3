"""A server that speaks TLS, for the servers of `tests.servers` that do not: it stands before them."""

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingTCPServer

# A key for nothing but tests, and a certificate that it signed for localhost (and not for 127.0.0.1), until 2125.
KEY = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgA1rgF7AuUmvr3i8l
buyNGbhUs+pu0AQzKXTOnn0WbSuhRANCAAQmmgJJwstehT9xIidLF0Uvwtd0mm+X
vafER9xnoLn9catsirh+dijCzIvSNSU4ZNmzJllgOW08T06XK81I4mdt
-----END PRIVATE KEY-----
"""
CERTIFICATE = """\
-----BEGIN CERTIFICATE-----
MIIBbTCCARSgAwIBAgIBATAKBggqhkjOPQQDAjAUMRIwEAYDVQQDDAlsb2NhbGhv
c3QwIBcNMjUwMTAxMDAwMDAwWhgPMjEyNTAxMDEwMDAwMDBaMBQxEjAQBgNVBAMM
CWxvY2FsaG9zdDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABCaaAknCy16FP3Ei
J0sXRS/C13Sab5e9p8RH3Geguf1xq2yKuH52KMLMi9I1JThk2bMmWWA5bTxPTpcr
zUjiZ22jVTBTMBQGA1UdEQQNMAuCCWxvY2FsaG9zdDAPBgNVHRMBAf8EBTADAQH/
MB0GA1UdDgQWBBStjOk++s50WSf/zfBexUQFhN6cPzALBgNVHQ8EBAMCAoQwCgYI
KoZIzj0EAwIDRwAwRAIgQxIU/gTtDIWxXMsK/nmWmHMPO9GG2e/0VAHYGeUnnpEC
IHlTDhcEpMrRR7QI9WUKzTOH1npMyPf5rGH+VZtU+kHI
-----END CERTIFICATE-----
"""


def server_context(folder: Path) -> ssl.SSLContext:
    """What a server named localhost needs to speak TLS; `folder`/ca.pem is the certificate to trust."""
    (folder / "ca.pem").write_text(CERTIFICATE, "ascii")
    (folder / "server.pem").write_text(KEY + CERTIFICATE, "ascii")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "server.pem")
    return context


@contextmanager
def tls_before(port: int, folder: Path) -> Iterator[int]:
    """A port that speaks TLS and passes everything on to `port`; `folder`/ca.pem is the certificate to trust."""
    context = server_context(folder)

    class Connection(BaseRequestHandler):
        def handle(self) -> None:
            with (
                suppress(OSError),
                context.wrap_socket(self.request, server_side=True) as front,
                socket.create_connection(("127.0.0.1", port)) as back,
            ):
                backwards = threading.Thread(target=_pass_on, args=(back, front), daemon=True)
                backwards.start()
                _pass_on(front, back)
                backwards.join()

    class Server(ThreadingTCPServer):
        daemon_threads = True
        block_on_close = False

    with Server(("127.0.0.1", 0), Connection) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), name="tls", daemon=True).start()
        yield int(server.server_address[1])
        server.shutdown()


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65_536):
            target.sendall(data)
    for each in (source, target):
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
