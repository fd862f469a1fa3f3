"""The URL of a broker or of a Redis is read here, once, so that it means the same to Celery and to redis-py.

Each of them knows options that the other does not, and verifies certificates or does not. What we take from a URL is in
the tables below; anything else is refused before somebody waits for it.
"""

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import parse_qsl, quote, unquote, urlsplit

Kind = Literal["memory", "redis", "amqp"]

_SCHEMES: Final[Mapping[str, tuple[Kind, str]]] = {
    "memory": ("memory", "memory"),
    "redis": ("redis", "redis"),
    "rediss": ("redis", "rediss"),
    "valkey": ("redis", "redis"),
    "valkeys": ("redis", "rediss"),
    "redis+socket": ("redis", "unix"),
    "unix": ("redis", "unix"),
    "amqp": ("amqp", "amqp"),
    "pyamqp": ("amqp", "amqp"),
    "amqps": ("amqp", "amqps"),
}
"""A URL's scheme -> what kind of server it names, and the scheme that we go on with."""

_REQUIREMENTS = {"required": ssl.CERT_REQUIRED, "optional": ssl.CERT_OPTIONAL, "none": ssl.CERT_NONE}
_TLS_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_TLS_OPTIONS = ("ssl_cert_reqs", "ssl_check_hostname", *_TLS_FILES)
_REDIS_OPTIONS = ("db", "virtual_host", "username", "password")

_EXAMPLES: Mapping[str, str] = {
    "broker": "the URL of a broker; examples are redis://localhost:6379/0 and amqp://localhost//",
    "limits": "the URL of a Redis; an example is redis://localhost:6379/0",
}
_SPELLING = "in a user name or password, write @ as %40, : as %3A, / as %2F, ? as %3F and # as %23"


_REASONS = (
    (r"certificate verify failed: ([^(]*)", "its certificate is not trusted: {}"),
    (r"certificate is not valid for '([^']*)'", "its certificate is for another host than {}"),
    (r"WRONG_VERSION_NUMBER|record layer failure", "it does not speak TLS"),
    (r"Authentication required|NOAUTH", "it asks for a password"),
    (r"invalid username-password|WRONGPASS|ACCESS_REFUSED|[Ii]nvalid password", "it refuses the user name or password"),
    (r"NOT_ALLOWED - vhost (\S+) not found", "it has no virtual host {}"),
    (r"NOT_ALLOWED - access to vhost '([^']*)' refused", "the user may not use the virtual host {}"),
    (r"DB index is out of range", "it has no database of that number"),
    (r"Connection refused", "connection refused"),
    (r"Name or service not known|nodename nor servname|No address associated", "the host's name is not known"),
    (r"\b(?:MOVED|CLUSTERDOWN|CROSSSLOT)\b", "it belongs to Redis Cluster, which is not supported"),
)
"""What a client's error says -> what that means; {} is what the brackets hold."""


