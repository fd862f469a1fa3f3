"""Calls are tested on the loop that a worker makes them on."""

import asyncio
from collections.abc import Callable, Mapping

import pytest

from tidemill.worker.loop import new_loop


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """See pytest-asyncio."""
    return {"worker": new_loop}
