"""Two addresses of one server are one name, by which batches, workers and holds know it.

A name is host, port and path: `api.openai.com/v1`, `127.0.0.1:8000/v1`. Versions before 0.2 stored host and port only.
"""

import hashlib
import re
from urllib.parse import urlsplit

_DEFAULT_PORTS = (80, 443)
_LOOPBACK = {"localhost": "127.0.0.1", "::1": "127.0.0.1", "0.0.0.0": "127.0.0.1"}  # noqa: S104  # no socket is bound
_MOST_CHARACTERS = 200  # of the column


def server_name(url: str) -> str:
    """The name of the server at a URL; the scheme may be missing, and so may the path.

    What says nothing of who answers does not count: scheme, default port, letters of the host in capitals, a slash at
    the end, a user, and how this machine is called from itself.

    Raises:
        ValueError: it names no host.
    """
    parts = urlsplit(url.strip() if "://" in url else f"https://{url.strip()}")
    if not parts.hostname:
        raise ValueError("it names no host")
    host = parts.hostname.rstrip(".")
    host = _LOOPBACK.get(host, f"[{host}]" if ":" in host else host)
    port = "" if parts.port in (None, *_DEFAULT_PORTS) else f":{parts.port}"
    path = re.sub("/+", "/", f"/{parts.path}").rstrip("/") or "/"
    name = f"{host}{port}{path}"
    return name if len(name) <= _MOST_CHARACTERS else f"{name[:180]}~{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def host_of(name: str) -> str:
    """Host and port of a name, which is all that older versions stored."""
    return name.partition("/")[0]


def has_path(name: str) -> bool:
    """Whether a stored name is of this version: older ones have no path."""
    return "/" in name


def is_same_host(one: str, other: str) -> bool:
    """Whether two addresses, as names or as older versions stored them, have the same host and port."""
    try:
        return host_of(server_name(one)) == host_of(server_name(other))
    except ValueError:
        return False
