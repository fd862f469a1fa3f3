"""Proxies and certificates of the environment count for both transports alike, or are one sentence that names them."""

import base64
import os
import ssl
from pathlib import Path

import pytest
from pydantic import SecretStr

from tests.tls import CERTIFICATE, KEY
from tidemill.models.errors import SettingsError
from tidemill.models.outbound import Proxy, certificates, is_direct, outbound, proxy_for

SECRETS = ("wonder", "land", "w%6fnder")


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy and no certificates of the machine that runs the tests."""
    for name in os.environ:
        if name.lower().endswith("_proxy") or name in {
            *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSLKEYLOGFILE")
        }:
            monkeypatch.delenv(name)


def use(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


# --- proxies ---


@pytest.mark.parametrize(
    ("variables", "url", "proxy"),
    [
        ({}, "https://h/v1", None),
        ({"HTTPS_PROXY": "http://p:3128"}, "https://h/v1", "http://p:3128, which HTTPS_PROXY names"),
        ({"HTTPS_PROXY": "http://p:3128"}, "http://h/v1", None),
        ({"http_proxy": "p:3128"}, "http://h/v1", "http://p:3128, which http_proxy names"),
        ({"http_proxy": " http://p/ "}, "http://h/v1", "http://p:80, which http_proxy names"),
        ({"HTTP_PROXY": "http://a", "http_proxy": "http://b"}, "http://h", "http://b:80, which http_proxy names"),
        ({"Https_Proxy": "HTTPS://P"}, "https://h", "https://p:443, which Https_Proxy names"),
        ({"ALL_PROXY": "http://[::1]:8080"}, "https://h", "http://[::1]:8080, which ALL_PROXY names"),
        ({"all_proxy": "socks5://p", "https_proxy": "http://q"}, "https://h", "http://q:80, which https_proxy names"),
        ({"ALL_PROXY": "socks5://p:1", "NO_PROXY": "localhost"}, "http://localhost:8000/v1", None),
        ({"HTTPS_PROXY": "ftp://p"}, "http://h", None),
        ({"HTTP_PROXY": "p:1", "NO_PROXY": "*"}, "http://h", None),
    ],
)
def test_a_server_is_reached_through_the_proxy_that_is_set_for_it(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], url: str, proxy: str | None
) -> None:
    use(monkeypatch, variables)
    assert str(proxy_for(url)) == str(proxy)


@pytest.mark.parametrize(
    ("credentials", "plain"),
    [("u:p", "u:p"), ("u", "u:"), (":p", ":p"), ("u%3Ax:p%40%C3%BC", "u:x:p@ü"), ("u:p@q", "u:p@q"), ("", None)],
)
def test_credentials_go_to_the_proxy_alone(
    monkeypatch: pytest.MonkeyPatch, credentials: str, plain: str | None
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://{credentials}@p:1" if credentials else "http://p:1")
    proxy = proxy_for("https://h/v1")
    secret = SecretStr(f"Basic {base64.b64encode(plain.encode()).decode()}") if plain else None
    assert proxy == Proxy("http://p:1", secret, "HTTPS_PROXY")
    assert not plain or plain not in repr(proxy)


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"])
@pytest.mark.parametrize(
    "value",
    [
        *("socks5://wonder:land@p:1080", "socks5h://p", "socks4://p", "ftp://p:21", "unix:///run/p", "://p"),
        *("http://", "https://wonder:land@", "http:///p", "http://p:0", "http://p:99999", "http://p:3128x", "p:port"),
        *('"http://p:1"', "'http://p:1'", "http://p q:1", "http://[::1", "http://a..b:1", f"http://{'x' * 64}:1"),
        *("http://wonder:80#land@p:1", "http://wonder:la/nd@p:1", "http://wonder:8?land@p:1", "http://p\t:1", "<p>"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_named_and_no_secret_is(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError, match=rf"^{variable} (names a proxy of|is no usable proxy)") as caught:
        outbound("https://h/v1")
    assert not any(secret in str(caught.value) for secret in SECRETS)


@pytest.mark.parametrize(
    ("no_proxy", "host", "direct"),
    [
        ("", "h", False),
        ("*", "h", True),
        ("a, h ,b", "h", True),
        ("a h b", "h", True),
        ("a;h", "h", True),
        (" , ,", "h", False),
        ("corp.example", "corp.example", True),
        ("corp.example", "API.Corp.Example", True),
        (".corp.example", "api.corp.example", True),
        ("*.corp.example", "api.corp.example", True),
        ("corp.example", "notcorp.example", False),
        ("h:8000", "h", True),
        ("h:8001", "h", False),
        ("https://h/", "h", True),
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.0/8", "127.8.9.10", True),
        ("10.0.0.1/8", "10.20.30.40", True),
        ("10.0.0.0/8", "11.0.0.1", False),
        ("10.0.0.0/8", "h", False),
        ("10.0.0.0/99", "10.0.0.1", False),
        ("::1", "::1", True),
        ("[::1]", "::1", True),
        ("[::1]:8000", "::1", True),
        ("[::1]:8001", "::1", False),
        ("0:0:0:0:0:0:0:1", "::1", True),
        ("fe80::/10", "fe80::1%eth0", True),
        ("[fe80::]/10", "fe80::1", True),
        ("fd00::/8", "fe80::1", False),
        ("http://[::1", "h", False),
    ],
)
def test_no_proxy_names_hosts_domains_addresses_and_networks(no_proxy: str, host: str, direct: bool) -> None:
    assert is_direct(host, 8000, no_proxy) is direct


# --- certificates ---


def test_certificates_are_those_that_a_variable_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert certificates() == ((), None)
    file = tmp_path / "ca.pem"
    file.write_text(KEY + CERTIFICATE, "ascii")
    for name in ("CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.setenv(name, str(file))
        trusted = certificates()
        assert str(trusted) == f"{file}, which {name} names"
        assert trusted.context is not None
        assert len(trusted.context.get_ca_certs()) == 1
        monkeypatch.setenv(name, str(tmp_path / "gone"))
        with pytest.raises(SettingsError, match=name):
            certificates()
    folder = tmp_path / "hashed"
    folder.mkdir()
    (folder / "5f3a1b2c.0").write_text(CERTIFICATE, "ascii")
    monkeypatch.setenv("SSL_CERT_FILE", "")
    monkeypatch.setenv("SSL_CERT_DIR", f"{tmp_path / 'gone'}{os.pathsep}{folder}")
    assert [each.variable for each in certificates().trusted] == ["SSL_CERT_DIR"]


def test_an_empty_variable_is_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "")
    trusted, context = certificates()
    assert not trusted
    assert context is None or context.verify_mode == ssl.CERT_REQUIRED


@pytest.mark.parametrize("url", ["https://h/v1", "http://h/v1"])
@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
@pytest.mark.parametrize(
    ("place", "why"),
    [
        ("gone.pem", "not there"),
        ("~/ca.pem", "not there"),
        ("empty", "no certificates|no folder"),
        ("text", "no certificates|no folder"),
        ("half.pem", "no certificates|no folder"),
        ("key.pem", "no certificates|no folder"),
        ("text/below", "cannot be read|no folder"),
        ("folder", "a folder|under their hashes"),
        ("pipe", "no file|no folder"),
        ("x" * 300, "cannot be read"),
        ("odd\n\x1b[2Jname", "not there"),
    ],
)
def test_certificates_that_cannot_be_used_are_one_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, url: str, variable: str, place: str, why: str
) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "text").write_text("certificates", "ascii")
    (tmp_path / "half.pem").write_text(CERTIFICATE[:200], "ascii")
    (tmp_path / "key.pem").write_text(KEY, "ascii")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setenv(variable, f"{tmp_path}/{place}")
    with pytest.raises(SettingsError, match=rf"^{variable} names .*, which .*({why}).* or unset it\.$") as caught:
        outbound(url)
    assert str(caught.value).isprintable()


def test_a_log_of_keys_that_cannot_be_written_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "gone" / "keys"):
        monkeypatch.setenv("SSLKEYLOGFILE", str(place))
        with pytest.raises(SettingsError, match=r"^SSLKEYLOGFILE names "):
            outbound("https://h/v1")
