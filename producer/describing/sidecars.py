"""Training and tagging tools read a picture's caption from a text file beside it.

That file may hold a person's own words already, and must never be half written.
"""

import json
import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, TypeGuard

from tidemill.models.errors import InputError, SettingsError
from tidemill.models.files import replacing, temporary
from tidemill.models.finish import CUT
from tidemill.models.json_types import JsonObject
from tidemill.models.refusals import REFUSAL

Existing = Literal["skip", "overwrite", "append", "prepend"]
"""What becomes of a sidecar that is there already."""

_PICTURES = r"(?i)jpe?g|jpe|jfif|a?png|webp|gif|tiff?|bmp|dib|avif|hei[cf]|svg"
_NOT_LOCAL = re.compile(r"(?is)https?://|data:|.*\0")


def sidecar_of(picture: str | Path, ending: str, *, is_full: bool = False) -> Path:
    """Where a picture's caption goes: `photos/a.jpg` and "txt" or ".txt" make `photos/a.txt`; `a.jpg.txt` if `is_full`.

    Raises SettingsError for an ending that has other characters than ASCII letters and digits, or is one of pictures.
    """
    bare = ending.removeprefix(".")
    if not re.fullmatch(r"[A-Za-z0-9]{1,16}", bare):
        raise SettingsError(f"--sidecar {ending!r} is not a file's ending; give letters and digits, such as txt.")
    if re.fullmatch(_PICTURES, bare):
        raise SettingsError(f"--sidecar {ending} would write captions over pictures; give another ending, such as txt.")
    path = Path(picture)
    return path.with_name(f"{path.name if is_full else path.stem}.{bare}")


def shared(pictures: Iterable[str | Path], ending: str) -> frozenset[str]:
    """The absolute paths of pictures whose sidecars keep the picture's own ending, `a.jpg.txt`.

    They are those that would share one otherwise. Where only one of these has a usual ending of pictures, it keeps
    `a.txt`: the other is perhaps no picture. Raises InputError where two would share a sidecar even so.
    """
    places = {os.path.abspath(picture) for picture in pictures if _is_local(picture)}  # noqa: PTH100
    full: set[str] = set()
    while groups := _sharing(places, ending, full):
        others = {place for group in groups for place in _without_the_usual(group)} - full
        if not (more := others or {place for group in groups for place in group} - full):
            one, other, *_ = sorted(groups[0])
            sidecar = sidecar_of(one, ending, is_full=True)
            raise InputError(f"{one} and {other} would share the caption file {sidecar}; rename one of the two.")
        full |= more
    return frozenset(full)


def _sharing(places: Iterable[str], ending: str, full: Collection[str]) -> list[list[str]]:
    """The groups of pictures that have one sidecar."""
    groups: dict[Path, list[str]] = {}
    for place in places:
        groups.setdefault(sidecar_of(place, ending, is_full=place in full), []).append(place)
    return [group for group in groups.values() if len(group) > 1]


def _without_the_usual(group: list[str]) -> list[str]:
    usual = [place for place in group if has_usual_ending(place)]
    return [place for place in group if len(usual) != 1 or place not in usual]


def has_usual_ending(picture: str) -> bool:
    """Whether a file's name is that of a picture."""
    return re.fullmatch(_PICTURES, Path(picture).suffix.removeprefix(".")) is not None


