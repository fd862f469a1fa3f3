"""An input may be several files, named by paths, globs and URLs; they are read one after the other, as one input."""

import glob
import hashlib
import math
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from tempfile import NamedTemporaryFile
from urllib.parse import urlsplit

from tidemill.models import remote_files
from tidemill.models.errors import InputError
from tidemill.models.remote_files import is_url
from tidemill.models.urls import shown_url
from tidemill.producer.screen.display import Ticker

STDIN = "-"
_MEGABYTE = 10**6


@dataclass(frozen=True, slots=True)
class Files:
    """Files as the user named them: paths, globs and URLs; or only `-`, which is standard input."""

    patterns: tuple[str, ...]

    def __post_init__(self) -> None:
        """Refuse a pipe beside others: a batch is found again by the names of its files, and a pipe has none."""
        for url in filter(is_url, self.patterns):
            remote_files.path_of(url)
        if STDIN in self.patterns and len(self.patterns) > 1:
            raise InputError("-i - is standard input, and cannot be one of several inputs: save it to a file first.")

    def __str__(self) -> str:
        """For sentences."""
        return ", ".join(map(shown, self.patterns))

    @property
    def is_stdin(self) -> bool:
        """Whether it is standard input."""
        return self.patterns == (STDIN,)

    @property
    def name(self) -> str:
        """What a batch of them is called: the first file, or the folder that is looked through."""
        first = self.patterns[0]
        if self.is_stdin:
            return "stdin"
        path = PurePosixPath(remote_files.path_of(first)) if is_url(first) else Path(first).absolute()
        while _is_glob(first) and glob.has_magic(path.name):
            path = path.parent
        return path.stem or "files"

    @property
    def known_by(self) -> str | None:
        """What a batch of them is found by: the full path of a file, or all patterns in their order; None for stdin.

        A batch of several must not begin like a path. A file that is not there is taken for one that was moved.
        """
        if self.is_stdin:
            return None
        names = [_full_name(each) for each in self.patterns]
        return names[0] if len(names) == 1 and not _is_glob(self.patterns[0]) else "\n".join(["files", *names])

    def expand(self) -> list[str]:
        """The paths and URLs, each once: those of a glob in natural order, so that part2 comes before part10.

        Raises:
            InputError: a glob fits nothing.
        """
        every: dict[str, str] = {}
        for pattern in self.patterns:
            for each in _matching(pattern) if _is_glob(pattern) else [pattern]:
                every.setdefault(_place(each), each)
        return list(every.values())

    def paths(self) -> list[Path]:
        """Those that are files of this machine, also what is not there."""
        return [Path(each) for each in self.expand() if each != STDIN and not is_url(each)]

    def size(self) -> float:
        """Bytes in all; infinite where not all are plain files here."""
        files = self.expand()
        are_plain = all(map(os.path.isfile, files)) and not self.is_stdin
        return sum(map(os.path.getsize, files)) if are_plain else math.inf

    def check_output(self, output: str) -> None:
        """Raise InputError when the next run would read what is written to `output` now."""
        if output == STDIN:
            return
        place = _place(output)
        for pattern in self.patterns:
            full = _place(pattern)
            if place == full:
                raise InputError(f"{shown(output)} is the input itself; name another file for the answers with -o.")
            if _is_glob(pattern) and _fits(place, full):
                raise InputError(
                    f"{shown(output)} would be an input of the next run, by -i {shown(pattern)!r}: name another file, "
                    "or one in another folder, with -o."
                )


def files_of(source: object) -> Files | None:
    """The files that a source names; None where it is no file."""
    if isinstance(source, Files):
        return source
    if isinstance(source, str | Path):
        return Files((str(source),))
    if isinstance(source, list | tuple) and source and all(isinstance(each, Path) for each in source):
        return Files(tuple(map(str, source)))
    return None


def shown(name: str) -> str:
    """A path as it is; a URL without what may be secret in it."""
    return shown_url(name) if is_url(name) else name


def _place(name: str) -> str:
    """What tells two names of one file: its real path; a URL as it is."""
    return name if is_url(name) or "\0" in name else os.path.realpath(name)


def _full_name(pattern: str) -> str:
    """A path from the root, or a URL without user, password and query."""
    if not is_url(pattern):
        return str(Path(pattern).resolve())
    parts, name = urlsplit(pattern), shown_url(pattern)
    if name.partition("://")[2] == f"{parts.netloc.rpartition('@')[2]}{parts.path}" and not parts.fragment:
        return name
    # What cannot be shown for certain still tells files apart.
    return f"{name} {hashlib.sha256(f'{parts.path}#{parts.fragment}'.encode()).hexdigest()[:16]}"


def _is_glob(pattern: str) -> bool:
    """Whether it stands for several files. In a URL only `*` does, since `?` begins a query."""
    if is_url(pattern):
        return "*" in remote_files.path_of(pattern) and not remote_files.is_web(pattern)
    return glob.has_magic(pattern) and not os.path.lexists(pattern)


def _matching(pattern: str) -> Iterable[str]:
    found = remote_files.matching(pattern) if is_url(pattern) else glob.glob(pattern, recursive=True)  # noqa: PTH207
    files = [each for each in found if is_url(each) or not os.path.isdir(each)]  # noqa: PTH112
    if not files:
        raise InputError(f"{shown(pattern)} fits no file; check the folder and the ending.")
    return sorted(files, key=_naturally)


def _naturally(path: str) -> list[str | int]:
    """What sorts part2 before part10."""
    return [int(piece) if piece.isdecimal() else piece for piece in re.split(r"(\d+)", path)]


def _fits(place: str, pattern: str) -> bool:
    is_beside = "**" in pattern or place.count("/") == pattern.count("/")
    return is_url(place) == is_url(pattern) and is_beside and fnmatch(place, pattern)


@contextmanager
def local(name: str | Path) -> Iterator[Path]:
    """Where a file can be opened: what a URL names is fetched into a temporary file with its ending.

    Raises:
        RemoteFileError: it cannot be fetched.
    """
    if not is_url(str(name)):
        yield Path(name)
        return
    url = str(name)
    with NamedTemporaryFile(prefix="tidemill-", suffix=_ending(url)) as file:
        ticker = Ticker(f"of {shown_url(url)} fetched", "MB")
        remote_files.download(url, Path(file.name), lambda done: ticker(done // _MEGABYTE))
        yield Path(file.name)


def _ending(url: str) -> str:
    """The last two endings of the path: `.csv.gz`."""
    endings = "".join(PurePosixPath(remote_files.path_of(url)).suffixes[-2:])
    return endings if re.fullmatch(r"(\.[A-Za-z0-9]{1,10})*", endings) else ""
