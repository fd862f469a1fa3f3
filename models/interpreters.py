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


def bare_environment() -> dict[str, str]:
    """The environment of a child that imports what this process can, even if a notebook has changed its path.

    No key, password or URL is in it: what a child reads may be hostile.
    """
    kept = {name: value for name, value in os.environ.items() if name in _KEPT or name.startswith("LC_")}
    return {**kept, "PYTHONPATH": os.pathsep.join([_BESIDE_US, *filter(None, sys.path)])}


_KEPT = {
    *("PATH", "HOME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "TMP", "TEMP", "SYSTEMROOT", "XDG_CACHE_HOME"),
    *("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "DYLD_FALLBACK_LIBRARY_PATH", "NIX_LD", "NIX_LD_LIBRARY_PATH"),
    *("PYTHONHOME", "PYTHONUTF8", "PYTHONHASHSEED", "PYTHONPYCACHEPREFIX", "PYTHONDONTWRITEBYTECODE"),
    "OMP_NUM_THREADS",
}
"""What an interpreter and the libraries under it need: where things are, and how text is written."""
