"""Certificates take long to read, and Python can do something else meanwhile: they are read while a command begins."""

import threading
from contextlib import suppress
from importlib import import_module

from tidemill.models.outbound import outbound


def read_certificates(base_url: str) -> None:
    """Read on a thread what the calls of this process will trust, and what aiohttp reads when it is imported.

    What is wrong with them is said by whoever asks next.
    """
    threading.Thread(target=_read, args=(base_url,), name="certificates", daemon=True).start()


def _read(base_url: str) -> None:
    with suppress(Exception):
        outbound(base_url)
        import_module("aiohttp")
