"""The site that most tests of this folder break."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.site import Site, open_site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """Three workers under two commands, at a provider whose calls sometimes fail."""
    with open_site(tmp_path) as made:
        made.provider.control(faults={"500": 0.01, "reset": 0.005, "cut": 0.005, "429ms": 0.005})
        yield made
