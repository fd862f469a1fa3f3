"""One function decides how calls leave this machine: through which proxy, and whose certificates they trust.

Both transports do as it says. Left alone, one library ignores a file of certificates that is not there, and every call
fails; the other fails to start at a proxy that this server would never be reached through.
"""

import base64
import errno
import os
import re
import ssl
import stat
from collections.abc import Sequence
from functools import lru_cache
from ipaddress import ip_address, ip_network
from typing import NamedTuple
from urllib.parse import SplitResult, unquote_to_bytes, urlsplit
from urllib.request import getproxies, proxy_bypass

from pydantic import SecretStr

from tidemill.models.errors import SettingsError
from tidemill.models.text import one_line
from tidemill.models.urls import is_host

NOTHING_LEFT = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL}
"""What the system says when this machine has no file or socket left at present, whatever is asked of it."""

_TRUST = (("SSL_CERT_FILE", "SSL_CERT_DIR"), ("REQUESTS_CA_BUNDLE",), ("CURL_CA_BUNDLE",))
"""Variables that name certificates; only those of the first group that names any count."""

_PORTS = {"http": 80, "https": 443}
_LONGEST_PORT = len("65535")
_HASHED = re.compile(r"[0-9a-f]{8}\.\d+")
"""How OpenSSL calls a certificate in a folder; it sees no other file there."""


class Proxy(NamedTuple):
    """A proxy without its credentials, the value of the header Proxy-Authorization, and the variable that names it."""

    url: str
    authorization: SecretStr | None
    variable: str

    def __str__(self) -> str:
        """For people."""
        return f"{self.url}, which {self.variable} names"


class Trust(NamedTuple):
    """A file or folder of certificates, and the variable that names it."""

    path: str
    variable: str

    def __str__(self) -> str:
        """For people."""
        return f"{one_line(self.path)}, which {self.variable} names"


class Certificates(NamedTuple):
    """What is trusted; none and None where it is what the library trusts by itself."""

    trusted: Sequence[Trust]
    context: ssl.SSLContext | None

    def __str__(self) -> str:
        """For people."""
        return " and ".join(map(str, self.trusted)) or "the system's"


class Outbound(NamedTuple):
    """How calls to one server leave this machine."""

    proxy: Proxy | None
    certificates: Certificates


def outbound(base_url: str) -> Outbound:
    """How calls to this server leave the machine, by the environment as it is now.

    Certificates are read for a server without TLS, too: a file that is not there would fail the next one that has it.

    Raises:
        SettingsError: no call could be made; the text names the variable, and no user or password.
    """
    return Outbound(proxy_for(base_url), certificates())


# --- the proxy ---


def proxy_for(base_url: str) -> Proxy | None:
    """The proxy for this server; None where the server is reached without one. Errors as for `outbound`."""
    proxies = getproxies()  # "http", "https", "all" and "no", without the ending `_proxy`
    server = urlsplit(base_url)
    kind = server.scheme if proxies.get(server.scheme) else "all"
    value = proxies.get(kind, "").strip()
    host = (server.hostname or "").rstrip(".")
    if not value or is_direct(host, server.port or _PORTS[server.scheme], proxies.get("no", "")) or proxy_bypass(host):
        return None
    return _read_proxy(value, _variable(f"{kind}_proxy", value))


def _variable(name: str, value: str) -> str:
    """As the environment spells it."""
    spellings = [each for each in os.environ if each.lower() == name and os.environ[each].strip() == value]
    return min(spellings, key=str.isupper, default=name.upper())  # what is in lower case goes first


def _read_proxy(value: str, variable: str) -> Proxy:
    scheme = value.partition("://")[0].lower() if "://" in value else "http"
    if scheme not in _PORTS:
        kind = f"the kind {scheme}" if re.fullmatch(r"[a-z][a-z0-9+.-]{0,20}", scheme) else "an unknown kind"
        raise SettingsError(
            f"{variable} names a proxy of {kind}, which is not supported. "
            "Name an http:// or https:// proxy, unset it, or add the server's host to NO_PROXY."
        )
    address = value if "://" in value else f"http://{value}"
    try:
        parts = urlsplit(address)
        port = parts.port
        is_usable = port != 0 and is_host(parts.hostname) and not _is_doubtful(value, parts)
    except ValueError:
        is_usable, port = False, None
    if not is_usable:
        raise SettingsError(
            f"{variable} is no usable proxy; an example is http://user:password@proxy:3128. "
            "In user and password, write @ as %40, # as %23, / as %2F and ? as %3F."
        )
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return Proxy(f"{scheme}://{host}:{port or _PORTS[scheme]}", _authorization(parts), variable)


def _is_doubtful(value: str, parts: SplitResult) -> bool:
    """Whether a part of a password may be taken for the host, and shown; or what `urlsplit` drops is in it."""
    return "@" in parts.path + parts.query + parts.fragment or " " in value or not value.isprintable()