@dataclass(frozen=True, slots=True)
class Sidecars:
    """Where the captions of an order's pictures go, and what becomes of those that are there already.

    `full` are the absolute paths of pictures whose sidecars keep the picture's own ending (`shared`).
    """

    ending: str
    existing: Existing
    full: frozenset[str] = frozenset()

    def of(self, picture: str | Path) -> Path:
        """The caption file of a picture."""
        return sidecar_of(picture, self.ending, is_full=os.path.abspath(picture) in self.full)  # noqa: PTH100

    def has_caption(self, picture: str | Path) -> bool:
        """Whether there is one already; an empty file is none."""
        if not _is_local(picture):
            return False
        sidecar = self.of(picture)
        return os.path.isfile(sidecar) and not _is_blank(sidecar)  # noqa: PTH113  # it never raises; Path's does

    def check(self, pictures: Iterable[str | Path]) -> None:
        """Raise InputError when a caption of these pictures could not be written; called before any paid work.

        None may go over a picture, each folder must be writable, and nothing else may be in a caption's place. URLs are
        left out, and with `skip` pictures that have a caption.
        """
        places = {os.path.abspath(picture): self.of(picture) for picture in pictures if _is_local(picture)}  # noqa: PTH100
        for place, sidecar in places.items():
            over = os.path.abspath(sidecar)  # noqa: PTH100
            if over in places:
                raise InputError(f"The caption of {place} would go over the picture {over}; give another ending.")
        writable: set[Path] = set()
        for place, sidecar in places.items():
            folder = sidecar.parent
            if not os.path.isdir(folder):  # noqa: PTH112  # unlike Path's, it never raises
                continue  # its pictures do not exist either, and fail by themselves
            if (why := _why_not(sidecar, self.existing)) is not None:
                raise _in_the_way(sidecar, why)
            if folder not in writable and not (self.existing == "skip" and self.has_caption(place)):
                _try(folder)
                writable.add(folder)


def _try(folder: Path) -> None:
    probe = temporary(folder / "probe")  # root and some disks find everything writable until it is tried
    try:
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise _in_the_way(folder, error.strerror) from error


def _in_the_way(path: Path, reason: str | None) -> InputError:
    return InputError(
        f"{path} cannot be written: {reason}; nothing was sent. Move it away, make it writable, or give --sidecar "
        "another ending."
    )


def _why_not(sidecar: Path, existing: Existing) -> str | None:
    """Why a caption cannot go there; None if it can, or if it need not."""
    try:
        mode = sidecar.lstat().st_mode
    except FileNotFoundError:
        return None
    except OSError as error:
        return error.strerror
    if existing == "skip" and os.path.isfile(sidecar) and not _is_blank(sidecar):  # noqa: PTH113
        return None
    if not stat.S_ISREG(mode):
        return _IN_THE_WAY
    return None if mode & 0o222 and os.access(sidecar, os.R_OK | os.W_OK) else "it is read-only"


_IN_THE_WAY = "it is a link, a folder or a device"
_LARGEST_BLANK_BYTES = 4096
_BLANK = b" \t\r\n\v\f\0\xef\xbb\xbf\xff\xfe"  # with the marks that some editors put first


def _is_blank(sidecar: Path) -> bool:
    """Whether there is no file, or one with nothing in it. What cannot be read is not blank."""
    try:
        status = sidecar.stat()  # through a link
        if not stat.S_ISREG(status.st_mode) or status.st_size > _LARGEST_BLANK_BYTES:
            return False
        return not sidecar.read_bytes().strip(_BLANK)
    except FileNotFoundError:
        return True
    except OSError:
        return False


class Written(NamedTuple):
    """How many files were written, and how many answers were no captions, by their error code."""

    files: int
    others: Counter[str]


NO_CAPTIONS = (CUT, "no_finish_reason", REFUSAL)
"""Error codes of answers that were kept because they were paid for, and are no captions."""


def write(
    rows: Iterable[list[JsonObject]],
    places: Sidecars,
    path_column: str = "path",
    reply_column: str = "reply",
) -> Written:
    """Write each succeeded row's reply beside its picture.

    Rows are dicts as `stored_rows.rows_of` yields them; those without a path on this machine are left out, and those
    that are no captions. `caption_of` makes the text; a .json file gets the reply as it is. Running it again changes
    nothing: `append` and `prepend` add a caption only if it is not among the file's lines, and tags only if they are
    not among its tags. Each file is whole at any time.

    Raises InputError when a file cannot be written; those already written stay.
    """
    files, others = 0, Counter[str]()
    for row in (row for chunk in rows for row in chunk):
        picture, reply = row.get(path_column), row.get(reply_column)
        if row.get("status") != "succeeded" or not isinstance(reply, str) or not _is_local(picture):
            continue
        if (code := row.get("error_code")) in NO_CAPTIONS:
            others[code] += 1
            continue
        sidecar = places.of(picture)
        try:
            files += _write(sidecar, reply, places.existing)
        except OSError as error:
            raise _unwritable(sidecar, error.strerror) from error
    return Written(files, others)


