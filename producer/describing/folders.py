"""A folder of pictures holds other files, and copies that other programs made of them; to caption these is waste."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase, translate
from pathlib import Path

from tidemill.producer.batches.progress import counted

_OTHER_ENDINGS = frozenset(
    {
        *(".7z", ".bz2", ".gz", ".tar", ".xz", ".zip"),
        *(".aac", ".flac", ".m4a", ".mp3", ".ogg", ".wav"),
        *(".avi", ".mkv", ".mov", ".mp4", ".mpg", ".srt", ".webm"),
        *(".caption", ".doc", ".docx", ".htm", ".html", ".log", ".md", ".odt", ".rst", ".rtf", ".txt"),
        *(".csv", ".db", ".json", ".jsonl", ".npy", ".ods", ".parquet", ".pkl", ".sqlite", ".tsv", ".xlsx"),
        *(".aae", ".dop", ".npz", ".pp3", ".safetensors"),
        *(".cfg", ".conf", ".ini", ".py", ".thm", ".toml", ".xml", ".xmp", ".yaml", ".yml"),
    }
)
"""Endings of files that lie beside pictures in a folder and are left out. A file that is named itself is opened."""

_OTHER_NAMES = (
    *("@eaDir", "SYNOPHOTO_THUMB*", "SYNOFILE_THUMB*", "#recycle", "#snapshot", "@tmp"),  # Synology
    *(".@__thumb", "@__thumb", "@Recycle", "@Recently-Snapshot", ".@upload_cache"),  # QNAP
    *("__MACOSX", "._*", ".DS_Store", ".Trashes", "*.photoslibrary/resources", "*.photoslibrary/database"),  # macOS
    *("*.aplibrary/Previews", "*.aplibrary/Thumbnails", "*.cocatalog"),
    *("$RECYCLE.BIN", "System Volume Information", "Thumbs.db", "ehthumbs*.db"),  # Windows
    *(".thumbnails", ".Trash*", "lost+found", ".picasaoriginals", "CaptureOne/Cache"),
    *("*.lrdata", "*.lrcat-data"),  # Lightroom
    *("appdata_*/preview", "files_trashbin", "files_versions"),  # Nextcloud
)
"""What programs put beside pictures, copies of them for the most part: names, or folder/name, in any case."""


@dataclass(slots=True)
class Walk:
    """Finds the files of folders, and counts what it leaves out: by ending, by name, by the user's glob."""

    recursive: bool
    exclude: tuple[str, ...]
    is_alone: bool
    """Whether the user names one file or folder only."""
    endings: Counter[str] = field(default_factory=Counter)
    copies: Counter[str] = field(default_factory=Counter)
    excluded: Counter[str] = field(default_factory=Counter)

    def files(self, argument: str) -> Iterator[str]:
        """A file or URL itself; the files of a folder by name, with those of its folders in their places."""
        if self._leaves_out(argument, others=not self.is_alone):
            return  # one of several was perhaps named by a shell's photos/*, and not by the user
        is_folder = os.path.isdir(argument)  # noqa: PTH112  # pathlib would change the user's path
        around = (Path(argument), *Path(argument).parents)
        others = all(_other_name(str(each)) is None for each in around)  # else the user means such files
        yield from self._files(argument, others=others) if is_folder else (argument,)

    def notes(self) -> Iterator[str]:
        """What was left out."""
        if self.endings:
            yield f"{counted(self.endings.total(), 'file')} beside the pictures left out ({_names(self.endings)})."
        if self.copies:
            total = f"{self.copies.total():,}"
            yield f"Left out, as copies and leftovers of other programs: {total} ({_names(self.copies)})."
        if self.excluded:
            yield f"Left out by --exclude: {self.excluded.total():,} ({_names(self.excluded)})."

    def _files(self, folder: str, *, others: bool) -> Iterator[str]:
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError:
            yield folder  # it will be refused as a file that cannot be read
            return
        for entry in entries:
            ending = Path(entry.name).suffix.lower()
            is_folder = entry.is_dir(follow_symlinks=False)  # a link to a folder may lead back here
            if is_folder and not self.recursive:
                continue
            if self._leaves_out(entry.path, others=others):
                continue
            if is_folder:
                if not entry.name.startswith("."):
                    yield from self._files(entry.path, others=others)
            elif entry.name.startswith(".") or ending in _OTHER_ENDINGS:
                self.endings[ending or entry.name] += 1
            elif not os.path.isdir(entry.path):  # noqa: PTH112  # it never raises; the entry's own method does
                yield entry.path

    def _leaves_out(self, path: str, *, others: bool) -> bool:
        """Whether a file or folder is left out by the user's glob, or among `others` by its name; counts it."""
        if (glob := excluding(path, self.exclude)) is not None:
            self.excluded[glob] += 1
        elif others and (name := _other_name(path)) is not None:
            self.copies[name] += 1
        else:
            return False
        return True


def _names(counts: Counter[str]) -> str:
    return ", ".join(sorted(counts))


def excluding(path: str, globs: Iterable[str]) -> str | None:
    """The first glob that matches a path, its name, or the path's end; None if none does."""
    bare = path.rstrip("/")
    tails = [bare, *(bare[place + 1 :] for place in (each.start() for each in re.finditer("/", bare)))]
    return next((glob for glob in globs if any(fnmatchcase(tail, glob.rstrip("/")) for tail in tails)), None)


def _other_name(path: str) -> str | None:
    """The last part of a path that other programs have made; "._*" for all of that kind."""
    *_, folder, name = ("", "", *Path(path.casefold()).parts)  # a path such as "." has none
    if _OTHERS.fullmatch(name) or _OTHERS.fullmatch(f"{folder}/{name}"):
        return "._*" if name.startswith("._") else Path(path).name
    return None


_OTHERS = re.compile("|".join(translate(each.casefold()) for each in _OTHER_NAMES))
