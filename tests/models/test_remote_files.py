"""A file at an address is read and written whole, or costs one sentence without a secret in it."""

import gzip
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pytest

from tests.conftest import UseEnvironment
from tests.tls import server_context
from tidemill.models import remote_files
from tidemill.models.errors import InputError
from tidemill.models.remote_files import RemoteFileError, check_writable, download, matching, replacing
from tidemill.producer.intake.tables import ReadOptions, read

BIG = b"prompt\n" + b"why?\n" * 100_000


class Files(BaseHTTPRequestHandler):
    """A few files, and what servers answer instead of one."""

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        body = {"/a.csv": b"prompt\nhttp\n", "/b.csv.gz": gzip.compress(b"prompt\npacked\n"), "/big.csv": BIG}.get(path)
        code = 200 if body is not None else {"/secret.csv": 403, "/broken.csv": 500}.get(path, 404)
        if path == "/signed.csv":
            code, body = (200, b"prompt\nsigned\n") if query == "token=canary" else (401, b"")
        self.send_response(code)
        self.send_header("Content-Length", str(len(BIG) if path == "/big.csv" else len(body or b"")))
        self.end_headers()
        self.wfile.write(body or b"")

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Cut(Files):
    """Breaks off in the middle of a file."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(BIG)))
        self.end_headers()
        self.wfile.write(BIG[:1000])


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler], context: ssl.SSLContext | None = None) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"{'https' if context else 'http'}://localhost:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(name="web")
def _web() -> Iterator[str]:
    with serving(Files) as url:
        yield url


@pytest.fixture(name="store")
def _store(tmp_path: Path) -> Iterator[str]:
    """fsspec's memory, which stands in for an object store."""
    files = fsspec.filesystem("memory")
    yield f"memory://{tmp_path.name}"
    files.rm(f"/{tmp_path.name}", recursive=True) if files.exists(f"/{tmp_path.name}") else None


def prompts(source: str) -> list[str]:
    chunks = read(source, ReadOptions(), on_bad_row=print, on_note=print)
    return [row.request["prompt"] for chunk in chunks for row in chunk]


def error_of(url: str) -> str:
    with pytest.raises(InputError) as caught:
        prompts(url)
    return str(caught.value)


def test_the_format_is_said_by_the_end_of_the_path_whatever_the_query_is(web: str) -> None:
    assert prompts(f"{web}/a.csv") == ["http"]
    assert prompts(f"{web}/b.csv.gz?x=.json") == ["packed"]
    assert prompts(f"{web}/signed.csv?token=canary") == ["signed"]


def test_a_file_that_cannot_be_read_costs_one_sentence_without_a_secret(web: str) -> None:
    reasons = {
        f"{web}/missing.csv?key=canary": "there is no such file",
        f"{web}/secret.csv?key=canary": "refuses it",
        f"{web}/signed.csv?key=canary": "asks for a key",
        f"{web}/broken.csv?key=canary": "answers 500",
        web.replace("://", "://me:canary@") + "/missing.csv": "there is no such file",
        "http://127.0.0.1:1/a.csv?key=canary": "cannot be reached",
        "s3://bucket/a.csv?key=canary": r"pip install 'tidemill\[s3\]'",
        "gopher://host/a.csv": "no such kind of address",
        "memory://nobody/a.csv": "there is no such file",
        "memory://nobody/*.csv": "fits no file",
    }
    for url, reason in reasons.items():
        sentence = error_of(url)
        assert "canary" not in sentence
        with pytest.raises(InputError, match=reason):
            raise InputError(sentence)


def test_a_file_that_breaks_off_is_not_taken_for_whole(web: str) -> None:
    assert len(prompts(f"{web}/big.csv")) == 100_000
    with serving(Cut) as url:
        assert "broke off" in error_of(f"{url}/big.csv")


def test_certificates_are_those_that_calls_trust(tmp_path: Path, use_environment: UseEnvironment) -> None:
    with serving(Files, server_context(tmp_path)) as url:
        assert "certificate is not trusted" in error_of(f"{url}/a.csv")
        use_environment({"SSL_CERT_FILE": str(tmp_path / "ca.pem")})
        assert prompts(f"{url}/a.csv") == ["http"]


def test_the_proxy_is_the_one_of_calls(web: str, use_environment: UseEnvironment) -> None:
    use_environment({"HTTP_PROXY": "http://127.0.0.1:1"})
    assert "cannot be reached" in error_of("http://example.invalid/a.csv")
    use_environment({"HTTP_PROXY": web})  # which takes the whole address for a path
    assert "there is no such file" in error_of("http://example.invalid/a.csv")


def test_a_download_says_how_far_it_is(web: str, tmp_path: Path) -> None:
    counts: list[int] = []
    download(f"{web}/big.csv", tmp_path / "big.csv", counts.append)
    assert counts[-1] == len(BIG) == (tmp_path / "big.csv").stat().st_size


def test_what_is_written_takes_the_place_of_the_old_file_once_it_is_whole(store: str) -> None:
    url = f"{store}/out/a.txt"
    check_writable(url)
    assert matching(f"{store}/out/*") == []
    with replacing(url) as file:
        file.write(b"old")
    with pytest.raises(ZeroDivisionError), replacing(url) as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert fsspec.filesystem("memory").cat(url) == b"old"
    assert matching(f"{store}/out/*") == [url.replace("memory://", "memory:///")]


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("https://host/a.csv?key=canary", "https:// is only read"),
        ("sftp://me:canary@host/a.csv", "no place that replaces files whole"),
        ("s3://bucket/a.csv", r"pip install 'tidemill\[s3\]'"),
    ],
)
def test_where_nothing_can_be_written_is_said_before_any_work(url: str, reason: str) -> None:
    with pytest.raises(RemoteFileError, match=reason) as caught:
        check_writable(url)
    assert "canary" not in str(caught.value)


def test_a_driver_that_fails_costs_a_sentence_and_leaves_the_old_file(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with replacing(f"{store}/a.txt") as file:
        file.write(b"old")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("key canary is wrong")

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "put_file", refuse)
    with (
        pytest.raises(RemoteFileError, match=r"a\.txt cannot be written: the key that is used has no right") as caught,
        remote_files.replacing(f"{store}/a.txt") as file,
    ):
        file.write(b"new")
    assert "canary" not in str(caught.value)
    assert fsspec.filesystem("memory").cat(f"{store}/a.txt") == b"old"