def _authorization(parts: SplitResult) -> SecretStr | None:
    if not parts.username and not parts.password:
        return None
    user, password = (
        unquote_to_bytes((text or "").encode("utf-8", "surrogateescape")) for text in (parts.username, parts.password)
    )
    return SecretStr(f"Basic {base64.b64encode(user + b':' + password).decode()}")


def is_direct(host: str, port: int, no_proxy: str) -> bool:
    """Whether NO_PROXY names this host: as `*`, a domain, an address, a network; perhaps with a port."""
    return any(_names(entry.lower(), host.lower(), port) for entry in re.split(r"[\s,;]+", no_proxy) if entry)


def _names(entry: str, host: str, port: int) -> bool:
    entry = entry.rpartition("://")[2].removesuffix("/")
    if entry == "*" or _is_within(host, entry):
        return True
    name, _, its_port = entry.rpartition(":")
    if name and its_port.isdecimal() and len(its_port) <= _LONGEST_PORT:
        return int(its_port) == port and _names(name, host, port)
    domain = entry.removeprefix("*").strip(".")
    return bool(domain) and (host == domain or host.endswith(f".{domain}"))


def _is_within(host: str, network: str) -> bool:
    try:
        address, _, length = network.partition("/")
        bare = address.removeprefix("[").removesuffix("]").partition("%")[0]
        return ip_address(host.partition("%")[0]) in ip_network(f"{bare}/{length}" if length else bare, strict=False)
    except ValueError:  # one of the two is no address
        return False


# --- certificates ---


def certificates() -> Certificates:
    """The certificates to trust. Errors as for `outbound`."""
    _check_key_log()
    groups = ([Trust(path, name) for name in group if (path := os.environ.get(name))] for group in _TRUST)
    trusted = next(filter(None, groups), [])
    file = folder = None
    for path, variable in trusted:
        if variable == "SSL_CERT_DIR" or (variable not in _TRUST[0] and os.path.isdir(path)):  # noqa: PTH112
            folder = _checked_folders(path, variable)
        else:
            file = _checked_file(path, variable)
    if not trusted:
        return Certificates((), None if all(os.environ.get(name) != "" for name in _TRUST[0]) else _compiled_in())
    context = _context(file, folder, os.stat(file).st_mtime_ns if file else 0)  # noqa: PTH116
    if context is None:
        raise _refusal(*trusted[0], "which holds no certificates (PEM), or a damaged one")
    return Certificates(trusted, context)


def _compiled_in() -> ssl.SSLContext | None:
    """What OpenSSL trusts by itself; it takes an empty variable for a file that is not there."""
    paths = ssl.get_default_verify_paths()
    file = paths.openssl_cafile if os.path.isfile(paths.openssl_cafile) else None  # noqa: PTH113
    return _context(file, paths.openssl_capath, 0)


@lru_cache(maxsize=4)
def _context(file: str | None, folder: str | None, _changed: int) -> ssl.SSLContext | None:
    """None where the file holds no certificate. Reading it takes some 20 ms, and several ask before a run begins."""
    try:
        context = ssl.create_default_context(cafile=file, capath=folder)
    except OSError as error:  # OpenSSL's are among them
        if error.errno in NOTHING_LEFT and not isinstance(error, ssl.SSLError):
            raise
        return None
    context.set_alpn_protocols(["http/1.1"])
    return context if folder or context.cert_store_stats()["x509"] else None


def _checked_file(path: str, variable: str) -> str:
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116  # a pipe or device would be read for ever
        if stat.S_ISREG(mode):
            os.close(os.open(path, os.O_RDONLY))
            return path
        why = "which is a folder" if stat.S_ISDIR(mode) else "which is no file"
    except OSError as error:
        why = _why(error)
    raise _refusal(path, variable, why)


def _checked_folders(paths: str, variable: str) -> str:
    """OpenSSL takes a list of folders; one that holds certificates is enough."""
    why = ""
    for path in paths.split(os.pathsep):
        try:
            if any(map(_HASHED.fullmatch, os.listdir(path or os.curdir))):  # noqa: PTH208
                return paths
            why = "which holds no certificates under their hashes (`openssl rehash` makes them)"
        except NotADirectoryError:
            why = "which is no folder"
        except OSError as error:
            why = _why(error)
    raise _refusal(paths, variable, why)


def _check_key_log() -> None:
    """Python opens this file whenever TLS is set up, even for a server without it."""
    path = os.environ.get("SSLKEYLOGFILE")
    if not path:
        return
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK, 0o600))
    except OSError as error:
        raise _refusal(path, "SSLKEYLOGFILE", _why(error, "written")) from None


def _why(error: OSError, verb: str = "read") -> str:
    if error.errno in NOTHING_LEFT:
        raise error
    return "which is not there" if error.errno == errno.ENOENT else f"which cannot be {verb} ({error.strerror})"


def _refusal(path: str, variable: str, why: str) -> SettingsError:
    return SettingsError(f"{variable} names {one_line(path)}, {why}. Correct {variable} or unset it.")