def caption_of(reply: str) -> str:
    """The reply without blanks around it; tags, which are JSON of exactly `{"tags": [...]}`, as "a, b, c"."""
    tags = _tags_of(reply)
    return reply.strip() if tags is None else ", ".join(tags)


def _tags_of(reply: str) -> list[str] | None:
    """The tags of a reply, each once and on one line; None if it is something else."""
    try:
        parsed = json.loads(reply)
    except (ValueError, RecursionError):
        return None
    tags = parsed.get("tags") if isinstance(parsed, dict) and len(parsed) == 1 else None
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        return None
    by_key = {_key(tag): " ".join(tag.split()) for tag in reversed(tags)}
    return [by_key.pop(key) for key in map(_key, tags) if by_key.get(key)]


def _key(tag: str) -> str:
    """What is the same in two spellings of a tag: case, blanks and underscores, escaped brackets do not count."""
    return " ".join(re.sub(r"[\s_]+", " ", tag.replace("\\", "")).casefold().split())


def _is_local(picture: object) -> TypeGuard[str | Path]:
    return isinstance(picture, str | Path) and bool(Path(picture).name) and not _NOT_LOCAL.match(str(picture))


def _unwritable(path: Path, reason: str | None) -> InputError:
    return InputError(
        f"{path} cannot be written: {reason}; captions stay in the database: fix that, then run the same command again."
    )


def _write(sidecar: Path, reply: str, existing: Existing) -> bool:
    """True when the file was written. A link is never followed: it came with the pictures, and may lead anywhere."""
    tags = None if sidecar.suffix.lower() == ".json" else _tags_of(reply)
    text = reply.strip() if tags is None else ", ".join(tags)
    caption = text.encode(errors="backslashreplace")
    if os.path.lexists(sidecar):
        if existing == "skip" and not _is_blank(sidecar):
            return False
        if (why := _why_not(sidecar, existing)) is not None:
            raise _unwritable(sidecar, why)
        older = sidecar.read_bytes()
        if existing not in ("overwrite", "skip") and older.strip(_BLANK):
            listed = _list_of(text) if tags is None and sidecar.suffix.lower() != ".json" else tags
            merged = None if listed is None else _merged(older, listed, existing, is_sure=tags is not None)
            if merged is None and _has_lines(older, caption):
                return False
            caption = _JOINED[existing](older, caption) if merged is None else merged
        if caption == older:
            return existing == "overwrite"
    with replacing(sidecar) as file:
        file.write(caption)
    return True


def _list_of(text: str) -> list[str] | None:
    """The parts of a line that looks like tags; None if it is something else."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    is_list = len(text.splitlines()) == 1 and len(parts) > 2 and not text.endswith(".")
    return parts if is_list and all(len(part.split()) <= _MOST_WORDS for part in parts) else None


_MOST_WORDS = 3


def _merged(older: bytes, tags: list[str], existing: Existing, *, is_sure: bool) -> bytes | None:
    """One line of tags with those that it lacks; None if the file has several lines, or is no UTF-8.

    If it is not sure that these are tags, the line must look like them, too.
    """
    try:
        line = older.removeprefix(_MARK).decode()
    except UnicodeDecodeError:
        return None
    bare = line.strip().rstrip(",")
    if len(bare.splitlines()) != 1 or not (is_sure or _list_of(bare)):
        return None
    present = {_key(tag) for tag in (*bare.split(","), *("" if "," in bare else bare).split())}
    new = ", ".join(tag for tag in tags if _key(tag) not in present)
    if not new:
        return older
    ending = line[len(line.rstrip()) :]
    both = f"{new}, {bare}" if existing == "prepend" else f"{bare}, {new}"
    return (both + ending).encode(errors="backslashreplace")


def _has_lines(older: bytes, caption: bytes) -> bool:
    """True when some lines of `older` are the caption."""
    inner, outer = (b"\n%b\n" % text.removeprefix(_MARK).replace(b"\r\n", b"\n") for text in (caption, older))
    return not caption or inner in outer


_MARK = b"\xef\xbb\xbf"  # some editors put it before UTF-8
_JOINED: dict[str, Callable[[bytes, bytes], bytes]] = {
    "append": lambda older, caption: older + (b"\n" if older and not older.endswith(b"\n") else b"") + caption,
    "prepend": lambda older, caption: caption + b"\n" + older.removeprefix(_MARK),
}
