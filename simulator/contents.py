"""A file of a batch may be 200 MB, which nobody should hold in memory: it is on disk, and mapped where it is read."""

import mmap
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO

Body = bytes | mmap.mmap
COPIED_BYTES = 1 << 20


class Contents:
    """The folder of large files by id. Without a place of its own it is a temporary one."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._temporary: TemporaryDirectory[str] | None = None

    def _path(self, identity: str) -> Path:
        if self._folder is None:
            self._temporary = TemporaryDirectory(prefix="tidemill-simulator-")
            self._folder = Path(self._temporary.name)
        return self._folder / identity

    def appending(self, identity: str) -> BinaryIO:
        """Unbuffered: what was written is there, whatever kills the process next."""
        path = self._path(identity)
        path.parent.mkdir(exist_ok=True)
        return path.open("ab", buffering=0)

    def write(self, identity: str, content: Body | memoryview) -> None:
        with memoryview(content) as view, self.appending(identity) as file:
            file.truncate(0)
            for start in range(0, len(view), COPIED_BYTES):
                file.write(view[start : start + COPIED_BYTES])

    def view(self, identity: str) -> Body:
        """The bytes, mapped and not read; none where there is no such file."""
        path = self._path(identity)
        if not path.exists() or not path.stat().st_size:
            return b""
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def remove(self, identity: str) -> None:
        self._path(identity).unlink(missing_ok=True)

    def clear(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def close(self) -> None:
        if self._temporary is not None:
            self._temporary.cleanup()
