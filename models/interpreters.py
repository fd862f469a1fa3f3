"""The interpreters that we start load nothing from the working folder.

People work in folders with their own `models.py` or `redis.py`. `-P` keeps the working folder off the path, and our
own packages come first on it.
"""

import os
import sys
from pathlib import Path

_BESIDE_US = str(Path(__file__).parents[2])
"""The folder that `tidemill` is imported from."""


def command(*arguments: str) -> list[str]:
    """The command line of a fresh interpreter with these arguments, such as `-c` and code."""
    return [sys.executable, "-P", *arguments]


def environment() -> dict[str, str]:
    """The environment of a child that can import what this process can, even if a notebook has changed its path."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([_BESIDE_US, *filter(None, sys.path)])}