@dataclass(frozen=True, slots=True)
class Server:
    """A broker or a Redis, as a URL names it."""

    kind: Kind
    scheme: str  # memory, redis, rediss, unix, amqp or amqps
    host: str = ""
    port: int | None = None
    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    path: str = ""  # a virtual host of RabbitMQ, or a socket's path
    db: int = 0
    tls: Mapping[str, str] = field(default_factory=dict)  # options as redis-py names them

    @property
    def redis_url(self) -> str:
        """The URL for redis-py, without options; its TLS is in `redis_tls`."""
        if self.scheme == "unix":
            return f"unix://{self._credentials}{self.path}?db={self.db}"
        return f"{self.scheme}://{self._credentials}{self._address}/{self.db}"

    @property
    def celery_url(self) -> str:
        """The URL for Celery, without options; its TLS is in `celery_tls`."""
        if self.kind == "memory":
            return "memory://"
        if self.scheme == "unix":
            return f"redis+socket://{self._credentials}{self.path}?virtual_host={self.db}"
        path = str(self.db) if self.kind == "redis" else self.path
        return f"{self.scheme}://{self._credentials}{self._address}/{path}"

    @property
    def redis_tls(self) -> dict[str, Any]:
        """What redis-py needs for TLS; {} without. Certificates are verified unless the URL says otherwise."""
        if self.scheme != "rediss":
            return {}
        reqs = self.tls.get("ssl_cert_reqs", "required")
        files = {name: self.tls[name] for name in _TLS_FILES if name in self.tls}
        return {"ssl_cert_reqs": _REQUIREMENTS[reqs], "ssl_check_hostname": self._checks_hostname, **files}

    @property
    def celery_tls(self) -> dict[str, Any] | None:
        """Celery's `broker_use_ssl`; None without TLS."""
        if self.scheme == "rediss":
            return self.redis_tls
        if self.scheme != "amqps":
            return None
        reqs = self.tls.get("ssl_cert_reqs", "required")
        files = {name.removeprefix("ssl_"): self.tls[name] for name in _TLS_FILES if name in self.tls}
        named = {"server_hostname": self.host} if self._checks_hostname else {}
        return {"cert_reqs": _REQUIREMENTS[reqs], **files, **named}

    @property
    def _checks_hostname(self) -> bool:
        return self.tls.get("ssl_cert_reqs") != "none" and self.tls.get("ssl_check_hostname", "true") != "false"

    @property
    def _credentials(self) -> str:
        if not self.username and not self.password:
            return ""
        return f"{quote(self.username, safe='')}:{quote(self.password, safe='')}@"

    @property
    def _address(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port is None else f"{host}:{self.port}"


def read_url(url: str, what: Literal["broker", "limits"]) -> Server:
    """The server that a URL names.

    Args:
        url: `memory://`, or the URL of a Redis or, for a broker, of RabbitMQ.
        what: the broker, or the Redis of the shared limits.

    Raises:
        ValueError: no such server, or a part of the URL that means nothing; the text says what, and shows no secret.
    """
    scheme, separator, _ = url.strip().partition("://")
    scheme = scheme.lower()
    if separator and ("sentinel" in scheme or "cluster" in scheme):
        raise ValueError("names Redis Sentinel or Redis Cluster, which are not supported; name one Redis server")
    kind, ours = _SCHEMES.get(scheme, (None, ""))
    if not separator or kind is None or (what == "limits" and kind != "redis"):
        raise ValueError(f"is not {_EXAMPLES[what]}")
    if kind == "memory":
        return Server("memory", "memory")
    host, port, username, password, path, query = _split(url.strip()[len(scheme) :])
    options = _options(query, (*(_REDIS_OPTIONS if kind == "redis" else ()), *_tls_names(ours)))
    if kind == "amqp":
        return Server(kind, ours, host or "localhost", port, username, password, path[1:], 0, options)
    username, password = options.pop("username", username), options.pop("password", password)
    chosen = options.pop("db", "") or options.pop("virtual_host", "").strip("/")
    if ours == "unix":
        if host or not path.strip("/"):
            raise ValueError("is not the path of a socket; an example is redis+socket:///run/redis.sock")
        return Server(kind, ours, "", None, username, password, path, _number(chosen), options)
    number = _number(chosen or path.strip("/"))
    return Server(kind, ours, host or "localhost", port, username, password, "", number, options)


def reason_of(error: BaseException) -> str:
    """Why a server cannot be used, in a few words: ours, where the client's error is known, else its first line."""
    for pattern, words in _REASONS:
        if match := re.search(pattern, str(error)):
            return words.format(*(group.strip() for group in match.groups()))
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _split(address: str) -> tuple[str, int | None, str, str, str, str]:
    """Host, port, user name, password, path and query of what follows the scheme."""
    if "#" in address:
        raise ValueError(f"has a # in it; {_SPELLING}")
    try:
        parts = urlsplit("tidemill" + address)  # a scheme that is none of urlsplit's own, so that all are read alike
        host, port = parts.hostname or "", parts.port
    except ValueError:  # its text would show what it could not read
        port = 0
    if port == 0:
        raise ValueError(f"has a host or a port that is none; {_SPELLING}")
    return host, port, unquote(parts.username or ""), unquote(parts.password or ""), parts.path, parts.query


def _number(text: str) -> int:
    if text and not (text.isdecimal() and text.isascii()):
        raise ValueError("names no database of a Redis, which is a number; an example is redis://localhost:6379/0")
    return int(text or "0")


def _tls_names(scheme: str) -> tuple[str, ...]:
    return _TLS_OPTIONS if scheme in {"rediss", "amqps"} else ()


def _options(query: str, names: tuple[str, ...]) -> dict[str, str]:
    """The URL's options, each checked."""
    options = dict(parse_qsl(query, keep_blank_values=True))
    if unknown := [name for name in options if name not in names]:
        # A name that is not known may be the rest of a password with a question mark in it
        if set(unknown) <= set(_TLS_OPTIONS):
            raise ValueError("has options of TLS without TLS; the scheme must be rediss or amqps")
        known = f"known are {', '.join(names)}" if names else "this scheme takes none"
        raise ValueError(f"has an option that is not known ({known}); {_SPELLING}")
    if "ssl_cert_reqs" in options:
        options["ssl_cert_reqs"] = options["ssl_cert_reqs"].lower().removeprefix("cert_")
        if options["ssl_cert_reqs"] not in _REQUIREMENTS:
            raise ValueError(f"has an ssl_cert_reqs that is none of {', '.join(_REQUIREMENTS)}")
    if "ssl_check_hostname" in options:
        options["ssl_check_hostname"] = options["ssl_check_hostname"].lower()
        if options["ssl_check_hostname"] not in {"true", "false"}:
            raise ValueError("has an ssl_check_hostname that is neither true nor false")
    for name in _TLS_FILES:
        if name in options and not Path(options[name]).is_file():
            raise ValueError(f"names a file that is not there: {name}={options[name]}")
    return options
